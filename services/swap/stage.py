"""What the swap stage can do: restore hands, swap the subject's face in, restore faces."""

from typing import Annotated

from pydantic import Field

from shared.contracts.base import Fraction
from shared.worker.operation import EngineSpec, Operation, Params, Stage


class HandsParams(Params):
    """How hands are restored."""

    strength: Fraction = Field(default=0.5, description="local contrast given back: 0 none, 1 strong")
    denoise: Fraction = Field(default=0.35, description="noise taken away: 0 none, 1 all that is finer than an edge")
    max_hands: Annotated[int, Field(ge=1, le=8, description="restore the largest so many")] = 4


class FaceParams(Params):
    """How the subject's face is put onto the picture's largest face."""

    strength: Fraction = Field(default=1.0, description="opacity of the swapped face")
    colour_match: Fraction = Field(default=1.0, description="how far skin tone and contrast follow the picture's face")
    inset: Annotated[float, Field(ge=0.0, le=0.15, description="untouched rim of the face, share of its width")] = 0.03
    feather: Annotated[float, Field(ge=0.02, le=0.4, description="soft edge within, share of its width")] = 0.14
    require_face: bool = Field(default=False, description="fail where the picture shows no face, instead of passing on")


class FaceDetailParams(Params):
    """How faces are restored."""

    strength: Fraction = Field(default=0.4, description="detail given back: 0 none, 1 strong")
    features: Annotated[float, Field(ge=0.0, le=2.0, description="extra share for eyes, brows and mouth")] = 0.5
    max_faces: Annotated[int, Field(ge=1, le=10, description="restore the largest so many")] = 4


STAGE = Stage(
    name="swap",
    operations=(
        Operation(
            name="swap.hands",
            version=1,
            inputs=("image",),
            outputs=("image",),
            seeded=False,
            engines={"portable": EngineSpec(HandsParams, "services.swap.portable_hands:PortableHands")},
        ),
        Operation(
            name="swap.face",
            version=1,
            inputs=("image", "photos", "identity"),
            outputs=("image",),
            seeded=False,
            engines={"portable": EngineSpec(FaceParams, "services.swap.portable_face:PortableFace")},
        ),
        Operation(
            name="swap.face_detail",
            version=1,
            inputs=("image",),
            outputs=("image",),
            seeded=False,
            engines={"portable": EngineSpec(FaceDetailParams, "services.swap.portable_face_detail:PortableFaceDetail")},
        ),
    ),
)
