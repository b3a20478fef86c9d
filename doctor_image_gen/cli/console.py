"""How the commands write: plain text as it is, never cut, no markup read out of people's file names and words."""

from rich.console import Console

console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
errors = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
wide = Console(markup=False, emoji=False, highlight=False, width=200)
"""For tables of ids, which are there to be copied: a narrow terminal breaks the line, but nothing is cut short."""
