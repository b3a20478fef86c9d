"""What the qa stage can do: judge a finished picture."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from services.qa.encoders import has_a_part
from shared.contracts.base import Fraction
from shared.contracts.verdict import SAME_PERSON
from shared.models.name import ModelName
from shared.vision.picks import Picks
from shared.worker.operation import EngineSpec, Operation, Params, Stage

Pixels = Annotated[int, Field(ge=64, le=16384)]
GreyLevel = Annotated[float, Field(ge=0.0, le=255.0)]
Sharpness = Annotated[float, Field(ge=0.0, le=10000.0)]


class ScoreParams(Params):
    """What a picture must be like to pass. Grey levels are 0 to 255."""

    width: Pixels = Field(default=4096, description="expected, pixels")
    height: Pixels = Field(default=4096, description="expected, pixels")
    min_likeness: Annotated[float, Field(ge=SAME_PERSON, le=1.0)] = SAME_PERSON
    brightest_level_above: GreyLevel = 200.0
    darkest_level_below: GreyLevel = 50.0
    level_spread_above: GreyLevel = Field(default=30.0, description="standard deviation of the grey levels")
    mean_level_above: GreyLevel = Field(default=8.0, description="a picture whose mean is not above is called black")
    min_face_width_share: Fraction = Field(default=0.15, description="of the main face, share of the picture's width")
    max_face_width_share: Fraction = Field(default=0.25, description="of the main face, share of the picture's width")
    max_faces: Annotated[int, Field(ge=1, le=50, description="in the whole picture, with those in the background")] = 8
    min_face_sharpness: Sharpness = Field(
        default=40.0, description="variance of the Laplacian of the main face's FFHQ crop at 256 pixels"
    )
    min_picture_sharpness: Sharpness = Field(
        default=20.0, description="variance of the Laplacian of the picture at 512 pixels on its longer side"
    )


class FluxScoreParams(ScoreParams):
    """The same by networks that had no part in making the picture."""

    detector: ModelName = Field(default="yunet", description="finds faces; YuNet's interface")
    recogniser: ModelName = Field(
        default="auraface",
        description="describes them; ArcFace's interface, and no part in making pictures: antelopev2's and buffalo_l's "
        "are refused",
    )
    faces: Picks = Field(
        default=(),
        description="one entry a photo, or none at all: whose face is meant, 1 = leftmost; null = likest the others'",
    )
    hand_detector: ModelName | Literal["none"] = Field(
        default="hand_yolov9c", description="a YOLO; none: hands are not looked for"
    )
    same_person_cosine: Annotated[float, Field(ge=0.05, le=0.95)] = Field(
        default=0.35, description="cosine of two faces' embeddings that counts as likeness 0.60"
    )
    max_hands: Annotated[int, Field(ge=0, le=50, description="in the whole picture")] = 6
    max_leak: Fraction = Field(default=0.5, description="likeness that no other face of the picture may have")
    max_blockiness: Annotated[float, Field(ge=1.0, le=10.0)] = Field(
        default=1.6,
        description="steps at the edges of 8 x 8 or 16 x 16 blocks, over those elsewhere; a photo saved as JPEG of "
        "quality 30 measures about that",
    )
    max_clipped: Fraction = Field(default=0.2, description="share of pixels that are wholly black or white")

    @model_validator(mode="after")
    def _judge_is_no_party(self) -> Self:
        pack = has_a_part(self.recogniser)
        if pack is not None:
            raise ValueError(f"recogniser {self.recogniser} is an encoder by which pictures are made; name auraface")
        return self


STAGE = Stage(
    name="qa",
    operations=(
        Operation(
            name="qa.score",
            version=1,
            inputs=("image", "identity"),
            optional=("photos",),
            outputs=("verdict",),
            seeded=False,
            engines={
                "portable": EngineSpec(ScoreParams, "services.qa.portable:PortableScorer"),
                "flux": EngineSpec(FluxScoreParams, "services.qa.flux:FluxScorer", revision=2),
            },
        ),
    ),
)
