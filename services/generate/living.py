"""How people, plants and buildings are drawn: what the defocused eye reads from a few blobs."""

from collections.abc import Mapping

import numpy as np

from services.generate.colour import Linear
from services.generate.texture import Texture
from services.generate.things import Painter, Palette


def person(texture: Texture, colours: Palette, detail: int, rng: np.random.Generator) -> None:
    """A standing person. Colours: coat, skin, hair, shirt, trousers. Detail 1: from behind; 2: a seated bust."""
    coat, skin, hair, shirt, trousers = colours[0], colours[1], colours[2], colours[3], colours[4]
    if detail == 2:
        _bust(texture, coat, skin, hair, rng)
        return
    texture.rectangle(0.3, 0.5, 0.48, 1.0, trousers)
    texture.rectangle(0.52, 0.5, 0.7, 1.0, trousers * 0.85)
    texture.polygon([(0.06, 0.56), (0.1, 0.24), (0.24, 0.18), (0.26, 0.55), (0.18, 0.58)], coat * 0.82)
    texture.polygon([(0.94, 0.56), (0.9, 0.24), (0.76, 0.18), (0.74, 0.55), (0.82, 0.58)], coat * 0.74)
    texture.polygon([(0.18, 0.21), (0.36, 0.165), (0.64, 0.165), (0.82, 0.21), (0.78, 0.66), (0.22, 0.66)], coat)
    texture.rectangle(0.43, 0.125, 0.57, 0.185, skin * 0.8)
    if detail != 1:
        texture.polygon([(0.4, 0.165), (0.6, 0.165), (0.5, 0.36)], shirt)
    texture.ellipse(0.5, 0.085, 0.2, 0.085, hair)
    if detail != 1:
        texture.ellipse(0.5, 0.1, 0.155, 0.07, skin)
    _round(texture)


def _bust(texture: Texture, coat: Linear, skin: Linear, hair: Linear, rng: np.random.Generator) -> None:
    lean = rng.uniform(-0.04, 0.04)
    texture.polygon([(0.0, 1.0), (0.06, 0.62), (0.36, 0.5), (0.64, 0.5), (0.94, 0.62), (1.0, 1.0)], coat)
    texture.rectangle(0.42 + lean, 0.4, 0.58 + lean, 0.55, skin * 0.8)
    texture.ellipse(0.5 + lean, 0.26, 0.2, 0.24, hair)
    texture.ellipse(0.5 + lean, 0.36, 0.13, 0.1, skin * 0.8)
    _round(texture)


def _round(texture: Texture) -> None:
    """Shade the figure as a round body lit from one side."""
    x = np.linspace(-1, 1, texture.columns, dtype=np.float32)
    texture.shade((1.0 - 0.3 * np.abs(x) ** 1.5 - 0.1 * x)[None, :].astype(np.float32))


def plant(texture: Texture, colours: Palette, detail: int, rng: np.random.Generator) -> None:
    """A potted plant. Colours: pot, leaf, leaf in light. Detail: leaves."""
    texture.polygon([(0.32, 0.72), (0.68, 0.72), (0.62, 1.0), (0.38, 1.0)], colours[0])
    for _ in range(detail or 30):
        turn, reach = rng.uniform(-1.35, 1.35), rng.uniform(0.15, 0.62)
        x, y = 0.5 + 0.62 * reach * np.sin(turn), 0.7 - reach * np.cos(turn)
        mix = rng.uniform()
        leaf = (colours[1] * (1 - mix) + colours[2] * mix) * rng.uniform(0.6, 1.25)
        across, along = 0.035, 0.12
        tip = (x + along * np.sin(turn), y - along * np.cos(turn))
        base = (x - along * np.sin(turn), y + along * np.cos(turn))
        side = (across * np.cos(turn), across * np.sin(turn))
        texture.polygon([base, (x + side[0], y + side[1]), tip, (x - side[0], y - side[1])], leaf)


def foliage(texture: Texture, colours: Palette, detail: int, rng: np.random.Generator) -> None:
    """A tree's crown with the sky glittering through. Colours: leaf in shade, leaf in light, sky. Detail: clusters."""
    for number in range(detail * 12 or 420):
        turn, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform()) * 0.5
        x, y = 0.5 + reach * np.cos(turn), 0.5 + reach * np.sin(turn)
        lit = np.clip(0.75 - y + rng.normal(0, 0.22), 0, 1)
        leaf = colours[0] * (1 - lit) + colours[1] * lit
        size = rng.uniform(0.018, 0.06)
        if number % 9 == 8:
            texture.ellipse(x, y, 0.009, 0.009, colours[2], glow=1.0)
        else:
            texture.ellipse(x, y, size, size, leaf * rng.uniform(0.7, 1.2))


def facade(texture: Texture, colours: Palette, detail: int, rng: np.random.Generator) -> None:
    """A building. Colours: wall, window, lit window. Detail: storeys."""
    texture.gradient(colours[0] * 1.05, colours[0] * 0.85)
    storeys = detail or 5
    across = max(3, round(storeys * texture.columns / texture.rows * 1.3))
    for row in range(storeys):
        for column in range(across):
            left, top = (column + 0.16) / across, (row + 0.2) / storeys
            lit = rng.uniform() < 0.22
            pane = colours[2] if lit else colours[1] * rng.uniform(0.6, 1.3)
            texture.rectangle(left, top, left + 0.68 / across, top + 0.6 / storeys, pane, glow=1.0 if lit else 0.0)


LIVING: Mapping[str, tuple[Painter, tuple[str, ...]]] = {
    "person": (person, ("#eef1f3", "#c98f6e", "#3a2a20", "#4f86a8", "#3b4654")),
    "plant": (plant, ("#d8d4cc", "#2f5a34", "#7fa35c")),
    "foliage": (foliage, ("#2b4a2a", "#9ab85e", "#fff8e0")),
    "facade": (facade, ("#c9c2b6", "#5c7488", "#ffe3b0")),
}
"""Each kind's painter and the colours it takes where none are given."""
