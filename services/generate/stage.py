"""What the generate stage can do: the subject in a scene."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import Fraction
from shared.contracts.brief import PROMPT_LIMIT_CHARACTERS
from shared.contracts.scene import Backdrop, Framing
from shared.flux.params import Held, Sampling
from shared.models.name import ModelName
from shared.worker.operation import EngineSpec, Operation, Params, Stage

Side = Annotated[int, Field(ge=512, le=2048)]
FluxSide = Annotated[int, Field(ge=64, le=2048, multiple_of=16)]


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


class Control(Params):
    """A drawing that the scene is to follow: the picture at `control`, `control_2` or `control_3`, in this order."""

    kind: Literal["canny", "openpose", "depth", "scribble", "seg"] = Field(description="what the drawing is")
    model: ModelName = Field(default="flux-controlnet-union-pro-2.0", description="the ControlNet's weights")
    strength: Annotated[float, Field(ge=0.0, le=2.0)] = 0.7
    start: Fraction = Field(default=0.0, description="share of the steps before it acts")
    end: Fraction = Field(default=0.8, description="share of the steps after which it no longer acts")
    from_picture: bool = Field(
        default=False, description="the picture is an ordinary one, and its edges are drawn first (canny, scribble)"
    )

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if self.from_picture and self.kind not in {"canny", "scribble"}:
            raise ValueError(f"'{self.kind}' is not drawn here: hand the drawing in ready, with from_picture: false")
        return self


class Region(Params):
    """Where in the picture one of several people is to be, in shares of its width and height."""

    left: Fraction
    top: Fraction = 0.0
    right: Fraction
    bottom: Fraction = 1.0
    feather: Annotated[float, Field(ge=0.0, le=0.5)] = Field(
        default=0.05, description="width of the soft edge, a share of the picture's longer side"
    )

    @model_validator(mode="after")
    def _has_an_area(self) -> Self:
        if self.left >= self.right or self.top >= self.bottom:
            raise ValueError("a region's right is above its left, and its bottom above its top")
        return self


class FluxParams(Sampling, Held):
    """How FLUX paints the scene from words, with the subject's identity held by PuLID."""

    width: FluxSide = Field(default=1024, description="pixels, a multiple of 16")
    height: FluxSide = Field(default=1024, description="pixels, a multiple of 16")
    regions: Annotated[tuple[Region, ...], Field(max_length=4)] = Field(
        default=(), description="one for each identity, in the order of the inputs; none for one person everywhere"
    )
    controls: Annotated[tuple[Control, ...], Field(max_length=3)] = Field(
        default=(), description="one for each control picture, in the order of the inputs"
    )
    ip_adapter: ModelName | None = Field(
        default=None, description="reads the picture at `style`; must be named where there is one"
    )
    ip_adapter_weight: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        default=0.6, description="how strongly the picture follows the one at `style`"
    )


class FluxImageParams(FluxParams):
    """The same, from a picture instead of from noise alone."""

    denoise: Annotated[float, Field(ge=0.01, le=1.0)] = Field(
        default=0.6, description="how much is painted anew: 1 is everything"
    )
    schedule_cut: Literal["comfy", "strength"] = Field(
        default="comfy",
        description="comfy takes the last `steps` of a longer schedule; strength, as diffusers, takes fewer steps",
    )


class EditParams(Params):
    """How an editing model, which sees the subject's photos beside the prompt, makes the picture."""

    model: ModelName = Field(description="folder of the weights, below the models folder")
    instruction: Annotated[str, Field(max_length=400)] = Field(
        default="A new photograph of exactly the person shown, with the same face, age, hair and skin:",
        description="what stands before the prompt: these models are told what to do, not only what to show",
    )
    prompt: Annotated[str, Field(max_length=PROMPT_LIMIT_CHARACTERS)] = Field(
        default="", description="what the picture is to show"
    )
    width: FluxSide = Field(default=1024, description="pixels, a multiple of 16")
    height: FluxSide = Field(default=1024, description="pixels, a multiple of 16")
    steps: Annotated[int, Field(ge=1, le=200)] = 28
    cfg: Annotated[float, Field(ge=1.0, le=20.0)] = Field(
        default=1.0, description="true classifier-free guidance; other than 1 it doubles the time"
    )


class KontextParams(EditParams):
    """The same for FLUX.1 Kontext [dev]."""

    model: ModelName = Field(default="flux1-kontext-dev", description="folder of the weights, below the models folder")
    negative_prompt: Annotated[str, Field(max_length=2 * PROMPT_LIMIT_CHARACTERS)] = Field(
        default="", description="what it is not to show; acts where cfg is not 1"
    )
    guidance: Annotated[float, Field(ge=0.0, le=20.0)] = Field(
        default=2.5, description="the distilled guidance that the model is told"
    )


class KleinParams(EditParams):
    """The same for FLUX.2 [klein] 4B, which is distilled to four steps and knows no negative prompt."""

    model: ModelName = Field(default="flux2-klein-4b", description="folder of the weights, below the models folder")
    steps: Annotated[int, Field(ge=1, le=200)] = 4
    cfg: Annotated[float, Field(ge=1.0, le=20.0)] = Field(
        default=1.0, description="true guidance, away from no words at all; only for weights that are not distilled"
    )


class QwenEditParams(EditParams):
    """The same for Qwen-Image-Edit."""

    model: ModelName = Field(
        default="qwen-image-edit-2511", description="folder of the weights, below the models folder"
    )
    negative_prompt: Annotated[str, Field(max_length=2 * PROMPT_LIMIT_CHARACTERS)] = Field(
        default="", description="what it is not to show; acts where cfg is not 1"
    )
    steps: Annotated[int, Field(ge=1, le=200)] = 40
    cfg: Annotated[float, Field(ge=1.0, le=20.0)] = Field(
        default=4.0, description="true classifier-free guidance; 1 takes half the time"
    )


IDENTITIES = ("identity", "identity_2", "identity_3", "identity_4")
CONTROLS = ("control", "control_2", "control_3")
EXTRA = (*IDENTITIES[1:], *CONTROLS, "style")
"""Inputs that only some recipes give: further people, drawings to follow, a picture to take the style from."""


STAGE = Stage(
    name="generate",
    operations=(
        Operation(
            name="generate.text_to_image",
            version=1,
            inputs=("photos", "identity"),
            optional=EXTRA,
            outputs=("image",),
            seeded=True,
            engines={
                "portable": EngineSpec(ComposeParams, "services.generate.portable:PortableGenerate"),
                "flux": EngineSpec(FluxParams, "services.generate.flux:FluxGenerate", smaller_plans=1),
                "kontext": EngineSpec(KontextParams, "services.generate.edit.engine:kontext", smaller_plans=1),
                "klein": EngineSpec(KleinParams, "services.generate.edit.engine:klein", smaller_plans=1),
                "qwen": EngineSpec(QwenEditParams, "services.generate.edit.engine:qwen", smaller_plans=1),
            },
        ),
        Operation(
            name="generate.image_to_image",
            version=1,
            inputs=("image", "photos", "identity"),
            optional=EXTRA,
            outputs=("image",),
            seeded=True,
            engines={"flux": EngineSpec(FluxImageParams, "services.generate.flux:FluxGenerate", smaller_plans=1)},
        ),
    ),
)
