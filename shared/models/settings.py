"""Where the weights lie: `models_dir`, else `models` in `data_dir`; and how FLUX runs. For workers and commands."""

from pathlib import Path
from typing import Annotated, Literal, Self

from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shared.storage.digest import sha256
from shared.worker.settings import WorkerSettings

Attention = Literal[
    "native", "_native_cudnn", "_native_efficient", "_native_flash", "_native_math", "flash", "_flash_3"
]
"""diffusers' names of attention kernels that are exact up to rounding and that no hub has to be asked for."""

Fp8 = Literal["weights", "weights_and_activations"]

PLACES = frozenset({"group_offload"})
"""Settings of where weights lie, which no picture shows."""


class Speed(BaseModel):
    """How FLUX models are run: settings `flux.…`. With none of them a picture is what the weights say, in bf16."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    compiled_blocks: bool = Field(
        default=False, description="Compile the repeated blocks at the first picture, which waits for it."
    )
    attention: Attention | None = Field(default=None, description="The attention kernel; None is torch's own choice.")
    fused_qkv: bool = Field(
        default=False,
        description="One multiplication for query, key and value. LoRA adapters cannot be had with it.",
    )
    channels_last_vae: bool = Field(
        default=False,
        description="Store the VAE's convolutions with the channels innermost, as tensor cores read them.",
    )
    fp8: Fp8 | None = Field(
        default=None,
        description="Of the blocks' multiplications in 8 bits: the weights, for less memory, or the activations too, "
        "for speed. Not exact. LoRA adapters cannot be had with it.",
    )
    first_block_cache: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        default=None,
        description="How little the first block's contribution may have changed since the last step computed in full "
        "for a step to repeat what the other blocks gave then: 0.08 is careful, 0.12 quick. Not exact.",
    )
    vae_tiled_from_px: Annotated[int, Field(ge=512 * 512)] = Field(
        default=1536 * 1536,
        description="Pictures of more pixels are encoded and decoded in tiles that overlap, for less memory.",
    )
    group_offload: bool = Field(
        default=False,
        description="Keep the transformer in host memory and bring it block by block, even where it would fit.",
    )

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.group_offload:
            for name in ("fused_qkv", "fp8", "first_block_cache"):
                if getattr(self, name):
                    raise ValueError(f"{name} needs the whole transformer on the device: leave it or group_offload out")
        return self

    def identity(self) -> str:
        """The settings that change a picture's bytes, if only by rounding, and differ from the default; "" if none."""
        set_ones = self.model_dump(exclude=set(PLACES), exclude_defaults=True)
        return " ".join(f"{name}={value}" for name, value in sorted(set_ones.items()))

    def digests(self, model: str) -> dict[str, str]:
        """What a step that runs `model` so adds to the models it names: nothing where `identity` is empty."""
        found = self.identity()
        return {f"{model}/settings": sha256(found.encode())} if found else {}


class ModelSettings(WorkerSettings):
    """A worker's settings, and the folders of this machine."""

    data_dir: Path = Field(
        default_factory=lambda: user_data_path("doctorgen"), description="of the embedded stack: artifacts and journal"
    )
    models_dir: Path | None = Field(default=None, description="weights; `models` in data_dir where absent")
    vram_gb: Annotated[float, Field(ge=8.0, le=1000.0)] | None = Field(
        default=None,
        description="what a process may take of its GPU's memory, in 10^9 bytes, the steps' working memory within; all "
        "that is free when the first model is loaded where absent. A CPU has none",
    )
    flux: Speed = Speed()

    @field_validator("data_dir", "models_dir")
    @classmethod
    def _folder_is_absolute(cls, path: Path | None) -> Path | None:
        return path and path.expanduser().absolute()

    @property
    def models_folder(self) -> Path:
        """The folder of the weights. Need not exist."""
        return self.models_dir or self.data_dir / "models"


def models_folder() -> Path:
    """The same for an engine, which is made without arguments.

    Raises:
        InvalidInput: as of a worker's settings.
    """
    return ModelSettings.load().models_folder


def vram_bytes() -> int | None:
    """What a process may take of its GPU's memory; None where that is not set.

    Raises:
        InvalidInput: as of a worker's settings.
    """
    gigabytes = ModelSettings.load().vram_gb
    return None if gigabytes is None else int(gigabytes * 1e9)


def flux_speed() -> Speed:
    """How FLUX is to run, for an engine.

    Raises:
        InvalidInput: as of a worker's settings.
    """
    return ModelSettings.load().flux
