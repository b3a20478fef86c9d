"""The finished picture is the same picture, a little more of a photograph."""

import numpy as np
import pytest
from pydantic import ValidationError

from services.refine.portable import PortablePhotoreal, finish
from services.refine.stage import STAGE, PhotorealParams
from shared.vision.blend import to_lab
from shared.vision.codec import decode, encode_png
from shared.vision.embedding import FaceEncoder, distance
from shared.vision.faces import FaceFinder
from shared.worker.operation import Work
from tests.pictures import astronaut, difference, psnr

NOTHING = PhotorealParams(tone=0.0, clarity=0.0, grain=0.0)


def test_the_stage_offers_one_seeded_operation_whose_engine_uses_no_weights() -> None:
    (operation,) = STAGE.operations
    assert (operation.name, operation.seeded) == ("refine.photoreal", True)
    assert operation.engines["portable"].build().models(PhotorealParams()) == {}


@pytest.mark.parametrize(("name", "value"), [("tone", 1.5), ("grain", -1.0), ("grain_size", 9.0), ("glow", 1.0)])
def test_a_parameter_out_of_range_or_unknown_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        PhotorealParams.model_validate({name: value})


def test_with_everything_off_the_picture_is_the_same() -> None:
    assert difference(finish(astronaut(), NOTHING, seed=1), astronaut()) < 1e-3


def test_the_picture_is_changed_gently() -> None:
    result = finish(astronaut(1024), PhotorealParams(), seed=1)
    assert 0.5 < difference(result, astronaut(1024)) < 6
    assert psnr(result, astronaut(1024)) > 28


def test_highlights_are_not_blown_and_the_exposure_stays() -> None:
    image = astronaut(1024)
    result = finish(image, PhotorealParams(tone=1.0, clarity=1.0), seed=1)
    assert (result >= 254).mean() <= (image >= 254).mean()
    assert abs(result.mean() - image.mean()) < 8
    assert result.max() > 200
    assert result.min() < 50


def test_colours_keep_their_hue() -> None:
    image = astronaut(1024)
    before, after = to_lab(image), to_lab(finish(image, PhotorealParams(), seed=1))
    assert np.abs(after[..., 1:] - before[..., 1:]).mean() < 1.0


def test_the_person_stays_the_person() -> None:
    finder, encoder, image = FaceFinder(), FaceEncoder(), astronaut(1024)
    result = finish(image, PhotorealParams(), seed=1)
    (before,), (after,) = finder.find(image), finder.find(result)
    assert distance(encoder.encode(image, before), encoder.encode(result, after)) < 0.15


def test_the_seed_decides_the_grain_and_nothing_else() -> None:
    engine, data = PortablePhotoreal(), encode_png(astronaut())
    first, same, other = (
        engine.run(Work(PhotorealParams(), {"image": (data,)}, seed)).outputs["image"] for seed in (1, 1, 2)
    )
    assert first.data == same.data != other.data
    assert first.kind == "intermediate"
    assert difference(decode(first.data), decode(other.data)) < 4
