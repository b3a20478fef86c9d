"""From a latent to a picture and back, by FLUX's autoencoder, and a small picture of a latent without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.fp8 import read_weights
from shared.flux.latents import CHANNELS, to_model, to_vae
from shared.vision.codec import Image

TILED_FROM_PIXELS = 1536 * 1536
"""Above this a picture is worked on in tiles: at 2048 x 2048 one activation of 256 channels takes 2 GB in bf16."""

PUBLISHED: Final[dict[str, Any]] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": CHANNELS,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
}
"""The architecture of FLUX.1's autoencoder, which its single file does not say."""


def load_vae(path: Path, dtype: torch.dtype, device: str, architecture: dict[str, Any] = PUBLISHED) -> Any:
    """The autoencoder, ready to infer.

    Args:
        path: diffusers' folder of it, or the publisher's file (`ae.safetensors`).
        dtype: of the weights in memory.
        device: where they are to lie.
        architecture: of a single file; a folder says its own.

    Raises:
        Permanent: the file's tensors are not those of this architecture.
    """
    if path.is_dir():
        made = AutoencoderKL.from_pretrained(path, torch_dtype=dtype, local_files_only=True, use_safetensors=True)
        return made.to(device).eval().requires_grad_(False)
    with torch.device("meta"):
        made = AutoencoderKL(**architecture)
    try:
        weights = convert_ldm_vae_checkpoint(read_weights([path], dtype, device), made.config)
        made.load_state_dict(weights, strict=True, assign=True)
    except (RuntimeError, KeyError) as error:
        raise Permanent(f"{path.name} is not FLUX.1's autoencoder: {error}. Fetch it again.") from error
    return made.eval().requires_grad_(False)


def tile_from(vae: Any, pixels: int) -> None:
    """From how many pixels on `decode` and `encode` are to work in tiles with this autoencoder."""
    vae.tiled_from_pixels = pixels


@torch.no_grad()
def decode(vae: Any, latent: Tensor, tiled_from: int | None = None) -> Image:
    """The picture of a latent.

    Args:
        vae: diffusers' `AutoencoderKL`; its config gives scale and shift, its device and dtype are computed in.
        latent: [1, C, h, w]; of several `decode_all` makes several pictures.
        tiled_from: pictures of more pixels are decoded in tiles that overlap and fade into each other; where None, as
            `tile_from` said, or from TILED_FROM_PIXELS on.

    Returns:
        uint8 RGB (8 h, 8 w, 3).

    Raises:
        Permanent: the latent or the picture holds values that are no numbers, which would show as black.
        InvalidInput: it is not one latent.
    """
    if latent.shape[0] != 1:
        raise InvalidInput("latent", f"there are {latent.shape[0]}", "Decode several with decode_all.")
    _check_finite("latent", latent)
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.use_tiling = latent.shape[-2] * latent.shape[-1] * scale * scale > _limit(vae, tiled_from)
    encoded = to_vae(latent, vae.config.scaling_factor, vae.config.shift_factor)
    picture = vae.decode(encoded.to(vae.device, vae.dtype), return_dict=False)[0].float()
    _check_finite("decoded picture", picture)
    return _to_bytes(picture[0] / 2 + 0.5)


def decode_all(vae: Any, latents: Tensor, tiled_from: int | None = None) -> list[Image]:
    """The pictures of latents [B, C, h, w], each as `decode` makes it, bit by bit.

    One after the other: a picture of a megapixel fills a GPU, and several at once would only take more memory.

    Raises:
        Permanent: as `decode`.
    """
    return [decode(vae, one, tiled_from) for one in latents.split(1)]


def encode_all(vae: Any, images: Sequence[Image], tiled_from: int | None = None) -> Tensor:
    """The latents [B, C, H / 8, W / 8] in fp32 of pictures of one size, each as `encode` makes it, bit by bit.

    Raises:
        InvalidInput: there is none, or their sizes differ.
    """
    sizes = sorted({(one.shape[1], one.shape[0]) for one in images})
    if len(sizes) != 1:
        found = f"they are {' and '.join(f'{width} x {height}' for width, height in sizes) or 'none'}"
        raise InvalidInput("images", found, "Encode pictures of one size at once.")
    return torch.cat([encode(vae, one, tiled_from) for one in images])


@torch.no_grad()
def encode(vae: Any, image: Image, tiled_from: int | None = None) -> Tensor:
    """The latent [1, C, H / 8, W / 8] in fp32 of a picture, uint8 RGB (H, W, 3) with sides that 16 divides.

    It is the mode of the autoencoder's distribution, so no seed takes part. Tiles are as for `decode`.
    """
    vae.use_tiling = image.shape[0] * image.shape[1] > _limit(vae, tiled_from)
    picture = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    encoded = vae.encode(picture.to(vae.device, vae.dtype)).latent_dist.mode().float()
    return to_model(encoded, vae.config.scaling_factor, vae.config.shift_factor)


@dataclass(frozen=True)
class Previewer:
    """Paints a latent without the decoder: each pixel of it is one linear mixture of its channels.

    Attributes:
        factors: [C, 3], what a channel adds to red, green and blue; pictures go from -1 to 1.
        base: [3], the colour of a latent of zeros.
    """

    factors: Tensor
    base: Tensor

    def paint(self, latent: Tensor) -> Image:
        """A latent [1, C, h, w] as a small picture, uint8 RGB (h, w, 3)."""
        colour = torch.einsum("chw,cr->rhw", latent[0].float().cpu(), self.factors) + self.base[:, None, None]
        return _to_bytes(colour.nan_to_num() / 2 + 0.5)


@torch.no_grad()
def previewer(vae: Any, side: int = 4) -> Previewer:
    """Measure how an autoencoder shows each channel: the mean colour of flat latents, all zeros but +1 or -1 in one.

    Thirty-three latents of `side` x `side` are decoded, once in the life of an autoencoder.
    """
    channels = int(vae.config.latent_channels)
    unit = torch.eye(channels)
    flat = torch.cat([unit, -unit, torch.zeros(1, channels)])[:, :, None, None].expand(-1, -1, side, side)
    encoded = to_vae(flat, vae.config.scaling_factor, vae.config.shift_factor).to(vae.device, vae.dtype)
    colours = vae.decode(encoded, return_dict=False)[0].float().cpu().mean(dim=(2, 3))
    return Previewer((colours[:channels] - colours[channels:-1]) / 2, colours[-1])


def _limit(vae: Any, tiled_from: int | None) -> int:
    limit: int = getattr(vae, "tiled_from_pixels", TILED_FROM_PIXELS) if tiled_from is None else tiled_from
    return limit


def _to_bytes(picture: Tensor) -> Image:
    """[3, H, W] from 0 to 1 -> uint8 (H, W, 3)."""
    whole: Image = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    return whole


def _check_finite(what: str, values: Tensor) -> None:
    broken = int((~torch.isfinite(values)).sum())
    if broken:
        raise Permanent(
            f"the {what} holds {broken} of {values.numel()} values that are no finite numbers; compute in bf16 or fp32 "
            "instead of fp16, and check the weights' digest with `doctorgen models verify`"
        )
