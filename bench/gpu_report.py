"""What the GPU's benchmark of a recipe has found, as a table."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Final

import torch

from bench.figures import HEADER, Figure
from bench.gpu_machine import AIMED_AT, Machine

PLAIN, OURS, OURS_FP8 = "plain", "ours", "ours, fp8"
AIM_S: Final = {OURS: 40.0, OURS_FP8: 20.0}
"""On the machine that it is meant for."""
BESIDE: Final = "upscale by network"
"""No part of the sum."""


@dataclass(frozen=True)
class Measured:
    """A stage in one way.

    Attributes:
        seconds: it took.
        first_s: the run before it took, which compiles.
        peak_gb: of torch's memory on the device.
        told: what it was about: steps, crops.
        limit: the arithmetic limit of its sampling in seconds, in bf16 and in fp8.
    """

    seconds: float
    first_s: float
    peak_gb: float
    told: str
    limit: tuple[float, float]


@dataclass
class Report:
    """What has been found, and what is left of the time."""

    machine: Machine
    deadline: float
    out: Path | None
    device_name: str
    found: dict[tuple[str, str], Measured] = field(default_factory=dict)
    """By stage and way."""
    ways: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """A line of progress, with the seconds that are left."""
        print(f"[{self.deadline - perf_counter():5.0f} s left] {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """What a reader of the table must know."""
        self.say(text)
        if text not in self.notes:
            self.notes.append(text)

    def total(self, way: str) -> float | None:
        """The recipe's seconds; None where a stage is missing."""
        mine = [self.found.get((stage, way)) for stage in self.stages if stage != BESIDE]
        known = [one.seconds for one in mine if one is not None]
        return sum(known) if known and len(known) == len(mine) else None

    def write(self) -> str:
        """The table as it stands; to the file, too."""
        columns = [f"{way}, s | first run, s | peak, GB" for way in self.ways]
        lines = [
            f"{self.device_name}, torch {torch.__version__}\n",
            f"| stage | {' | '.join(columns)} |",
            f"|---{'|---' * 3 * len(self.ways)}|",
            *map(self._row, self.stages),
            f"| **the recipe** | {' | '.join(_total(self.total(way)) for way in self.ways)} |\n",
            HEADER,
            *(figure.row() for figure in self._figures()),
            *(f"\n{note}" for note in self.notes),
        ]
        table = "\n".join(lines)
        if self.out:
            self.out.write_text(table + "\n", "utf-8")
        return table

    def _row(self, stage: str) -> str:
        mine = [self.found.get((stage, way)) for way in self.ways]
        told = next((one.told for one in mine if one is not None), "")
        beside = " (no part of the sum)" if stage == BESIDE else ""
        return f"| {stage}{told}{beside} | {' | '.join(map(self._cells, mine))} |"

    def _cells(self, one: Measured | None) -> str:
        if one is None:
            return "left out | | "
        peak = "" if self.machine.small else f"{one.peak_gb:.1f}"
        return f"{one.seconds:.2f} | {one.first_s:.2f} | {peak}"

    def _figures(self) -> Iterator[Figure]:
        """The recipe's seconds beside what is aimed at, how far the settings lead, and what arithmetic allows."""
        plain = self.total(PLAIN)
        for way in self.ways:
            total = self.total(way)
            if total is None:
                continue
            yield Figure(f"the recipe, {way}", total, "s", AIM_S.get(way) if AIMED_AT in self.device_name else None)
            if plain is not None and way != PLAIN:
                yield Figure(f"the recipe: {PLAIN} / {way}", plain / total, "")
            if not self.machine.small:
                limits = [self.found[stage, way].limit for stage in self.stages]
                limit = sum(narrow if way == OURS_FP8 else wide for wide, narrow in limits)
                yield Figure(f"of it, the arithmetic limit of sampling, {way}", limit, "s")


def _total(seconds: float | None) -> str:
    return " | | " if seconds is None else f"{seconds:.2f} | | "
