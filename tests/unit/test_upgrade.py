"""Documents of other schema versions: older ones are upgraded step by step, newer ones are refused."""

import json
from typing import Any, Literal

import pytest

from shared.contracts import upgrade
from shared.contracts.base import Contract
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.errors import InvalidInput
from shared.contracts.event import Event
from shared.contracts.request import JobRequest
from shared.contracts.step import StepMessage
from shared.contracts.upgrade import Document


class Parcel(Contract):
    """A contract in its third version: `grams` was `kilos` in the second, `colour` was `color` in the first."""

    schema_version: Literal[3] = 3
    colour: str
    grams: int


class Van(Contract):
    """Holds parcels, and has never changed."""

    schema_version: Literal[1] = 1
    parcels: tuple[Parcel, ...] = ()
    spare: Parcel | None = None


def from_1(document: Document) -> Document:
    return {**{key: value for key, value in document.items() if key != "color"}, "colour": document["color"]}


def from_2(document: Document) -> Document:
    return {**{key: value for key, value in document.items() if key != "kilos"}, "grams": document["kilos"] * 1000}


@pytest.fixture(autouse=True)
def upgrades(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "UPGRADES", {("Parcel", 1): from_1, ("Parcel", 2): from_2})


PRESENT = Parcel(colour="red", grams=2000)
FIRST: dict[str, Any] = {"schema_version": 1, "color": "red", "kilos": 2}
SECOND: dict[str, Any] = {"schema_version": 2, "colour": "red", "kilos": 2}


@pytest.mark.parametrize("document", [FIRST, SECOND, PRESENT.model_dump(), {"colour": "red", "grams": 2000}])
def test_any_older_version_becomes_the_present_one(document: dict[str, Any]) -> None:
    assert Parcel.from_json(json.dumps(document)) == PRESENT


def test_what_lies_within_another_document_is_upgraded_there() -> None:
    van = Van.from_json(json.dumps({"parcels": [SECOND, PRESENT.model_dump(), FIRST], "spare": FIRST}))
    assert van == Van(parcels=(PRESENT,) * 3, spare=PRESENT)


@pytest.mark.parametrize(
    ("document", "field", "found"),
    [
        ({**FIRST, "schema_version": 7}, "schema_version", "this is version 7, we read 3"),
        ({**FIRST, "schema_version": 0}, "schema_version", "this is version 0, we read 3, and no way leads from 0"),
        ({"schema_version": 7, "new": 1}, "schema_version", "this is version 7, we read 3"),
        ({**SECOND, "kilos": 0.0015}, "grams", "Input should be a valid integer, found 1.5"),
        ({**SECOND, "wings": 2}, "wings", "there is no such field"),
    ],
)
def test_what_cannot_be_upgraded_says_why(document: dict[str, Any], field: str, found: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Parcel.from_json(json.dumps(document))
    assert refused.value.field == field
    assert refused.value.found.startswith(found)


def test_a_newer_document_within_another_is_named_by_its_path() -> None:
    with pytest.raises(InvalidInput) as refused:
        Van.from_json(json.dumps({"parcels": [SECOND, {"schema_version": 4}]}))
    assert (refused.value.field, refused.value.mend) == ("parcels.1.schema_version", "Run a newer worker.")


@pytest.mark.parametrize("contract", [StepMessage, JobRequest, Event, DeadLetter])
def test_a_newer_message_of_any_kind_is_refused(contract: type[Contract]) -> None:
    with pytest.raises(InvalidInput, match=r"^schema_version: this is version 7, we read 1\. Run a newer worker\.$"):
        contract.from_json(b'{"schema_version": 7, "whatever": "else"}')
