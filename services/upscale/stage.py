"""What the upscale stage can do: bring the picture to its final size."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import Fraction
from shared.models.name import ModelName
from shared.worker.operation import EngineSpec, Operation, Params, Stage

Pixels = Annotated[int, Field(ge=512, le=8192)]


class SizeParams(Params):
    """How large the picture becomes."""

    scale: float = Field(
        default=4.0, ge=1.0, le=8.0, description="magnification, at most to the final size, which is then set exactly"
    )
    width: Pixels = Field(default=4096, description="width of the result in pixels")
    height: Pixels = Field(
        default=4096, description="height of the result in pixels; another aspect is cropped evenly from both sides"
    )
    sharpen: Fraction = Field(default=0.35, description="strength of the final sharpening: 0 none, 1 strong")


class ImageParams(SizeParams):
    """How the portable engine enlarges."""

    method: Literal["lanczos"] = "lanczos"


class FluxImageParams(SizeParams):
    """The same, by a network of the ESRGAN family in tiles, brought to the exact size by Lanczos."""

    method: Literal["lanczos", "network"] = "lanczos"
    upscaler: ModelName | Literal["none"] = Field(
        default="none", description="of the method `network`; 4x-UltraSharp, for instance"
    )
    tile: Annotated[int, Field(ge=64, le=4096)] | None = Field(
        default=None,
        description="pixels of a tile's side in the picture that comes in; null takes the largest of 512, 256, 128 and "
        "64 that fits into free memory",
    )
    overlap: Annotated[int, Field(ge=8, le=256)] = Field(
        default=32, description="pixels that a tile sees beyond each of its edges"
    )
    face_restorer: ModelName | Literal["none"] = Field(default="none", description="sharpens faces afterwards")
    face_restorer_weight: Fraction = Field(default=0.5, description="of CodeFormer: 0 is quality, 1 is fidelity")
    face_visibility: Fraction = Field(default=1.0, description="opacity of the restored faces")
    face_encoder: ModelName | Literal["none"] = Field(
        default="none", description="finds the faces that are sharpened; antelopev2, for instance"
    )

    @model_validator(mode="after")
    def _names_what_it_uses(self) -> Self:
        if self.method == "network" and self.upscaler == "none":
            raise ValueError("method: network needs an upscaler: name it, for instance upscaler: 4x-UltraSharp")
        if self.face_restorer != "none" and self.face_encoder == "none":
            raise ValueError("a face restorer needs a face_encoder: name it, for instance face_encoder: antelopev2")
        return self


STAGE = Stage(
    name="upscale",
    operations=(
        Operation(
            name="upscale.image",
            version=1,
            inputs=("image",),
            outputs=("image",),
            seeded=False,
            engines={
                "portable": EngineSpec(ImageParams, "services.upscale.portable:PortableImage"),
                "flux": EngineSpec(FluxImageParams, "services.upscale.flux:FluxImage", smaller_plans=2),
            },
        ),
    ),
)
