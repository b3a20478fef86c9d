"""What the identity stage can do: tell from one to five photos who the subject is."""

from typing import Annotated

from pydantic import Field

from shared.contracts.base import Fraction
from shared.worker.operation import EngineSpec, Operation, Params, Stage

FacePick = Annotated[int, Field(ge=1, le=20)]
"""Which of a photo's faces is meant, counted from the left, the leftmost being 1."""


class EncodeParams(Params):
    """Which faces are meant, and what a photo must be like to be used."""

    faces: Annotated[tuple[FacePick | None, ...], Field(max_length=5)] = Field(
        default=(),
        description="one entry a photo, or none at all: which face is meant, 1 = leftmost; null = the only one",
    )
    background_face_ratio: Fraction = Field(
        default=0.4, description="faces narrower than this share of the photo's widest face are passers-by and ignored"
    )
    min_face_width_px: Annotated[float, Field(ge=40.0, le=1000.0)] = 80.0
    max_yaw_deg: Annotated[float, Field(ge=5.0, le=90.0)] = 45.0
    max_pitch_deg: Annotated[float, Field(ge=5.0, le=90.0)] = 35.0
    min_face_level: Annotated[float, Field(ge=0.0, le=255.0, description="mean grey level of the face, 0 to 255")] = (
        40.0
    )
    max_face_level: Annotated[float, Field(ge=0.0, le=255.0, description="mean grey level of the face, 0 to 255")] = (
        230.0
    )
    min_sharpness: Annotated[
        float,
        Field(
            ge=0.0, le=10000.0, description="variance of the Laplacian of the face at 128 pixels, grey levels squared"
        ),
    ] = 40.0
    max_distance: Annotated[
        float, Field(ge=0.1, le=1.0, description="of a photo's face to the consensus; beyond it is another person")
    ] = 0.6


STAGE = Stage(
    name="identity",
    operations=(
        Operation(
            name="identity.encode",
            version=1,
            inputs=("photos",),
            outputs=("identity", "face"),
            seeded=False,
            engines={"portable": EngineSpec(EncodeParams, "services.identity.portable:PortableEncoder")},
        ),
    ),
)
