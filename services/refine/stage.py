"""What the refine stage can do: give the picture the tone, the clarity and the grain of a photograph."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.contracts.base import Fraction
from shared.flux.params import Sampling
from shared.models.name import ModelName
from shared.worker.operation import EngineSpec, Operation, Params, Stage


class PhotorealParams(Params):
    """How the picture is finished."""

    tone: Fraction = Field(default=0.35, description="strength of the filmic curve: 0 none, 1 full")
    clarity: Fraction = Field(default=0.2, description="local contrast added: 0 none, 1 doubles it")
    grain: Annotated[float, Field(ge=0.0, le=4.0, description="grain at middle grey, standard deviation in L*")] = 0.7
    grain_size: Annotated[float, Field(ge=0.0, le=3.0, description="softness of a grain, sigma in pixels")] = 0.5


class FluxPhotorealParams(Sampling):
    """How a photographic fine-tune of FLUX paints the picture anew, in tiles where it is large."""

    model: ModelName = Field(default="REAL1SM_V3_FP8", description="folder of the weights, below the models folder")
    steps: Annotated[int, Field(ge=1, le=200)] = 35
    denoise: Annotated[float, Field(ge=0.01, le=1.0)] = Field(
        default=0.4, description="how much is painted anew, by ComfyUI's cut: what it means hangs on the scheduler"
    )
    tile: Annotated[int, Field(ge=256, le=2048, multiple_of=16)] = Field(
        default=1024, description="pixels; a picture with a longer side is painted in tiles of it"
    )
    overlap: Annotated[int, Field(ge=32, le=512, multiple_of=16)] = Field(
        default=128, description="pixels that neighbouring tiles share at least; at most half a tile"
    )

    @model_validator(mode="after")
    def _tiles_lead_on(self) -> Self:
        if 2 * self.overlap > self.tile:
            raise ValueError(f"overlap {self.overlap} is more than half of tile {self.tile}")
        return self


STAGE = Stage(
    name="refine",
    operations=(
        Operation(
            name="refine.photoreal",
            version=1,
            inputs=("image",),
            outputs=("image",),
            seeded=True,
            engines={
                "portable": EngineSpec(PhotorealParams, "services.refine.portable:PortablePhotoreal"),
                "flux": EngineSpec(FluxPhotorealParams, "services.refine.flux:FluxPhotoreal", smaller_plans=1),
            },
        ),
    ),
)
