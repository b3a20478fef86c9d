"""The detailer against FaceDetailer written down straight: crops, masks, noise levels, sampling, paste.

Written from the published algorithm (ComfyUI Impact Pack) with loops, floats and whole-picture masks, and with nothing
of the detailer's own. Of one thing it knows that ours differs: the painted size is the nearest multiple of 16.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from services.swap.flux_hands import FluxHands
from services.swap.stage import FluxHandsParams
from shared.flux import tiny
from shared.flux.studio import Studio, studio_of
from shared.flux.text import PromptEmbedding
from shared.models.residency import Budget, Residency
from shared.vision.codec import Image, decode, encode_png
from shared.worker.operation import Work
from tests.engines.test_detailer_detector import write_detector

Boxes = Sequence[tuple[float, float, float, float]]
"""Left, top, right, bottom."""

HEIGHT, WIDTH = 112, 136
SEED = 11
SMALL: dict[str, Any] = {"model": "tiny", "prompt": "a hand", "guide_size": 64, "max_size": 96, "steps": 2}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        tiny.write(Path(name) / "tiny")
        yield Path(name)


@pytest.fixture(scope="module")
def studio(folder: Path) -> Studio:
    return studio_of(folder, "cpu", Residency(Budget(100_000_000, 100_000_000)))


@pytest.fixture(scope="module")
def engine(studio: Studio) -> FluxHands:
    return FluxHands(studio)


def finder(folder: Path, boxes: Boxes) -> str:
    """A detector of these boxes, under a name of its own: what is in memory is known by its path."""
    name = "finds-" + "-".join(f"{edge:g}" for box in boxes for edge in box)
    write_detector(folder / name, boxes, WIDTH, HEIGHT)
    return name


class Net:
    """The tiny FLUX by diffusers alone."""

    def __init__(self, folder: Path, words: PromptEmbedding) -> None:
        self.transformer: Any = FluxTransformer2DModel.from_pretrained(folder / "tiny" / "transformer").eval()
        self.vae: Any = AutoencoderKL.from_pretrained(folder / "tiny" / "vae").eval()
        self.words = words

    @torch.no_grad()
    def velocity(self, x: Tensor, sigma: float, guidance: float) -> Tensor:
        _, _, high, wide = x.shape
        tokens = torch.stack([
            x[0, :, row : row + 2, column : column + 2].flatten()
            for row in range(0, high, 2)
            for column in range(0, wide, 2)
        ])  # fmt: skip
        ids = torch.tensor([(0.0, row, column) for row in range(high // 2) for column in range(wide // 2)])
        answer = self.transformer(
            hidden_states=tokens[None],
            timestep=torch.tensor([sigma]),
            guidance=torch.tensor([guidance]),
            pooled_projections=self.words.pooled,
            encoder_hidden_states=self.words.sequence,
            txt_ids=torch.zeros(self.words.sequence.shape[1], 3),
            img_ids=ids,
            return_dict=False,
        )[0][0]
        back = torch.zeros_like(x)
        for token, (_, row, column) in zip(answer, ids.int().tolist(), strict=True):
            back[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = token.reshape(-1, 2, 2)
        return back

    @torch.no_grad()
    def encode(self, crop: Image) -> Tensor:
        pixels = torch.from_numpy(crop.astype(np.float32) / 255 * 2 - 1).permute(2, 0, 1)[None]
        latent: Tensor = (self.vae.encode(pixels).latent_dist.mode() - 0.1159) * 0.3611
        return latent

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Image:
        pixels = self.vae.decode(latent / 0.3611 + 0.1159, return_dict=False)[0][0].permute(1, 2, 0).numpy()
        return np.asarray(np.rint((pixels / 2 + 0.5).clip(0, 1) * 255), np.uint8)


def levels(steps: int, denoise: float) -> list[float]:
    """ComfyUI's `simple` with FLUX's shift: the last `steps` of int(steps / denoise)."""
    total = int(steps / denoise)
    e = math.exp(1.15)
    table = [e / (e + 1 / (i / 10_000) - 1) for i in range(1, 10_001)]
    return [*(table[-(1 + int(k * 10_000 / total))] for k in range(total)), 0.0][-(steps + 1) :]


def soft(mask: NDArray[np.float64], feather: int) -> NDArray[np.float64]:
    kernel = 2 * feather + 1
    if min(mask.shape) <= kernel:
        kernel = min(mask.shape) // 2
        kernel += kernel % 2 == 0
    if feather == 0 or kernel < 3:
        return mask
    half = kernel // 2
    weights = np.exp([-0.5 * (step / 10.0) ** 2 for step in range(-half, half + 1)])
    weights /= weights.sum()
    padded = np.pad(mask, half, mode="reflect")
    rows = sum(weights[k] * padded[k : k + mask.shape[0]] for k in range(kernel))
    blurred: NDArray[np.float64] = sum(weights[k] * rows[:, k : k + mask.shape[1]] for k in range(kernel))
    return blurred.clip(0, 1)


def bounds(start: float, end: float, factor: float, limit: int) -> tuple[int, int]:
    length = (end - start) * factor
    first = int((start + end) / 2 - length / 2)
    if first < 0:
        return 0, int(min(limit, length))
    if first + length > limit:
        return int(max(0, limit - length)), limit
    return first, int(first + length)


def facedetailer(picture: Image, boxes: Boxes, net: Net, how: FluxHandsParams) -> NDArray[np.float64]:
    """The picture, each box painted in turn. Floats, as ComfyUI's tensors are."""
    canvas = picture.astype(np.float64)
    high, wide = picture.shape[:2]
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        mask = np.zeros((high, wide))
        mask[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = 1
        reach = abs(how.dilation)
        if reach:
            pad = np.pad(mask, reach, constant_values=0 if how.dilation > 0 else 1)
            pile = [
                pad[reach + dy : reach + dy + high, reach + dx : reach + dx + wide]
                for dy in range(-(reach // 2), reach - reach // 2)
                for dx in range(-(reach // 2), reach - reach // 2)
            ]
            mask = np.max(pile, axis=0) if how.dilation > 0 else np.min(pile, axis=0)
        left, right = bounds(x1, x2, how.crop_factor, wide)
        top, bottom = bounds(y1, y2, how.crop_factor, high)
        w, h = right - left, bottom - top
        cropped = mask[top:bottom, left:right]
        up = how.guide_size / (min(x2 - x1, y2 - y1) if how.guide_size_for == "bbox" else min(w, h))
        if max(int(w * up), int(h * up)) > how.max_size:
            up *= how.max_size / max(int(w * up), int(h * up))
        up = max(up, 1.0)
        size = [max(16, 16 * round(int(side * up) / 16)) for side in (w, h)]
        crop = np.rint(canvas[top:bottom, left:right]).astype(np.uint8)
        latent = net.encode(np.asarray(Pillow.fromarray(crop).resize((size[0], size[1]), Pillow.Resampling.LANCZOS)))
        m = torch.ones(1, 1, size[1] // 8, size[0] // 8)
        if how.noise_mask:
            whole = torch.from_numpy(soft(cropped, how.noise_mask_feather)).float()[None, None]
            m = torch.nn.functional.interpolate(whole, m.shape[2:], mode="bilinear")
        sigmas = levels(how.steps, how.denoise)
        for cycle in range(how.cycles):
            generator = torch.Generator("cpu").manual_seed(SEED + number + cycle)
            n = torch.randn(latent.shape, generator=generator)
            z, x = latent, sigmas[0] * n + (1 - sigmas[0]) * latent
            for now, after in pairwise(sigmas):
                inside = m
                if how.noise_mask and how.noise_mask_feather > 0:
                    inside = (m >= (now - 3.1575e-4) / (sigmas[0] - 3.1575e-4)).float()
                shown = x * inside + (now * n + (1 - now) * z) * (1 - inside)
                foreseen = (shown - now * net.velocity(shown, now, how.guidance)) * inside + z * (1 - inside)
                x = x + (after - now) * (x - foreseen) / now
            latent = x
        new = Pillow.fromarray(net.decode(latent)).resize((w, h), Pillow.Resampling.LANCZOS)
        paste = soft(cropped, how.feather)[..., None]
        canvas[top:bottom, left:right] = (1 - paste) * canvas[top:bottom, left:right] + paste * np.asarray(new, float)
    return canvas


def constant() -> Image:
    return np.full((HEIGHT, WIDTH, 3), (120, 90, 60), np.uint8)


def random() -> Image:
    return np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


MIDDLE: Boxes = [(50.3, 40.6, 74.8, 61.2)]
BORDER: Boxes = [(0, 90, 20, 112), (120, 0, 136, 30.5)]
OVERLAPPING: Boxes = [(30, 30, 50, 50), (44, 34, 64, 54), (100, 80, 120, 100)]


@pytest.mark.parametrize("picture", [constant, random])
@pytest.mark.parametrize(
    ("boxes", "change"),
    [
        (MIDDLE, {}),
        (MIDDLE, {"noise_mask": False}),
        (MIDDLE, {"noise_mask_feather": 0, "cycles": 2, "denoise": 0.8}),
        (MIDDLE, {"guide_size_for": "crop", "dilation": -4, "steps": 3}),
        (MIDDLE, {"crop_factor": 1.7, "feather": 0, "dilation": 0, "guidance": 1.0}),
        (MIDDLE, {"crop_factor": 9.0, "feather": 60, "noise_mask_feather": 7, "dilation": 21}),
        (BORDER, {"crop_factor": 2.0}),
        (OVERLAPPING, {"crop_factor": 1.5}),
    ],
)
def test_the_picture_is_that_of_the_straight_line(
    engine: FluxHands, studio: Studio, folder: Path, picture: Any, boxes: Boxes, change: dict[str, Any]
) -> None:
    """To one level of 255. A painted crop differs from its original by far more, so that is not said of nothing."""
    image: Image = picture()
    params = FluxHandsParams(**{**SMALL, "detector": finder(folder, boxes), **change})
    made = decode(engine.run(Work(params, {"image": (encode_png(image),)}, SEED)).outputs["image"].data)
    net = Net(folder, studio.prompt("tiny", params.prompt))
    expected = facedetailer(image, boxes, net, params)
    assert np.abs(made - expected).max() <= 1.01
    assert np.abs(expected - image).max() > 20
    assert np.abs(made[:4, :4].astype(int) - image[:4, :4]).max() == 0


@pytest.mark.parametrize("denoise", [0.2, 0.35, 0.5, 1.0])
def test_denoise_never_takes_steps_away(engine: FluxHands, folder: Path, denoise: float) -> None:
    """The facts tell the first noise level and the number of steps."""
    params = FluxHandsParams(**{**SMALL, "detector": finder(folder, MIDDLE), "denoise": denoise, "steps": 3})
    facts: Any = engine.run(Work(params, {"image": (encode_png(constant()),)}, SEED)).facts
    assert facts["crops"][0]["steps"] == 3
    assert facts["crops"][0]["first_sigma"] == pytest.approx(levels(3, denoise)[0], abs=1e-6)
