"""A face restorer of random weights and two megabytes, as the restore path loads one.

It is a RestoreFormer, the only one of the restorers that can be narrow: spandrel holds GFPGAN at 86 and CodeFormer at
no fewer than 68 million weights.
"""

from pathlib import Path

import torch
from spandrel.architectures.RestoreFormer import RestoreFormer

from shared.vision.networks.restoreformer import RestoreFormerPlusPlus
from shared.vision.networks.tiny_esrgan import save

FILE = "tiny-restorer.safetensors"

WIDTH = 32
"""Channels everywhere: fewer, and group norm's 32 groups would be empty."""

SIZES = {
    "ch": WIDTH,
    "ch_mult": (1, 1, 1, 1, 1, 1),
    "num_res_blocks": 1,
    "n_embed": WIDTH,
    "embed_dim": WIDTH,
    "z_channels": WIDTH,
}


def network(seed: int = 0, *, plus_plus: bool = False) -> torch.nn.Module:
    """The network: a RestoreFormer, or a RestoreFormer++."""
    kind = RestoreFormerPlusPlus if plus_plus else RestoreFormer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: torch.nn.Module = kind(**SIZES)
    return made.eval().requires_grad_(requires_grad=False)


def write(folder: Path, seed: int = 0) -> Path:
    """Write a RestoreFormer to a folder, which is made. The same seed gives the same file."""
    return save(network(seed), folder / FILE)
