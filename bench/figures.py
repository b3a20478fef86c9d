"""A measured figure beside the bound it is held to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """`bound` is the largest value that is well, or the smallest where `at_least`; None where nothing is promised."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = False

    @property
    def held(self) -> bool | None:
        """Whether the bound is held; None where there is none."""
        if self.bound is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def row(self) -> str:
        """A row of a Markdown table."""
        bound = "" if self.bound is None else f"{'≥' if self.at_least else '≤'} {self.bound:g} {self.unit}"
        held = {None: "", True: "held", False: "**not held**"}[self.held]
        return f"| {self.name} | {self.value:.3g} {self.unit} | {bound} | {held} |"


HEADER = "| figure | measured | bound | |\n|---|---|---|---|"
