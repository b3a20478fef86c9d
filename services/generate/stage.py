"""What the generate stage can do: the subject in a scene."""

from typing import Annotated

from pydantic import Field

from shared.contracts.base import Fraction
from shared.contracts.scene import Backdrop, Framing
from shared.worker.operation import EngineSpec, Operation, Params, Stage

Side = Annotated[int, Field(ge=512, le=2048)]


class ComposeParams(Params):
    """How the portable engine puts the subject, cut from their photo, into a painted scene.

    The words of the prompt change no pixel here, so they are no parameters: another wording is the same step.
    """

    width: Side = Field(default=1024, description="pixels")
    height: Side = Field(default=1024, description="pixels")
    backdrop: Backdrop = Field(default=Backdrop(), description="the scene to paint")
    framing: Framing = Field(
        default=Framing(), description="where the face goes; moved where the photo's edge would show"
    )
    exposure_match: Fraction = Field(
        default=0.7, description="how far the subject's brightness follows the scene's light"
    )
    colour_match: Fraction = Field(default=0.6, description="how far the subject's colours follow the scene's light")
    direction_match: Fraction = Field(default=0.7, description="how far the subject is lit from the scene's key light")
    light_wrap: Fraction = Field(default=0.5, description="glow of the scene over the subject's outline")
    restoration: Fraction = Field(default=0.35, description="sharpening of an enlarged photo")


STAGE = Stage(
    name="generate",
    operations=(
        Operation(
            name="generate.text_to_image",
            version=1,
            inputs=("photos", "identity"),
            outputs=("image",),
            seeded=True,
            engines={"portable": EngineSpec(ComposeParams, "services.generate.portable:PortableGenerate")},
        ),
    ),
)
