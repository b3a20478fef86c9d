"""An ESRGAN of random weights and less than a megabyte, as `upscale.image` loads one."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from spandrel.architectures.ESRGAN import ESRGAN

FILE = "tiny-esrgan.safetensors"

FEATURES = 4
"""Channels between the blocks, where 4x-UltraSharp has 64. Those within a block are 32 in any ESRGAN."""

STRENGTH = 0.05
"""Of what the network adds to the colours that it passes on, which makes pictures of random weights recognisable."""


def network(scale: int = 4, unshuffle: int = 1, seed: int = 0) -> torch.nn.Module:
    """The network with its weights as torch draws them. Each pixel of its picture is made of what lies within 19 of it.

    Args:
        scale: how many times larger its pictures are: 1, 2, 4 or 8.
        unshuffle: 2 or 4 for the kind of Real-ESRGAN that first packs squares of so many pixels into channels.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: torch.nn.Module = ESRGAN(
            in_nc=3 * unshuffle**2,
            num_filters=FEATURES,
            num_blocks=1,
            scale=scale * unshuffle,
            shuffle_factor=unshuffle if unshuffle > 1 else None,
        )
    return made.eval().requires_grad_(requires_grad=False)


def write(folder: Path, scale: int = 4, unshuffle: int = 1, seed: int = 0) -> Path:
    """Write one that passes colours on to a folder, which is made; the same arguments give the same file.

    Args:
        folder: of the model.
        scale: as of `network`.
        unshuffle: as of `network`.
        seed: as of `network`.
    """
    made = network(scale, unshuffle, seed)
    _pass_colours(made, unshuffle)
    return save(made, folder / FILE)


def save(made: torch.nn.Module, path: Path) -> Path:
    """Write a network's weights as a safetensors file, into a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(made.state_dict(), path, metadata={"format": "pt"})
    path.chmod(0o644)  # written for their owner alone, where a worker may run as somebody else
    return path


def _pass_colours(network: torch.nn.Module, unshuffle: int) -> None:
    """Have the first three features carry the colours from the first convolution to the last, and add the rest to them.

    Without it the picture of random weights is a nearly even grey.
    """
    convolutions = [one for one in network.modules() if isinstance(one, torch.nn.Conv2d)]
    first, body, last = convolutions[0], convolutions[16], convolutions[17:]  # body: what the dense blocks add to first
    packed = unshuffle**2
    with torch.no_grad():
        for one in (first, body, *last):
            one.weight *= STRENGTH
            if one.bias is not None:
                one.bias.zero_()
        for colour in range(3):
            first.weight[colour, colour * packed : (colour + 1) * packed, 1, 1] += 1 / packed
            for one in last:
                one.weight[colour, colour, 1, 1] += 1
