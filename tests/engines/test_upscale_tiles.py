"""A picture in tiles is the picture untiled, at the memory of one tile."""

import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from services.upscale import tiles
from services.upscale.tiles import magnified, side_for, spans, working_bytes
from shared.contracts.errors import Permanent, ResourceExhausted
from shared.vision.codec import Image
from shared.vision.networks import tiny_esrgan
from shared.vision.networks.image_models import ImageModel, load_image_model
from tests.photos import astronaut


def esrgan(folder: Path, scale: int = 4, unshuffle: int = 1) -> ImageModel:
    """Of weights as torch draws them, its contrast raised so that its surroundings show in each pixel."""
    network = tiny_esrgan.network(scale, unshuffle)
    for last in [one for one in network.modules() if isinstance(one, nn.Conv2d)][17:]:
        last.weight *= 3
    return load_image_model(tiny_esrgan.save(network, folder / f"{scale}-{unshuffle}.safetensors"), "upscaler")


def photo(height: int = 101, width: int = 130) -> Image:
    return np.ascontiguousarray(astronaut()[60 : 60 + height, 150 : 150 + width])


@torch.inference_mode()
def untiled(model: ImageModel, picture: Image) -> Image:
    height, width = picture.shape[:2]
    unit = model.multiple
    wide = np.pad(picture, ((0, -height % unit), (0, -width % unit), (0, 0)), mode="reflect")
    made = model.network(torch.from_numpy(wide).permute(2, 0, 1)[None].float() / 255)[0]
    levels = (made.clamp(0, 1) * 255).round().permute(1, 2, 0)
    return np.asarray(levels.numpy()[: height * model.scale, : width * model.scale].astype(np.uint8))


def apart(one: Image, other: Image) -> int:
    return int(np.abs(one.astype(int) - other).max())


@given(st.integers(1, 5000), st.integers(1, 1024), st.sampled_from((1, 2, 4, 8)))
def test_spans_cover_a_length_once_in_even_parts(length: int, side_px: int, unit: int) -> None:
    parts = spans(length, side_px, unit)
    assert [part.start for part in parts] == [0, *(part.end for part in parts[:-1])]
    assert parts[-1].end == length
    assert all(part.start % unit == 0 for part in parts)
    sizes = [part.end - part.start for part in parts]
    assert max(sizes) <= max(side_px, unit)
    assert all(size == sizes[0] for size in sizes[:-1])
    assert 0 < sizes[-1] <= sizes[0]


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_tiled_equals_untiled_whatever_the_scale(tmp_path: Path, scale: int) -> None:
    """Odd sizes, tiles of odd sizes, everywhere and not only inside: within one level of 255."""
    model, picture = esrgan(tmp_path, scale), photo()
    assert untiled(model, picture).std() > 20
    assert apart(magnified(model, picture, 47, 32), untiled(model, picture)) <= 1


def test_tiled_equals_untiled_where_pixels_are_packed_first(tmp_path: Path) -> None:
    """Tiles begin where the packed squares do, or each would be another picture."""
    model, picture = esrgan(tmp_path, 2, 2), photo()
    assert model.multiple == 4
    assert apart(magnified(model, picture, 50, 64), untiled(model, picture)) <= 1


@pytest.mark.parametrize("size", [(101, 130), (20, 30), (3, 90), (65, 64)])
def test_a_picture_smaller_than_a_tile_or_hardly_larger(tmp_path: Path, size: tuple[int, int]) -> None:
    model, picture = esrgan(tmp_path, 2), photo(*size)
    assert apart(magnified(model, picture, 64, 256), untiled(model, picture)) <= 1


def mean_of(left_px: int, right_px: int) -> ImageModel:
    """A network whose pixel is the mean of those from so many on its left to so many on its right, and nothing else."""
    reach = max(left_px, right_px)
    network = nn.Conv2d(3, 3, (1, 2 * reach + 1), padding=(0, reach), groups=3, bias=False)
    network.weight.requires_grad_(False).zero_()
    network.weight[..., reach - left_px : reach + right_px + 1] = 1 / (left_px + right_px + 1)
    whatever = SimpleNamespace(multiple_of=1)
    told = SimpleNamespace(id="mean")
    return ImageModel(
        "mean", "upscaler", SimpleNamespace(architecture=told, model=network, scale=1, size_requirements=whatever)
    )


@pytest.mark.parametrize(("overlap_px", "alike"), [(20, True), (12, False)])
def test_three_quarters_of_the_overlap_must_be_as_far_as_the_network_sees(overlap_px: int, alike: bool) -> None:
    model, picture = mean_of(15, 15), photo()
    assert (apart(magnified(model, picture, 47, overlap_px), untiled(model, picture)) <= 1) is alike


def worst_step(errors: NDArray[np.float64]) -> float:
    """The largest step between neighbouring columns of what tiling changed, averaged over the rows."""
    return float(np.abs(np.diff(errors, axis=1)).mean(axis=(0, 2)).max())


def test_no_seam_shows_where_the_network_sees_farther_than_the_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the gradient of what tiling changes. Tiles that are cut and set side by side leave a line, faded ones none."""
    model, picture = mean_of(0, 40), photo()
    whole = untiled(model, picture).astype(np.float64)
    faded = magnified(model, picture, 47, 32) - whole
    widened = tiles._widened  # noqa: SLF001 - so that nothing of its neighbours is kept, as Real-ESRGAN's command does
    monkeypatch.setattr(tiles, "_widened", lambda span, by, length: widened(span, 0 if by == 8 else by, length))
    cut = magnified(model, picture, 47, 32) - whole
    assert worst_step(cut) > 10
    assert worst_step(faded) < worst_step(cut) / 4


def test_a_smooth_picture_stays_smooth_across_seams(tmp_path: Path) -> None:
    """The steps between neighbours at the seams are no larger than those elsewhere."""
    ramp = np.linspace(60, 180, 128)[None, :, None].repeat(96, axis=0).repeat(3, axis=2)
    model = load_image_model(tiny_esrgan.write(tmp_path), "upscaler")
    made = magnified(model, np.asarray(ramp, np.uint8), 32, 16).astype(float)
    steps = np.abs(np.diff(made, axis=1)).mean(axis=(0, 2))
    seams = [4 * part.start - 1 for part in spans(128, 32)[1:]]
    near = np.zeros(len(steps), bool)
    for seam in seams:
        near[seam - 16 : seam + 17] = True
    inside = steps[64:-64]
    assert steps[near].max() <= inside[~near[64:-64]].max() * 1.05


class Live(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, each storage once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: dict[int, tuple[int, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                key, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
                self.held[key] = (self.held.get(key, (0, 0))[0] + 1, size)
                weakref.finalize(tensor, self.let_go, key)
        self.peak = max(self.peak, sum(size for _, size in self.held.values()))
        return made

    def let_go(self, key: int) -> None:
        users, size = self.held.pop(key)
        if users > 1:
            self.held[key] = (users - 1, size)


def test_memory_stays_that_of_one_tile_up_to_4096_pixels(tmp_path: Path) -> None:
    """All tensors together stay within what was reckoned for a tile; the picture alone would take 201 MB as floats."""
    model = load_image_model(tiny_esrgan.write(tmp_path, 4, 2), "upscaler")  # packed: a quarter of the work
    picture = np.asarray(cv2.resize(astronaut(), (1024, 1024), interpolation=cv2.INTER_LINEAR), np.uint8)
    side_px, overlap_px = 128, 16
    reckoned = working_bytes(model) * (side_px + 2 * overlap_px) ** 2
    with Live() as live:
        made = magnified(model, picture, side_px, overlap_px)
    assert made.shape == (4096, 4096, 3)
    assert reckoned / 4 < live.peak <= reckoned < 30_000_000
    assert np.abs(made[2::4, 2::4].astype(int) - picture).mean() < 12


def test_a_tile_is_as_large_as_free_memory_allows(tmp_path: Path) -> None:
    model = load_image_model(tiny_esrgan.write(tmp_path), "upscaler")
    needs = {side: 2 * working_bytes(model) * (side + 64) ** 2 for side in tiles.SIDES_PX}
    assert [side_for(model, 32, int(need) + 1) for need in needs.values()] == [512, 256, 128, 64]
    assert [side_for(model, 32, 10**12, smaller) for smaller in (0, 1, 2)] == [512, 256, 128]
    with pytest.raises(ResourceExhausted, match="for a tile of 64 pixels with 32 around it"):
        side_for(model, 32, int(needs[64]) - 1)


def test_work_ends_at_the_tile_at_which_it_is_no_longer_wanted(tmp_path: Path) -> None:
    model = load_image_model(tiny_esrgan.write(tmp_path), "upscaler")
    told: list[float] = []

    def tell(done: float) -> None:
        told.append(done)
        if len(told) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        magnified(model, photo(), 32, 16, tell)
    assert told == [1 / 20, 2 / 20]


def test_pixels_that_are_no_numbers_are_an_error_and_no_black_picture(tmp_path: Path) -> None:
    model = load_image_model(tiny_esrgan.write(tmp_path), "upscaler", name="broken")
    model.network.get_parameter("model.10.bias").fill_(float("nan"))
    with pytest.raises(Permanent, match="broken gave pixels that are no numbers"):
        magnified(model, photo(), 64, 16)
