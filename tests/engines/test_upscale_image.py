"""The result has exactly the size asked for, crisp edges without halos, and costs little memory."""

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from services.upscale.portable import PortableImage, enlarge
from services.upscale.stage import STAGE, ImageParams
from shared.vision.codec import Image, decode, encode_png
from shared.worker.operation import Work
from tests.pictures import astronaut, difference, psnr

PEAK = """
from pathlib import Path
import numpy as np
from services.upscale.portable import PortableImage
from services.upscale.stage import ImageParams
from shared.vision.codec import encode_png
from shared.worker.operation import Work
noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (1024, 1024, 3)).astype(np.uint8)
PortableImage().run(Work(ImageParams(), {"image": (encode_png(noise),)}, 0))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
"""Prints the process's own peak memory in KiB, for a picture that PNG cannot compress."""


def edge(low: int = 60, high: int = 190) -> Image:
    image = np.full((512, 512, 3), low, np.uint8)
    image[:, 256:] = high
    return image


def test_the_stage_offers_one_unseeded_operation_whose_engine_uses_no_weights() -> None:
    (operation,) = STAGE.operations
    assert (operation.name, operation.seeded) == ("upscale.image", False)
    assert operation.engines["portable"].build().models(ImageParams()) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 511), ("height", 8193), ("scale", 0.5), ("sharpen", 1.5), ("method", "nearest"), ("size", 1024)],
)
def test_a_parameter_out_of_range_or_unknown_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        ImageParams.model_validate({name: value})


@pytest.mark.parametrize(
    ("scale", "width", "height"), [(4.0, 1024, 1024), (4.0, 700, 1300), (2.0, 1600, 900), (1.0, 512, 512)]
)
def test_the_result_has_exactly_the_size_asked_for(scale: float, width: int, height: int) -> None:
    result = enlarge(astronaut(), ImageParams(scale=scale, width=width, height=height))
    assert result.shape == (height, width, 3)


def test_another_aspect_is_cropped_evenly_from_both_sides() -> None:
    image = np.zeros((512, 512, 3), np.uint8)
    image[128:384] = 200
    result = enlarge(image, ImageParams(width=1024, height=512))
    assert result[2:-2].min() == 200


def test_the_picture_handed_in_is_left_alone() -> None:
    image = astronaut()
    enlarge(image, ImageParams(scale=1.0, width=512, height=512))
    assert np.array_equal(image, astronaut())


def test_reduced_again_the_result_is_the_picture() -> None:
    image = astronaut()
    result = enlarge(image, ImageParams(width=2048, height=2048, sharpen=0.0))
    boxes = result.reshape(512, 4, 512, 4, 3).mean(axis=(1, 3))
    assert psnr(np.asarray(np.rint(boxes), np.uint8), image) > 32


@pytest.mark.parametrize("sharpen", [0.0, 0.35, 1.0])
@pytest.mark.parametrize("width", [512, 1024, 2048])
def test_no_edge_gains_a_halo(sharpen: float, width: int) -> None:
    result = enlarge(edge(), ImageParams(width=width, height=width, sharpen=sharpen))
    assert (result.min(), result.max()) == (60, 190)


def test_sharpening_makes_edges_steeper_in_step_with_its_strength() -> None:
    settings = [ImageParams(width=2048, height=2048, sharpen=sharpen) for sharpen in (0.0, 0.35, 1.0)]
    slopes = [np.abs(np.diff(enlarge(edge(), params)[0].astype(int), axis=0)).max() for params in settings]
    assert slopes[0] < slopes[1] < slopes[2]


def test_no_strip_shows_in_a_smooth_picture() -> None:
    ramp = np.tile(np.linspace(20, 230, 512).astype(np.uint8)[:, None, None], (1, 512, 3))
    result = enlarge(ramp, ImageParams(width=2048, height=2048)).astype(int)
    assert np.abs(np.diff(result, axis=0)).max() <= 2


def test_a_sharper_setting_changes_the_photo_more() -> None:
    plain, light, strong = (
        enlarge(astronaut(), ImageParams(width=1024, height=1024, sharpen=s)) for s in (0.0, 0.35, 1.0)
    )
    assert 0 < difference(light, plain) < difference(strong, plain)


def test_the_engine_leaves_a_result_with_its_sizes_and_repeats_itself() -> None:
    engine, data = PortableImage(), encode_png(astronaut())
    work = Work(ImageParams(width=1024, height=1024), {"image": (data,)}, seed=0)
    first, second = engine.run(work), engine.run(work)
    output = first.outputs["image"]
    assert (output.kind, output.media_type) == ("result", "image/png")
    assert decode(output.data).shape == (1024, 1024, 3)
    assert output.data == second.outputs["image"].data
    assert first.facts == {"from_width": 512, "from_height": 512, "width": 1024, "height": 1024}


def test_a_process_that_makes_the_full_size_stays_far_below_its_memory_bound() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 500
