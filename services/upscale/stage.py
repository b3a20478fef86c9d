"""What the upscale stage can do: bring the picture to its final size."""

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Fraction
from shared.worker.operation import EngineSpec, Operation, Params, Stage

Pixels = Annotated[int, Field(ge=512, le=8192)]


class ImageParams(Params):
    """How large the picture becomes, and how."""

    method: Literal["lanczos"] = "lanczos"
    scale: float = Field(
        default=4.0, ge=1.0, le=8.0, description="magnification, at most to the final size, which is then set exactly"
    )
    width: Pixels = Field(default=4096, description="width of the result in pixels")
    height: Pixels = Field(
        default=4096, description="height of the result in pixels; another aspect is cropped evenly from both sides"
    )
    sharpen: Fraction = Field(default=0.35, description="strength of the final sharpening: 0 none, 1 strong")


STAGE = Stage(
    name="upscale",
    operations=(
        Operation(
            name="upscale.image",
            version=1,
            inputs=("image",),
            outputs=("image",),
            seeded=False,
            engines={"portable": EngineSpec(ImageParams, "services.upscale.portable:PortableImage")},
        ),
    ),
)
