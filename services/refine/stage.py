"""What the refine stage can do: give the picture the tone, the clarity and the grain of a photograph."""

from typing import Annotated

from pydantic import Field

from shared.contracts.base import Fraction
from shared.worker.operation import EngineSpec, Operation, Params, Stage


class PhotorealParams(Params):
    """How the picture is finished."""

    tone: Fraction = Field(default=0.35, description="strength of the filmic curve: 0 none, 1 full")
    clarity: Fraction = Field(default=0.2, description="local contrast added: 0 none, 1 doubles it")
    grain: Annotated[float, Field(ge=0.0, le=4.0, description="grain at middle grey, standard deviation in L*")] = 0.7
    grain_size: Annotated[float, Field(ge=0.0, le=3.0, description="softness of a grain, sigma in pixels")] = 0.5


STAGE = Stage(
    name="refine",
    operations=(
        Operation(
            name="refine.photoreal",
            version=1,
            inputs=("image",),
            outputs=("image",),
            seeded=True,
            engines={"portable": EngineSpec(PhotorealParams, "services.refine.portable:PortablePhotoreal")},
        ),
    ),
)
