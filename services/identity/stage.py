"""What the identity stage can do: tell from one to five photos who the subject is."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import Fraction
from shared.models.name import ModelName
from shared.vision.picks import BACKGROUND_FACE_RATIO, Picks
from shared.worker.operation import EngineSpec, Operation, Params, Stage


class PhotoParams(Params):
    """What a photo must be like to be used, whichever engine measures it."""

    background_face_ratio: Fraction = Field(
        default=BACKGROUND_FACE_RATIO,
        description="faces narrower than this share of the photo's widest face are passers-by and ignored",
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


class EncodeParams(PhotoParams):
    """Which faces are meant, and what a photo must be like to be used."""

    faces: Picks = Field(
        default=(),
        description="one entry a photo, or none at all: which face is meant, 1 = leftmost; null = the only one",
    )
    max_distance: Annotated[
        float, Field(ge=0.1, le=1.0, description="of a photo's face to the consensus; beyond it is another person")
    ] = 0.6


DetectorSize = Annotated[int, Field(ge=128, le=1280, multiple_of=64)]


class FluxEncodeParams(PhotoParams):
    """Which faces are meant, how they are looked for, and how several photos become one identity."""

    model: ModelName = Field(
        default="pulid_flux_v0.9.1",
        description="the identity encoder: of the catalogue, or a folder below the models folder with an "
        "identity_index.json",
    )
    encoder: Literal["antelopev2"] | None = Field(
        default=None, description="finds and recognises faces; null is the one that belongs to the model"
    )
    fusion: Literal["weighted", "mean", "concat", "norm_id", "max_token"] = Field(
        default="weighted", description="how the photos' identity tokens are put together"
    )
    faces: Picks = Field(
        default=(),
        description="one entry a photo, or none at all: which face is meant, 1 = leftmost; null = the largest",
    )
    min_similarity: Annotated[
        float, Field(ge=-1.0, le=1.0, description="cosine of a photo's face to the consensus; below is another person")
    ] = 0.2
    det_size: DetectorSize = Field(default=640, description="side of the detector's first look at a photo, in pixels")
    min_det_size: DetectorSize = Field(
        default=320, description="and of its last: where no face is found it looks again, 64 pixels smaller"
    )
    min_det_score: Annotated[float, Field(ge=0.1, le=0.95)] = Field(
        default=0.5, description="what the detector is less sure of is no face"
    )

    @model_validator(mode="after")
    def _ladder_leads_down(self) -> Self:
        if self.min_det_size > self.det_size:
            raise ValueError(f"min_det_size {self.min_det_size} is above det_size {self.det_size}")
        return self


STAGE = Stage(
    name="identity",
    operations=(
        Operation(
            name="identity.encode",
            version=1,
            inputs=("photos",),
            outputs=("identity", "face"),
            seeded=False,
            engines={
                "portable": EngineSpec(EncodeParams, "services.identity.portable:PortableEncoder", revision=2),
                "flux": EngineSpec(FluxEncodeParams, "services.identity.flux:FluxEncoder", revision=2),
            },
        ),
    ),
)
