"""Tables on wide and on narrow terminals, and in files."""

import os
import sys
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.console import Console
from rich.table import Table

from doctor_image_gen.cli import catalogues, console
from tests.unit.typed import Type

NAME = "a-model-with-a-name-that-must-not-be-broken"
LICENCE = "some licence of many words that will not do within one narrow line of a terminal"


def printed(monkeypatch: pytest.MonkeyPatch, width: int, *, terminal: bool) -> str:
    table = Table("model", "size", "licence", "note")
    table.add_row(NAME, "1.2 GB", LICENCE, "")
    said = StringIO()
    for name, columns in (("console", width), ("wide", 200)):
        to_said = Console(file=said, width=columns, force_terminal=terminal, no_color=True, highlight=False)
        monkeypatch.setattr(console, name, to_said)
    console.print_table(table)
    return said.getvalue()


def test_a_table_that_does_not_fit_becomes_paragraphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose lines the terminal breaks cannot be read; nothing of it is left out here."""
    said = printed(monkeypatch, 60, terminal=True)
    assert NAME in said.splitlines()[0]
    assert max(len(line) for line in said.splitlines()[1:]) <= 60
    assert " ".join(said.split()).endswith(f"size: 1.2 GB; licence: {LICENCE}")


@pytest.mark.parametrize(("width", "terminal"), [(180, True), (60, False)])
def test_a_wide_terminal_and_a_file_have_the_table(monkeypatch: pytest.MonkeyPatch, width: int, terminal: bool) -> None:
    (line,) = [line for line in printed(monkeypatch, width, terminal=terminal).splitlines() if NAME in line]
    assert line.split("│")[2:4] == [" 1.2 GB ", f" {LICENCE} "]


def test_what_goes_into_a_file_has_no_colours(type_in: Type) -> None:
    for words in (("models", "list"), ("models", "check", "portrait"), ("scenarios",), ("recipes",)):
        assert "\x1b" not in type_in(*words).out


def test_a_terminal_that_knows_few_letters_has_those_that_it_knows(
    type_in: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under LC_ALL=en_US.ISO-8859-1: the arrows between a recipe's steps are none of its letters."""
    few = TextIOWrapper(BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", few)
    assert type_in("recipes").status == 0
    few.seek(0)
    assert "identity.encode ? generate.text_to_image" in few.read()


def test_a_file_s_name_that_is_no_text_stays_the_file_s_name(type_in: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs read it, too: with another letter in its place it would be another file."""
    written = BytesIO()
    out = TextIOWrapper(written, "utf-8")
    monkeypatch.setattr(sys, "stdout", out)

    def tell(_: object) -> int:
        return 0 * sys.stdout.write(os.fsdecode(b"caf\xe9.png"))

    monkeypatch.setattr(catalogues, "recipes", tell)
    assert type_in("recipes").status == 0
    assert written.getvalue() == b"caf\xe9.png"
