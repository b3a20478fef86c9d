"""The parameters that all steps painted with FLUX have in common. No torch: stages read this, not only engines."""

from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.brief import PROMPT_LIMIT_CHARACTERS
from shared.models.name import ModelName
from shared.worker.operation import Params


class Lora(Params):
    """An adapter of the transformer's weights."""

    model: ModelName = Field(description="folder of its weights, below the models folder")
    strength: Annotated[float, Field(ge=-2.0, le=2.0)] = 1.0


class Sampling(Params):
    """How FLUX samples: which weights, held to which words, over which noise levels."""

    model: ModelName = Field(default="flux1-dev", description="folder of the weights, below the models folder")
    prompt: Annotated[str, Field(max_length=PROMPT_LIMIT_CHARACTERS)] = Field(
        default="", description="what the picture is to show"
    )
    negative_prompt: Annotated[str, Field(max_length=2 * PROMPT_LIMIT_CHARACTERS)] = Field(
        default="", description="what it is not to show; acts where cfg is not 1"
    )
    steps: Annotated[int, Field(ge=1, le=200)] = 28
    sampler: Literal["euler"] = "euler"
    scheduler: Literal["simple", "normal", "sgm_uniform", "karras", "exponential", "beta"] = Field(
        default="simple", description="how the noise levels are spaced, as ComfyUI spaces them"
    )
    shift: Annotated[float, Field(ge=0.0, le=5.0)] | None = Field(
        default=1.15, description="mu of the schedule, ComfyUI's at any size; null takes it from the size as diffusers"
    )
    guidance: Annotated[float, Field(ge=0.0, le=20.0)] = Field(
        default=3.5, description="the distilled guidance that the model is told"
    )
    cfg: Annotated[float, Field(ge=1.0, le=20.0)] = Field(
        default=1.0, description="true classifier-free guidance; other than 1 it doubles the time"
    )
    cfg_start_step: Annotated[int, Field(ge=0, le=200)] = Field(
        default=1, description="the first step with true guidance, counted from 0"
    )
    loras: Annotated[tuple[Lora, ...], Field(max_length=4)] = ()


class Held(Params):
    """How PuLID holds faces to the subject's."""

    identity_model: ModelName = Field(
        default="pulid_flux_v0.9.1", description="PuLID's weights, used where the identity is PuLID's"
    )
    identity_weight: Annotated[float, Field(ge=0.0, le=3.0)] = Field(
        default=1.0, description="how strongly the face is held to the subject's; 1 as published"
    )
    identity_start_step: Annotated[int, Field(ge=0, le=200)] = Field(
        default=0, description="the first step in which the identity acts; 4 of 28 is advised for photographs"
    )
