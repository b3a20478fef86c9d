"""What the files of a prompt folder hold: scenarios, photography styles, and the house style."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from shared.contracts.base import Contract, Fraction, Name
from shared.contracts.scene import Framing

KEYWORDS = "photography_keywords"
SUBJECT = "subject"
PEOPLE = "people"

PLACEHOLDER = re.compile(r"\{(\w+)\}")


def _placeholders(text: str, required: set[str], allowed: set[str]) -> str:
    found = PLACEHOLDER.findall(text)
    if not required <= set(found) <= allowed or len(found) != len(set(found)):
        names = ", ".join(f"{{{name}}}" for name in sorted(allowed))
        must = ", ".join(f"{{{name}}}" for name in sorted(required))
        raise ValueError(f"it may hold {names}, each once, and must hold {must}")
    if set(PLACEHOLDER.sub("", text)) & set("{}"):
        raise ValueError("it holds a brace that belongs to no placeholder")
    return text


def _scenario_prompt(text: str) -> str:
    return _placeholders(text, required={KEYWORDS}, allowed={KEYWORDS, SUBJECT})


def _hierarchy(text: str) -> str:
    return _placeholders(text, required={PEOPLE}, allowed={PEOPLE})


Title = Annotated[str, StringConstraints(min_length=1, max_length=80, strip_whitespace=True)]
Sentence = Annotated[str, StringConstraints(max_length=300, strip_whitespace=True)]
Keyword = Annotated[str, StringConstraints(min_length=1, max_length=60, strip_whitespace=True)]
KeywordGroup = Annotated[tuple[Keyword, ...], Field(max_length=5)]
NegativeGroup = Annotated[tuple[Keyword, ...], Field(max_length=16)]


class Scenario(Contract):
    """A situation to show the doctor in. Its key is the name of its file."""

    key: Name
    name: Title
    description: Sentence = ""
    prompt: Annotated[
        str, StringConstraints(max_length=500, strip_whitespace=True), AfterValidator(_scenario_prompt)
    ] = Field(description="with {photography_keywords}, and {subject} where the doctor is to be named")
    focus: Title
    framing: Framing = Framing()
    people: Annotated[tuple[Keyword, ...], Field(max_length=4)] = Field(
        default=(), description="who else is in the scene"
    )
    style: Name = Field(default="editorial", description="photography style where the caller names none")
    attire: Annotated[str, StringConstraints(max_length=120, strip_whitespace=True)] = Field(
        default="", description="worn where the caller does not say"
    )
    backdrop: Name = Field(default="studio", description="the painted scene behind the doctor (portable engines)")
    identity_weight: Fraction | None = Field(
        default=None, description="None: the house's for scenes with other people, else the recipe's"
    )
    negatives: NegativeGroup = ()


class Style(Contract):
    """A manner of photographing. Its key is the name of its file. A group left out is the house's."""

    key: Name
    name: Title
    description: Sentence = ""
    light: KeywordGroup = ()
    camera: KeywordGroup = ()
    manner: KeywordGroup = ()
    negatives: NegativeGroup = ()


class Negatives(Contract):
    """What no picture may show."""

    anatomy: NegativeGroup = Field(description="bad anatomy and distortion")
    artefacts: NegativeGroup = Field(description="watermarks, signatures, digital artefacts")
    unphotographic: NegativeGroup = Field(description="cartoon, anime and other styles that are no photograph")


class House(Contract):
    """What every prompt has in common."""

    light: KeywordGroup
    camera: KeywordGroup
    manner: KeywordGroup
    always: KeywordGroup
    hierarchy: Annotated[str, StringConstraints(max_length=120), AfterValidator(_hierarchy)]
    shared_scene_identity_weight: Fraction
    negatives: Negatives
