"""How each kind of furnishing is drawn. A painter gets a texture, colours, a level of detail and random numbers."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from services.generate.colour import Linear, linear_of
from services.generate.texture import Texture

Palette: TypeAlias = list[Linear]
Painter: TypeAlias = Callable[[Texture, Palette, int, np.random.Generator], None]


def panel(texture: Texture, colours: Palette, _: int, __: np.random.Generator) -> None:
    """A flat surface: one colour, or from the first above to the second below. Shines all over where lit."""
    texture.gradient(colours[0], colours[-1] if len(colours) > 1 else colours[0] * 0.9, glow=1.0)


def window(texture: Texture, colours: Palette, detail: int, rng: np.random.Generator) -> None:
    """Daylight: sky above, sky at the horizon, frame, trees outside. Detail: panes across."""
    sky, horizon, frame, trees = colours[0], colours[1], colours[2], colours[3]
    texture.gradient(sky, horizon, glow=1.0)
    for _ in range(26):
        x, y = rng.uniform(-0.05, 1.05), rng.uniform(0.62, 1.05)
        texture.ellipse(x, y, rng.uniform(0.03, 0.12), rng.uniform(0.03, 0.1), trees * rng.uniform(0.5, 1.5), glow=0.55)
    panes = detail or 3
    bar = 0.028
    for number in range(panes + 1):
        at = number * (1 - bar) / panes
        texture.rectangle(at, 0, at + bar, 1, frame)
    for top in (0.0, 0.3, 1 - bar):
        texture.rectangle(0, top, 1, top + bar, frame)


def blinds(texture: Texture, colours: Palette, detail: int, rng: np.random.Generator) -> None:
    """Slats with daylight between them. Colours: slat, daylight. Detail: slats."""
    slats = detail or 16
    texture.gradient(colours[1], colours[1], glow=1.0)
    for number in range(slats):
        top = number / slats
        texture.rectangle(0, top, 1, top + rng.uniform(0.5, 0.62) / slats, colours[0], glow=0.35)


def curtain(texture: Texture, colours: Palette, detail: int, rng: np.random.Generator) -> None:
    """Cloth in folds. Detail: folds."""
    texture.gradient(colours[0], colours[-1])
    x = np.linspace(0, 1, texture.columns, dtype=np.float32)
    folds = detail or 7
    wave = np.sin(2 * np.pi * (folds * x + 0.4 * np.sin(2 * np.pi * (x * 1.7 + rng.uniform())))) * 0.26
    texture.shade((0.86 + wave).astype(np.float32)[None, :])


def shelf(texture: Texture, colours: Palette, detail: int, rng: np.random.Generator) -> None:
    """Boards with books, binders and gaps. Colours: wood, inside, then the backs of the books. Detail: boards."""
    wood, inside, books = colours[0], colours[1], colours[2:]
    texture.gradient(wood, wood)
    boards = detail or 5
    high = 1 / boards
    for board in range(boards):
        top, bottom = board * high + 0.08 * high, (board + 1) * high - 0.05 * high
        texture.rectangle(0.02, top, 0.98, bottom, inside)
        x = 0.03 + rng.uniform(0, 0.05)
        while x < 0.93:
            if rng.uniform() < 0.16:
                x += rng.uniform(0.05, 0.16)
                continue
            thick, tall = rng.uniform(0.02, 0.055), rng.uniform(0.5, 0.86)
            colour = books[rng.integers(len(books))] * rng.uniform(0.6, 1.2)
            texture.rectangle(x, bottom - tall * (bottom - top), min(x + thick, 0.97), bottom, colour)
            x += thick + 0.003


def screen(texture: Texture, colours: Palette, detail: int, rng: np.random.Generator) -> None:
    """A lit display. Colours: background, ink, accent, bezel. Detail 1: a caller's face; 2: a slide; else charts."""
    ground, ink, accent, bezel = colours[0], colours[1], colours[2], colours[3]
    texture.gradient(bezel, bezel)
    texture.rectangle(0.025, 0.035, 0.975, 0.965, ground, glow=1.0)
    if detail == 1:
        _caller(texture, ink, accent)
    elif detail == 2:
        texture.rectangle(0.1, 0.14, 0.62, 0.24, ink, glow=1.0)
        for row in range(4):
            texture.rectangle(
                0.1, 0.36 + 0.12 * row, 0.1 + rng.uniform(0.25, 0.42), 0.4 + 0.12 * row, ink * 0.7, glow=1.0
            )
        texture.ellipse(0.75, 0.55, 0.15, 0.27, accent, glow=1.0)
        texture.ellipse(0.75, 0.55, 0.075, 0.135, ground, glow=1.0)
    else:
        texture.rectangle(0.05, 0.08, 0.3, 0.92, accent * 0.5, glow=1.0)
        for number in range(7):
            left, tall = 0.36 + 0.085 * number, rng.uniform(0.15, 0.6)
            texture.rectangle(left, 0.88 - tall, left + 0.05, 0.88, accent if number % 3 else ink, glow=1.0)


def _caller(texture: Texture, ink: Linear, accent: Linear) -> None:
    texture.ellipse(0.5, 1.05, 0.3, 0.42, accent, glow=0.9)
    texture.ellipse(0.5, 0.48, 0.13, 0.25, ink, glow=0.9)
    texture.ellipse(0.5, 0.3, 0.14, 0.13, ink * 0.2, glow=0.9)
    texture.rectangle(0.78, 0.72, 0.94, 0.9, accent * 0.6, glow=0.9)


def picture(texture: Texture, colours: Palette, detail: int, rng: np.random.Generator) -> None:
    """A framed print. Colours: frame, mount, then the print. Detail: strokes."""
    frame, mount, inks = colours[0], colours[1], colours[2:]
    texture.gradient(frame, frame)
    texture.rectangle(0.05, 0.05, 0.95, 0.95, mount)
    texture.rectangle(0.16, 0.16, 0.84, 0.84, inks[0])
    for _ in range(detail or 5):
        x, y = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7)
        ink = inks[rng.integers(len(inks))]
        texture.ellipse(x, y, rng.uniform(0.04, 0.14), rng.uniform(0.04, 0.14), ink)


def lamp(texture: Texture, colours: Palette, detail: int, _: np.random.Generator) -> None:
    """A round light. Detail: a cluster of so many lights, as over an operating table. Colours: light, housing."""
    if not detail:
        texture.ellipse(0.5, 0.5, 0.5, 0.5, colours[0], glow=1.0)
        return
    texture.ellipse(0.5, 0.5, 0.5, 0.5, colours[1])
    texture.ellipse(0.5, 0.5, 0.12, 0.12, colours[0], glow=1.0)
    for number in range(detail):
        turn = 2 * np.pi * number / detail
        texture.ellipse(0.5 + 0.32 * np.cos(turn), 0.5 + 0.32 * np.sin(turn), 0.11, 0.11, colours[0], glow=1.0)


def sparkle(texture: Texture, colours: Palette, detail: int, rng: np.random.Generator) -> None:
    """Points of light scattered over the area, which defocus turns into discs. Detail: points."""
    for _ in range(detail or 24):
        x, y, size = rng.uniform(0.02, 0.98), rng.uniform(0.02, 0.98), rng.uniform(0.7, 1.6)
        colour = colours[rng.integers(len(colours))] * rng.uniform(0.25, 1.0)
        texture.ellipse(x, y, size / texture.columns, size / texture.rows, colour, glow=1.0)


def glassware(texture: Texture, colours: Palette, detail: int, rng: np.random.Generator) -> None:
    """Flasks and bottles with coloured liquid. Colours: glass, then the liquids. Detail: vessels."""
    vessels = detail or 6
    wide = 1 / vessels
    for number in range(vessels):
        middle, tall = (number + 0.5) * wide, rng.uniform(0.55, 1.0)
        liquid = colours[1:][rng.integers(len(colours) - 1)]
        top = 1 - tall
        level = 1 - tall * rng.uniform(0.3, 0.55)
        if rng.uniform() < 0.5:
            body, neck = wide * 0.42, wide * 0.12
            texture.polygon(
                [(middle - neck, top), (middle + neck, top), (middle + body, 1), (middle - body, 1)], colours[0]
            )
            texture.polygon(
                [(middle - body * 0.66, level), (middle + body * 0.66, level), (middle + body, 1), (middle - body, 1)],
                liquid,
                glow=0.4,
            )
        else:
            body = wide * rng.uniform(0.2, 0.34)
            texture.rectangle(middle - body, top, middle + body, 1, colours[0])
            texture.rectangle(middle - body, level, middle + body, 1, liquid, glow=0.4)
        texture.rectangle(
            middle - wide * 0.14, top + 0.1 * tall, middle - wide * 0.08, 0.94, colours[0] * 1.6, glow=1.0
        )


def bed(texture: Texture, colours: Palette, _: int, __: np.random.Generator) -> None:
    """A hospital bed from the side, its head to the left. Colours: sheet, blanket, frame, board."""
    sheet, blanket, frame, board = colours[0], colours[1], colours[2], colours[3]
    texture.rectangle(0.0, 0.05, 0.045, 0.8, board)
    texture.rectangle(0.955, 0.3, 1.0, 0.8, board)
    texture.rectangle(0.03, 0.66, 0.97, 0.76, frame)
    texture.rectangle(0.04, 0.42, 0.96, 0.68, sheet)
    texture.polygon([(0.05, 0.44), (0.08, 0.2), (0.2, 0.16), (0.31, 0.4), (0.31, 0.46)], sheet * 1.1)
    texture.polygon([(0.36, 0.6), (0.4, 0.36), (0.7, 0.32), (0.95, 0.38), (0.96, 0.64)], blanket)
    texture.rectangle(0.34, 0.5, 0.8, 0.53, frame * 1.4)
    for x in (0.12, 0.86):
        texture.rectangle(x, 0.76, x + 0.025, 0.98, frame * 0.7)


def chair(texture: Texture, colours: Palette, _: int, __: np.random.Generator) -> None:
    """An office chair from the front. Colours: cover, legs."""
    texture.polygon([(0.14, 0.55), (0.18, 0.02), (0.82, 0.02), (0.86, 0.55)], colours[0])
    texture.rectangle(0.06, 0.52, 0.94, 0.66, colours[0] * 0.8)
    texture.rectangle(0.46, 0.66, 0.54, 0.92, colours[1])
    texture.rectangle(0.15, 0.92, 0.85, 0.97, colours[1])


PAINTERS: Mapping[str, tuple[Painter, tuple[str, ...]]] = {
    "panel": (panel, ("#e6e8ea",)),
    "window": (window, ("#dbe9fb", "#fdf6e8", "#e9ebee", "#7d9a6a")),
    "blinds": (blinds, ("#e8e6e0", "#fff6e6")),
    "curtain": (curtain, ("#cfd8d6",)),
    "shelf": (shelf, ("#a98763", "#6d553f", "#8e3b36", "#2f4a63", "#c9b48a", "#4d6b57", "#e3ded2")),
    "screen": (screen, ("#eaf2fb", "#1f3e63", "#3f8fd2", "#16181b")),
    "picture": (picture, ("#4a3a2c", "#f4f1ea", "#9fb6c4", "#d8a65f", "#5e7f7a")),
    "lamp": (lamp, ("#fff1dc", "#d9dde0")),
    "sparkle": (sparkle, ("#ffe2b8", "#fff4e0", "#cfe4ff")),
    "glassware": (glassware, ("#dfeaf0", "#3aa0c9", "#e0a030", "#57b37a", "#c85a7c")),
    "bed": (bed, ("#f2f4f5", "#8fb7c9", "#aab2b8", "#c7b08e")),
    "chair": (chair, ("#2e3a46", "#8a9096")),
}
"""Each kind's painter and the colours it takes where none are given."""


def palette(given: tuple[str, ...], usual: tuple[str, ...]) -> Palette:
    """The colours given, the rest filled up from the usual ones."""
    return [linear_of(colour) for colour in given + usual[len(given) :]]
