"""What the swap stage can do: restore hands, swap subjects' faces in, restore faces."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import Fraction
from shared.contracts.brief import PROMPT_LIMIT_CHARACTERS
from shared.flux.params import Held, Sampling
from shared.models.name import ModelName
from shared.vision.picks import Picks
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


class DetailParams(Sampling):
    """How FLUX paints crops of the picture anew, each around something that a detector found.

    The algorithm is FaceDetailer's (ComfyUI Impact Pack); names and defaults are its own where it has them.
    """

    detector: ModelName
    min_score: Fraction = Field(default=0.5, description="bbox_threshold: the detector's confidence, at least")
    drop_size: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=10, description="pixels; what is not wider and higher is left alone"
    )
    order: Literal["detector", "left_to_right", "right_to_left", "largest_first", "smallest_first"] = Field(
        default="detector", description="in which they are done, and meant by `prompts`"
    )
    prompts: Annotated[tuple[Annotated[str, Field(max_length=PROMPT_LIMIT_CHARACTERS)], ...], Field(max_length=16)] = (
        Field(
            default=(), description="one each in turn, not `prompt`; `[SKIP]` leaves one alone, `[STOP]` all from there"
        )
    )
    most: Annotated[int, Field(ge=1, le=32)] = Field(default=16, description="the largest so many are done")
    required: bool = Field(default=False, description="fail where nothing is found, instead of passing on")
    dilation: Annotated[int, Field(ge=-512, le=512)] = Field(
        default=10, description="pixels by which the mask grows in all, or shrinks"
    )
    crop_factor: Annotated[float, Field(ge=1.0, le=10.0)] = Field(
        default=3.0, description="how many times as large as what was found the crop is"
    )
    guide_size: Annotated[int, Field(ge=64, le=2048)] = Field(
        default=512, description="pixels that the shorter side is brought to"
    )
    guide_size_for: Literal["bbox", "crop"] = Field(default="bbox", description="of what was found, or of the crop")
    max_size: Annotated[int, Field(ge=64, le=2048, multiple_of=16)] = Field(
        default=1024, description="pixels; the crop's longer side is not enlarged beyond"
    )
    force_inpaint: bool = Field(default=True, description="paint also what is large enough already")
    feather: Annotated[int, Field(ge=0, le=100)] = Field(
        default=5, description="pixels of soft edge where it is laid in"
    )
    noise_mask: bool = Field(default=True, description="paint within the mask alone, not in the whole crop")
    noise_mask_feather: Annotated[int, Field(ge=0, le=100)] = Field(
        default=20, description="pixels of soft edge of that mask; above 0 differential denoising is on"
    )
    denoise: Annotated[float, Field(ge=0.01, le=1.0)] = Field(
        default=0.5, description="how much is painted anew; the number of steps stays"
    )
    cycles: Annotated[int, Field(ge=1, le=4)] = Field(default=1, description="how often, each on the last one's result")
    steps: Annotated[int, Field(ge=1, le=200)] = 20
    max_batch: Annotated[int, Field(ge=1, le=8)] = Field(
        default=4, description="crops of one size that are painted at once, where none overlaps another"
    )


class FluxHandsParams(DetailParams):
    """The same for hands."""

    detector: ModelName = "hand_yolov9c"


class FluxFaceDetailParams(DetailParams, Held):
    """The same for faces, all that are painted held to the subject's identity where the step has one."""

    detector: ModelName = "face_yolov8m"
    encoder: ModelName | Literal["none"] = Field(
        default="none", description="says whose faces are whose, where `whose` asks; antelopev2, for instance"
    )
    whose: Literal["all", "subject"] = Field(
        default="all",
        description="subject leaves other people's faces alone, which all would make theirs; needs the identity",
    )
    min_similarity: Annotated[float, Field(ge=-1.0, le=1.0)] = Field(
        default=0.25, description="cosine of a face's embedding to the subject's at which it is theirs"
    )

    @model_validator(mode="after")
    def _names_who_tells_people_apart(self) -> Self:
        if self.whose == "subject" and self.encoder == "none":
            raise ValueError("whose: subject needs an encoder: name it, for instance encoder: antelopev2")
        return self


class Target(Params):
    """Which face of the picture a subject's is put onto. All that is said must hold; nothing falls through."""

    by: Literal["largest", "index", "position", "likeness"] = "largest"
    order: Literal["largest_first", "smallest_first", "left_to_right", "right_to_left", "top_to_bottom"] = Field(
        default="largest_first", description="what `index` counts in, over all faces of the picture"
    )
    index: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="counted from 1")
    x: Fraction = Field(default=0.5, description="of `position`: the face nearest to it, a share of the width")
    y: Fraction = Field(default=0.5, description="likewise, of the height")
    gender: Literal["any", "female", "male"] = Field(
        default="any", description="checked after the choice: a face of another is not swapped, and no other is taken"
    )
    min_similarity: Annotated[float, Field(ge=-1.0, le=1.0)] = Field(
        default=-1.0, description="cosine to the subject, at least, for the chosen face to be taken"
    )


class FluxFaceParams(Params):
    """How a swapper's network puts subjects' faces onto the picture's, and a restorer sharpens them."""

    model: ModelName = Field(default="inswapper_128", description="the swapper")
    encoder: ModelName = Field(default="buffalo_l", description="finds faces and describes them, as the swapper wants")
    faces: Picks = Field(
        default=(),
        description="of `photos`, one entry each, or none at all: which face is given, 1 = leftmost; null = largest",
    )
    alignment: Literal["insightface", "facefusion"] = Field(
        default="insightface", description="which of the published alignments brings faces upright"
    )
    boost_px: Literal[128, 256, 512, 1024] = Field(
        default=128, description="pixels of the swapped face's side; the swapper's own where that is more"
    )
    targets: Annotated[tuple[Target, ...], Field(max_length=4)] = Field(
        default=(),
        description="one for each subject; none: several are assigned by likeness, one gets the largest face",
    )
    masks: Annotated[
        tuple[Literal["insightface", "box", "parsed", "occlusion"], ...], Field(min_length=1, max_length=4)
    ] = Field(default=("insightface",), description="the swapped face shows where all of them let it")
    box_blur: Fraction = Field(default=0.3, description="soft edge of the mask `box`, share of the face's crop")
    box_padding: tuple[Fraction, Fraction, Fraction, Fraction] = Field(
        default=(0.0, 0.0, 0.0, 0.0), description="left out above, right, below and left, shares of the face's crop"
    )
    parser: ModelName = Field(default="face-parsing", description="of the mask `parsed`")
    occluder: ModelName = Field(default="xseg_1", description="of the mask `occlusion`")
    strength: Fraction = Field(default=1.0, description="opacity of the swapped face")
    colour_match: Fraction = Field(default=0.0, description="how far skin tone and contrast follow the picture's face")
    restorer: ModelName | Literal["none"] = "codeformer"
    restorer_weight: Fraction = Field(default=0.5, description="of CodeFormer: 0 is quality, 1 is fidelity")
    restorer_visibility: Fraction = Field(default=1.0, description="opacity of the restored face")
    restore: Literal["after", "before"] = Field(
        default="after", description="the paste; before it is sharper at the edge of large faces (ReActor's Face Boost)"
    )
    min_score: Fraction = Field(default=0.5, description="of the face detector")
    require_face: bool = Field(default=False, description="fail where no face fits, instead of passing on")


OTHERS = ("photos_2", "photos_3", "photos_4")
"""Photos of further subjects, in the order of `targets`."""

STAGE = Stage(
    name="swap",
    operations=(
        Operation(
            name="swap.hands",
            version=1,
            inputs=("image",),
            outputs=("image",),
            seeded=True,
            engines={
                "portable": EngineSpec(HandsParams, "services.swap.portable_hands:PortableHands"),
                "flux": EngineSpec(FluxHandsParams, "services.swap.flux_hands:FluxHands", smaller_plans=1),
            },
        ),
        Operation(
            name="swap.face",
            version=1,
            inputs=("image", "photos", "identity"),
            optional=OTHERS,
            outputs=("image",),
            seeded=False,
            engines={
                "portable": EngineSpec(FaceParams, "services.swap.portable_face:PortableFace"),
                "flux": EngineSpec(FluxFaceParams, "services.swap.flux_face:FluxFace", revision=2),
            },
        ),
        Operation(
            name="swap.face_detail",
            version=1,
            inputs=("image",),
            optional=("identity",),
            outputs=("image",),
            seeded=True,
            engines={
                "portable": EngineSpec(FaceDetailParams, "services.swap.portable_face_detail:PortableFaceDetail"),
                "flux": EngineSpec(
                    FluxFaceDetailParams, "services.swap.flux_face_detail:FluxFaceDetail", smaller_plans=1
                ),
            },
        ),
    ),
)
