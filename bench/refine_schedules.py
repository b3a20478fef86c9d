"""Which noise level refines a picture: where each schedule begins, and which detail noise of that level masks.

    python -m bench.refine_schedules

The first table needs no picture: the sigma that refine.photoreal starts from, what share of the picture is left there,
and how many of the 35 steps are taken above given sigmas.

The second is of two photos' faces. At sigma s a latent holds (1 - s) of the picture and s of noise. Detail of a size
(one octave of spatial frequency) is masked where the noise in that octave is stronger, that is from

    s = r / (1 + r),   r = strength of the detail / strength of noise at s = 1

on: what is masked is painted anew, what is not stays. Strength is the root mean square about a place, over two periods;
skin is the median of the places in the face, features are the places of the 95th percentile: lids, brows, lips.

The autoencoder's weights are not at hand, so the noise's strength is taken in two ways; neither is FLUX's own:

- pixels: white noise over pixels, as strong as the whole picture's contrast. Fine detail drowns early, coarse late.
- latent: as a linear code of 8 x 8 blocks has it whose channels all vary by 1. Detail of periods below 16 pixels is in
  channels of its own, on the average over the photo as strong in each octave as the noise at s = 1; what is coarser is
  in the blocks' means, over which the noise is white. Fine detail drowns late, that of two to four blocks early.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from shared.flux.schedules import Scheduler, sigmas
from shared.vision.codec import Image
from shared.vision.filters import Plane, gaussian
from tests.photos import astronaut, hopper

STEPS = 35
SCHEDULERS: tuple[Scheduler, ...] = ("karras", "simple", "beta")
DENOISE = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
LEVELS = (0.5, 0.3, 0.1)
BLOCK = 8
"""Pixels along a side of what one latent pixel stands for."""
OCTAVES = 6
"""The finest has periods of 2 to 4 pixels."""
SKIN, FEATURES = 50, 95
PHOTOS = {
    "astronaut": (astronaut, (179, 70, 93, 107)),
    "hopper": (hopper, (167, 130, 190, 206)),
}
"""Each with the box of its face: x, y, width, height, as FaceFinder finds it."""


class Schedule(NamedTuple):
    """Where a schedule begins."""

    scheduler: Scheduler
    denoise: float
    first: float
    above: tuple[int, ...]
    """How many steps begin above each of LEVELS."""


class Masked(NamedTuple):
    """From which sigma on detail of an octave is masked in a face."""

    finest: int
    """The octave's shortest period, pixels."""
    pixels: tuple[float, float]
    """Of skin and of features."""
    latent: tuple[float, float]


def schedules() -> Iterator[Schedule]:
    for scheduler in SCHEDULERS:
        for denoise in DENOISE:
            levels = sigmas(scheduler, STEPS, denoise)[:-1]
            above = tuple(int((levels > level).sum()) for level in LEVELS)
            yield Schedule(scheduler, denoise, float(levels[0]), above)


def masked(image: Image, face: tuple[int, int, int, int]) -> list[Masked]:
    """Of each octave, the finest first."""
    light = image.astype(np.float32).mean(axis=2)
    light = np.asarray((light - light.mean()) / light.std(), np.float32)
    x, y, width, height = face
    octaves = bands(light)
    inside = int(np.log2(BLOCK))  # so many octaves are finer than what the blocks' means can show
    coarse = 1.0 - sum(float(band.var()) for band in octaves[:inside])
    found = []
    for number, band in enumerate(octaves):
        shortest = 2 ** (number + 1)
        local = np.sqrt(gaussian(np.square(band), 2.0 * shortest))[y : y + height, x : x + width]
        skin, features = (float(np.percentile(local, share)) for share in (SKIN, FEATURES))
        in_pixels = np.sqrt(area(number))
        in_latent = band.std() if number < inside else np.sqrt(coarse * area(number - inside))
        first, second = (
            (float(skin / (skin + noise)), float(features / (features + noise))) for noise in (in_pixels, in_latent)
        )
        found.append(Masked(shortest, first, second))
    return found


def bands(light: Plane) -> list[Plane]:
    """A plane's octaves, the finest first. By the larger of both frequencies; the plane is mirrored at its edges."""
    height, width = light.shape
    spectrum = np.fft.fft2(np.pad(light, ((0, height), (0, width)), "symmetric"))
    rows, columns = (np.abs(np.fft.fftfreq(length)) for length in spectrum.shape)
    frequency = np.maximum(rows[:, None], columns[None, :])
    found = []
    for number in range(OCTAVES):
        top = 2.0 ** -(number + 1)
        within = (frequency <= top) & (frequency > top / 2)
        found.append(np.asarray(np.fft.ifft2(spectrum * within).real[:height, :width], np.float32))
    return found


def area(octave: int) -> float:
    """The octave's share of all frequencies, which is its share of white noise."""
    return 0.75 * 0.25**octave


def main() -> None:
    above = " | ".join(f"steps above {level:g}" for level in LEVELS)
    print(
        f"| scheduler | denoise | starts at sigma | picture left | {above} |\n|---|---|---|---|{'---|' * len(LEVELS)}"
    )
    for one in schedules():
        counts = " | ".join(map(str, one.above))
        print(f"| {one.scheduler} | {one.denoise:g} | {one.first:.4f} | {1 - one.first:.1%} | {counts} |")
    print("\n| photo | periods, pixels | skin: pixels | skin: latent | features: pixels | features: latent |")
    print("|---|---|---|---|---|---|")
    for name, (photo, face) in PHOTOS.items():
        for octave in masked(photo(), face):
            columns = (octave.pixels[0], octave.latent[0], octave.pixels[1], octave.latent[1])
            shown = " | ".join(f"{sigma:.3f}" for sigma in columns)
            print(f"| {name} | {octave.finest} to {2 * octave.finest} | {shown} |")


if __name__ == "__main__":
    main()
