"""What FLUX shows while it samples."""

import gc
from typing import Any

import numpy as np
import pytest
import torch

from shared.flux import preview, tiny
from shared.flux.decode import Previewer, previewer
from shared.flux.denoise import Step
from shared.flux.latents import noise
from shared.flux.preview import LONGEST_SIDE, shower
from shared.vision.codec import decode
from shared.worker.previews import LARGEST_BYTES

LEVELS = 10
"""Of 255: how far a shown colour may lie from the decoder's. A preview is linear, a decoder is not; the JPEG adds 1."""
VAE = tiny.vae()


def step(foreseen: torch.Tensor, number: int = 1, count: int = 1) -> Step:
    return Step(number, count, 1.0, foreseen)


@pytest.mark.parametrize("value", [-1.0, 0.5, 1.0])
def test_a_flat_latent_of_one_channel_shows_the_colour_that_the_decoder_gives(value: float) -> None:
    flat = value * torch.eye(16)[:, :, None, None].expand(-1, -1, 4, 4)
    shown: list[bytes] = []
    tell = shower(VAE, shown.append)
    for one in flat:
        tell(step(one[None]))
    with torch.no_grad():
        given = VAE.decode(flat / 0.3611 + 0.1159).sample.mean(dim=(2, 3))
    wanted = (given / 2 + 0.5).clamp(0, 1).numpy()[:, None, None] * 255
    assert np.abs(np.stack([decode(one) for one in shown]) - wanted).max() <= LEVELS


@pytest.mark.parametrize(
    ("height", "width", "size"), [(64, 96, (8, 12)), (1024, 1024, (128, 128)), (1536, 2048, (96, 128))]
)
def test_a_preview_is_a_jpeg_an_eighth_as_large_and_never_larger_than_allowed(
    height: int, width: int, size: tuple[int, int]
) -> None:
    """Noise is what JPEG needs the most bytes for."""
    shown: list[bytes] = []
    shower(VAE, shown.append)(step(20 * noise(width, height, 1)))
    assert shown[0].startswith(b"\xff\xd8")
    assert decode(shown[0]).shape == (*size, 3)
    assert max(size) <= LONGEST_SIDE
    assert len(shown[0]) <= LARGEST_BYTES


@pytest.mark.parametrize("levels", ["uniform", "extremes", "grey"])
def test_even_the_noisiest_picture_stays_below_the_limit(levels: str) -> None:
    rng = np.random.default_rng(0)
    shape = (LONGEST_SIDE, LONGEST_SIDE, 1 if levels == "grey" else 3)
    extremes = np.where(rng.random(shape) < 0.5, 0, 255)
    picture = rng.integers(0, 256, shape) if levels == "uniform" else np.broadcast_to(extremes, (*shape[:2], 3))
    assert len(preview._jpeg(picture.astype(np.uint8))) <= LARGEST_BYTES  # noqa: SLF001 - no latent gives such a picture


def test_an_autoencoder_is_measured_once_in_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(vae: Any) -> Previewer:
        measured.append(1)
        return previewer(vae)

    monkeypatch.setattr(preview, "previewer", measure)
    vae = tiny.vae()
    before = len(preview._measured)  # noqa: SLF001 - nothing is to be kept of an autoencoder that is gone
    for _ in range(2):
        shower(vae, lambda _: None)(step(noise(64, 64, 1)))
    assert measured == [1]
    assert len(preview._measured) == before + 1  # noqa: SLF001
    del vae
    gc.collect()
    assert len(preview._measured) == before  # noqa: SLF001


@pytest.mark.parametrize(
    ("every", "numbers"), [(1, [1, 2, 3, 4, 5, 6]), (2, [1, 3, 5, 6]), (4, [1, 5, 6]), (9, [1, 6])]
)
def test_of_so_many_steps_one_is_shown_and_the_last_always(every: int, numbers: list[int]) -> None:
    shown: list[bytes] = []
    told: list[int] = []
    tell = shower(VAE, shown.append, every)
    for number in range(1, 7):
        before = len(shown)
        tell(step(noise(64, 64, number), number, 6))
        told += [number] * (len(shown) - before)
    assert told == numbers


def test_red_stays_red() -> None:
    red = Previewer(torch.zeros(16, 3), torch.tensor([1.0, -1.0, -1.0]))
    shown = decode(preview._jpeg(red.paint(torch.zeros(1, 16, 16, 16))))  # noqa: SLF001 - what shower encodes with
    assert np.abs(shown.astype(int) - (255, 0, 0)).max() <= 3
