"""A picture through a network in tiles: memory for one tile, and no seam.

Each tile is seen by the network with `overlap` pixels of its surroundings. A quarter of these is kept on either side of
a tile's edge, and there neighbours fade into each other; the rest, where the network saw too little, is cut off. A
network whose pixels depend on none farther than three quarters of the overlap gives the same picture as untiled. With
one that looks farther neighbours differ by what that distance weighs, and fade into each other instead of meeting at a
line. Tiles that are merely cut, as Real-ESRGAN's own command does, would show that line.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shared.contracts.errors import ResourceExhausted
from shared.models.memory import host_memory
from shared.models.residency import gigabytes
from shared.vision.codec import Image
from shared.vision.networks.image_models import ImageModel, check_finite

SIDES_PX = (512, 256, 128, 64)
"""Of tiles, the largest first. Few sizes, so that machines alike in kind give the same bytes."""

SHARE = 0.5
"""Of a device's free memory that a tile may take."""

LIVE_TENSORS = 4
"""As many as the largest one are held at once: what a convolution is given, what it gives, its workspace, a copy."""

PROBE_PX = 64
"""Side of the picture that a network is tried with. What its tensors take grows with the pixels."""


class Span(NamedTuple):
    """Whole pixels of a row or column; the end is exclusive."""

    start: int
    end: int


def magnified(
    model: ImageModel,
    picture: Image,
    side_px: int,
    overlap_px: int,
    progress: Callable[[float], None] = lambda _: None,
) -> Image:
    """The network's picture of a picture, uint8 RGB, `model.scale` times as wide and high.

    Of the result only one tile is ever on the device, and one row of tiles beside it in host memory.

    Args:
        model: an upscaler, on the device it computes on.
        picture: uint8 RGB.
        side_px: of a tile, without its surroundings; smaller ones are made where that is more even.
        overlap_px: what a tile sees of its surroundings, on each side.
        progress: told after each tile which fraction is done; what it raises ends the work.

    Raises:
        Permanent: the network gave pixels that are no numbers.
    """
    scale, unit = model.scale, model.multiple
    height, width = picture.shape[:2]
    whole = _padded(picture, unit)
    rows, columns = spans(height, side_px, unit), spans(width, side_px, unit)
    seen_px, kept_px = math.ceil(overlap_px / unit) * unit, overlap_px // 4
    result = np.empty((height * scale, width * scale, 3), np.uint8)
    for number, row in enumerate(rows):
        down = _widened(row, kept_px, height)
        strip = np.empty(((down.end - down.start) * scale, width * scale, 3), np.uint8)
        for place, column in enumerate(columns):
            across = _widened(column, kept_px, width)
            tile = _seen(model, whole, _widened(row, seen_px, len(whole)), _widened(column, seen_px, whole.shape[1]))
            part = tile.of(down, across, scale)
            _lay(strip.swapaxes(0, 1), part.swapaxes(0, 1), across, column, scale)
            progress((number * len(columns) + place + 1) / (len(rows) * len(columns)))
        _lay(result, strip, down, row, scale)
    return result


def spans(length: int, side_px: int, unit: int = 1) -> list[Span]:
    """A length in parts of about the same size, none above `side_px`; all but the last end at a multiple of `unit`."""
    count = math.ceil(length / max(side_px // unit * unit, unit))
    step = math.ceil(length / count / unit) * unit
    return [Span(start, min(start + step, length)) for start in range(0, length, step)]


def side_for(model: ImageModel, overlap_px: int, free_bytes: int, smaller: int = 0) -> int:
    """The largest side of a tile that free memory allows.

    Args:
        model: the network, on its device.
        overlap_px: what a tile sees of its surroundings, on each side.
        free_bytes: of the device.
        smaller: how many of the sizes to leave out, after one was too large after all.

    Raises:
        ResourceExhausted: the smallest tile does not fit.
    """
    per_pixel = working_bytes(model)
    needs = {side: per_pixel * (side + 2 * overlap_px) ** 2 for side in SIDES_PX[smaller:]}
    for side, need in needs.items():
        if need <= free_bytes * SHARE:
            return side
    side, need = needs.popitem()
    raise ResourceExhausted(
        f"{model.name} needs {gigabytes(int(need))} for a tile of {side} pixels with {overlap_px} around it, and of "
        f"the {gigabytes(free_bytes)} that are free it may take {SHARE:.0%}. Free memory of other processes, or use "
        "a larger machine."
    )


@torch.inference_mode()
def working_bytes(model: ImageModel) -> float:
    """What a network takes for each pixel of a tile while it runs, about: tried out on a small one."""
    largest = 0

    def look(_: nn.Module, __: object, given: object) -> None:
        nonlocal largest
        if isinstance(given, Tensor):
            largest = max(largest, given.nbytes)

    hooks = [module.register_forward_hook(look) for module in model.network.modules()]
    try:
        first = next(model.network.parameters())
        model.network(torch.zeros((1, 3, PROBE_PX, PROBE_PX), dtype=first.dtype, device=first.device))
    finally:
        for hook in hooks:
            hook.remove()
    return LIVE_TENSORS * largest / PROBE_PX**2


def free_bytes(device: str) -> int:
    """Of a CUDA device with what torch keeps there for later, or of host memory."""
    if device == "cpu":
        return host_memory().free_bytes
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class _Tile(NamedTuple):
    """A tile as the network gave it, and where its first pixel lies in the picture that came in."""

    pixels: Image
    top: int
    left: int

    def of(self, down: Span, across: Span, scale: int) -> Image:
        """What lies in these rows and columns of the picture that came in."""
        rows = slice((down.start - self.top) * scale, (down.end - self.top) * scale)
        return self.pixels[rows, (across.start - self.left) * scale : (across.end - self.left) * scale]


@torch.inference_mode()
def _seen(model: ImageModel, picture: Image, down: Span, across: Span) -> _Tile:
    """The network's picture of a part."""
    first = next(model.network.parameters())
    part = np.ascontiguousarray(picture[down.start : down.end, across.start : across.end])
    levels = torch.from_numpy(part).to(first.device).permute(2, 0, 1)[None].to(first.dtype) / 255
    made: Tensor = model.network(levels)
    check_finite(model.name, made)
    pixels = made[0].float().clamp_(0, 1).mul_(255).round_().to(torch.uint8).permute(1, 2, 0)
    return _Tile(np.asarray(pixels.cpu().numpy()), down.start, across.start)


def _lay(whole: Image, part: Image, wide: Span, own: Span, scale: int) -> None:
    """Write a part into its rows, faded over what its neighbour before it left there.

    Args:
        whole: what is written to, rows first.
        part: the rows `wide`.
        wide: the part's own rows and those it shares with its neighbours.
        own: its own rows.
        scale: rows of `whole` for each of those.
    """
    rows = whole[wide.start * scale : wide.end * scale]
    shared = min(2 * (own.start - wide.start), wide.end - wide.start) * scale
    if shared:
        share = ((np.arange(shared, dtype=np.float32) + 0.5) / shared)[:, None, None]
        before = rows[:shared].astype(np.float32)
        rows[:shared] = np.rint(before + share * (part[:shared].astype(np.float32) - before))
    rows[shared:] = part[shared:]


def _widened(span: Span, by: int, length: int) -> Span:
    return Span(max(span.start - by, 0), min(span.end + by, length))


def _padded(picture: Image, unit: int) -> Image:
    """The picture mirrored at its right and lower edge, up to multiples of `unit`."""
    height, width = picture.shape[:2]
    more = ((0, -height % unit), (0, -width % unit), (0, 0))
    return np.pad(picture, more, mode="reflect") if any(any(one) for one in more) else picture
