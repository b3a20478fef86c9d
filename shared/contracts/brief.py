"""What the prompt compiler makes of a scenario, a style and the caller's words."""

from typing import Annotated

from pydantic import Field, StringConstraints

from shared.contracts.base import Contract, Fraction, Name
from shared.contracts.scene import Backdrop, Framing

PROMPT_LIMIT_CHARACTERS = 1800


class Brief(Contract):
    """All that the engines are told of the picture to make. A recipe's steps take the fields they name."""

    scenario: Name
    scenario_name: str = Field(description="as people read it, e.g. 'Medical Consultation'")
    style: Name
    prompt: Annotated[str, StringConstraints(min_length=1, max_length=PROMPT_LIMIT_CHARACTERS)]
    negative_prompt: Annotated[str, StringConstraints(max_length=2 * PROMPT_LIMIT_CHARACTERS)]
    focus: str = Field(description="what the picture should convey")
    framing: Framing
    backdrop: Backdrop
    people: tuple[str, ...] = Field(default=(), description="who else is in the scene, behind the doctor")
    identity_weight: Fraction | None = Field(
        default=None, description="how strongly the face is held to the doctor's; None leaves it to the recipe"
    )
