"""How the commands write: plain text as it is, never cut, no markup read out of people's file names and words."""

from textwrap import fill

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
errors = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
wide = Console(markup=False, emoji=False, highlight=False, width=200)

NARROWEST = 40


def print_table(table: Table) -> None:
    """Print a table of strings. Names and ids are there to be copied, so nothing is cut short or broken.

    On a terminal that is too narrow for the table each row becomes a paragraph: its first cell, and below it the others
    with their headings. Files and pipes have the table.
    """
    needed = min(Measurement.get(wide, wide.options, table).maximum, wide.width)
    if not console.is_terminal or needed <= console.width:
        wide.print(table)
        return
    headings = [str(column.header) for column in table.columns]
    for first, *others in zip(*(column.cells for column in table.columns), strict=True):
        console.print(str(first), style="bold")
        said = [f"{heading}: {cell}" for heading, cell in zip(headings[1:], others, strict=True) if str(cell)]
        words = "; ".join(said).replace("\n", ", ")
        margin = "  "
        width = max(console.width, NARROWEST)
        console.print(
            fill(
                words,
                width,
                initial_indent=margin,
                subsequent_indent=margin,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
