"""FLUX's latents: their noise, their 2 x 2 patches, and how the autoencoder's own values become them.

A latent is [B, 16, H / 8, W / 8] for a picture of H x W pixels; both sides of the picture are multiples of 16. The
transformer reads it as tokens, one for each patch of 2 x 2 latent pixels, as diffusers' `FluxPipeline` packs it.
"""

import torch
from torch import Tensor

from shared.contracts.errors import InvalidInput

CHANNELS = 16
PIXELS_PER_LATENT = 8
PIXELS_PER_TOKEN = 16
"""Pixels along one side."""


def noise(width: int, height: int, seed: int, channels: int = CHANNELS) -> Tensor:
    """Gaussian noise [1, channels, H / 8, W / 8] in fp32 on the CPU, from PyTorch's generator at `seed`.

    Drawn on the CPU whatever the device and the model's dtype, so that a seed means one picture on every machine. It is
    the noise that ComfyUI draws for that seed.

    Raises:
        InvalidInput: a side is not a multiple of 16 pixels.
    """
    for name, side in (("width", width), ("height", height)):
        if side < PIXELS_PER_TOKEN or side % PIXELS_PER_TOKEN:
            raise InvalidInput(name, f"found {side}", f"Choose a multiple of {PIXELS_PER_TOKEN} pixels.")
    shape = (1, channels, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)


def pack(latent: Tensor) -> Tensor:
    """[B, C, h, w] -> tokens [B, (h / 2) * (w / 2), 4 C], row by row; a token's values go by channel, row, column."""
    batch, channels, height, width = latent.shape
    patches = latent.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`, to a latent of that many rows and columns."""
    batch, _, values = tokens.shape
    patches = tokens.reshape(batch, height // 2, width // 2, values // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, values // 4, height, width)


def image_ids(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Where each token of a latent of `height` x `width` stands: fp32 [tokens, 3] of (0, row, column)."""
    axes = (torch.arange(side // 2, device=device) for side in (height, width))
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()


def to_model(encoded: Tensor, scale: float, shift: float) -> Tensor:
    """The autoencoder's latent as the transformer knows it; `scale` and `shift` stand in the autoencoder's config."""
    return (encoded - shift) * scale


def to_vae(latent: Tensor, scale: float, shift: float) -> Tensor:
    """The inverse of `to_model`."""
    return latent / scale + shift
