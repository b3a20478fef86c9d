"""The engine of hands on tiny random weights: what it leaves alone, what it paints together, what it tells."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from services.swap.flux_hands import FluxHands
from services.swap.stage import STAGE, FluxHandsParams
from shared.contracts.errors import Cancelled, InvalidInput, Permanent
from shared.flux.params import Lora
from shared.flux.speed import Speed
from shared.flux.studio import studio_of
from shared.models.residency import Budget, Residency
from shared.vision.codec import Image, decode, encode_png
from shared.worker.operation import Outcome, TakesTurns, Work
from tests.engines.flux_studio import write_lora, write_models
from tests.engines.test_detailer_detector import write_detector

HEIGHT, WIDTH = 128, 160
BUDGET = Budget(100_000_000, 100_000_000)

ONE = ((60, 40, 90, 70),)
APART = ((10, 10, 30, 30), (70, 12, 90, 32), (120, 90, 140, 110), (40, 90, 60, 110))
FINDERS: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "one": ONE,
    "apart": APART,
    "nothing": (),
    "tiny-ones": ((10, 10, 18, 18), (60, 40, 69, 90)),
    "border": ((-8, 100, 22, 140), (140, -10, 170, 20)),
    "doubled": (*ONE, (61, 40, 91, 70)),
    "neighbours": ((20, 20, 40, 40), (36, 22, 56, 42), (110, 90, 130, 110)),
    "whole": ((0, 0, WIDTH, HEIGHT),),
    "large": ((60, 44, 100, 84),),
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        write_models(Path(name))
        write_lora(Path(name), "look")
        for finder, boxes in FINDERS.items():
            write_detector(Path(name) / finder, boxes, WIDTH, HEIGHT)
        yield Path(name)


@pytest.fixture(scope="module")
def engine(folder: Path) -> FluxHands:
    return FluxHands(studio_of(folder, "cpu", Residency(BUDGET)))


def gradient() -> Image:
    """Smooth in both directions, another way in each colour."""
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    shades = (60 + across * 0.7, 200 - down * 0.9, 40 + (across + down) * 0.5)
    return np.asarray(np.rint(np.stack(shades, axis=-1)), np.uint8)


PICTURE = gradient()
DATA = encode_png(PICTURE)

SMALL: dict[str, Any] = {
    "model": "tiny", "prompt": "a hand", "detector": "one", "guide_size": 64, "max_size": 96, "steps": 2,
    "crop_factor": 2.0,
}  # fmt: skip


def work(plan: int = 0, data: bytes = DATA, **params: Any) -> Work[FluxHandsParams]:
    return Work(FluxHandsParams(**{**SMALL, **params}), {"image": (data,)}, 5, plan=plan)


def picture(outcome: Outcome) -> Image:
    return decode(outcome.outputs["image"].data)


def crops(outcome: Outcome) -> list[dict[str, Any]]:
    told: Any = outcome.facts["crops"]
    return list(told)


def furthest(one: Image, other: Image) -> int:
    return int(np.abs(one.astype(int) - other).max())


# Nothing to do, and what cannot be done


def test_where_nothing_is_found_the_picture_passes_byte_for_byte_and_flux_is_not_loaded(folder: Path) -> None:
    residency = Residency(BUDGET)
    made = FluxHands(studio_of(folder, "cpu", residency)).run(work(detector="nothing"))
    assert made.outputs["image"].data == DATA
    assert (made.facts["hands"], made.facts["painted"], made.facts["crops"]) == (0, 0, [])
    assert "No hands were found" in str(made.facts["note"])
    assert residency.figures().loads == 1


def test_where_something_is_required_nothing_found_is_an_error(engine: FluxHands) -> None:
    for finder in ("nothing", "tiny-ones"):
        with pytest.raises(InvalidInput, match="it shows no hands") as refused:
            engine.run(work(detector=finder, required=True))
        assert refused.value.field == "image"


def test_what_is_too_small_is_left_alone_and_told(engine: FluxHands) -> None:
    made = engine.run(work(detector="tiny-ones"))
    assert made.outputs["image"].data == DATA
    assert [crop["skipped"] for crop in crops(made)] == ["drop_size", "drop_size"]


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"prompts": ("[SKIP]",)}, "prompt"),
        ({"dilation": -60}, "empty_mask"),
        ({"force_inpaint": False, "guide_size": 64, "detector": "whole"}, "large_enough"),
    ],
)
def test_where_all_is_left_alone_the_picture_passes_and_the_facts_say_why(
    engine: FluxHands, params: dict[str, Any], why: str
) -> None:
    made = engine.run(work(**params))
    assert made.outputs["image"].data == DATA
    assert [crop["skipped"] for crop in crops(made)] == [why]
    assert made.facts["hands"] == 1
    assert "None of the hands was to be painted" in str(made.facts["note"])


@pytest.mark.parametrize(
    ("part", "tensors", "named"),
    [
        ("transformer", "", "the transformer of broken gives"),
        ("vae", "encoder.", "the autoencoder of broken gives"),
        ("vae", "decoder.", "the autoencoder of broken: the decoded picture holds"),
    ],
)
def test_numbers_that_are_none_are_an_error_that_names_the_model(
    folder: Path, tmp_path: Path, part: str, tensors: str, named: str
) -> None:
    """Of the transformer, and of either half of the autoencoder."""
    (tmp_path / "one").symlink_to(folder / "one")
    shutil.copytree(folder / "tiny", tmp_path / "broken")
    weights = tmp_path / "broken" / part / "diffusion_pytorch_model.safetensors"
    found = load_file(weights)
    save_file({name: one * torch.nan if name.startswith(tensors) else one for name, one in found.items()}, weights)
    with pytest.raises(Permanent, match=named):
        FluxHands(studio_of(tmp_path, "cpu", Residency(BUDGET))).run(work(model="broken"))


def test_a_missing_detector_is_named_before_anything_is_loaded(folder: Path) -> None:
    residency = Residency(BUDGET)
    engine = FluxHands(studio_of(folder, "cpu", residency))
    for does in (engine.models, engine.resident_keys):
        with pytest.raises(Permanent, match=r"my-finder is to hold one \.onnx file"):
            does(work(detector="my-finder").params)
    with pytest.raises(Permanent, match=r"my-finder is to hold one \.onnx file"):
        engine.run(work(detector="my-finder"))
    assert residency.figures().loads == 0


# Borders and sizes


def test_what_reaches_beyond_the_picture_is_painted_up_to_its_border(engine: FluxHands) -> None:
    made = engine.run(work(detector="border"))
    boxes = [crop["box"] for crop in crops(made)]
    assert boxes == [[0, 100, 22, 28], [140, 0, 20, 20]]
    for x, y, width, height in (crop["region"] for crop in crops(made)):
        assert x >= 0
        assert y >= 0
        assert x + width <= WIDTH
        assert y + height <= HEIGHT
    changed = np.abs(picture(made).astype(int) - PICTURE).max(axis=2)
    assert changed[110:, :10].mean() > 5
    assert changed[:10, 150:].mean() > 5
    assert changed[40:80, 40:120].max() == 0


def test_a_picture_smaller_than_the_crop_is_painted_whole_and_keeps_its_odd_size(
    engine: FluxHands, folder: Path
) -> None:
    """37 x 29 pixels, of which 16 divides neither; the mask reaches the last row and column."""
    write_detector(folder / "small", ((4, 4, 37, 29),), 37, 29)
    small = np.ascontiguousarray(PICTURE[:29, :37])
    made = engine.run(work(detector="small", data=encode_png(small), crop_factor=3.0))
    (crop,) = crops(made)
    assert (crop["region"], crop["painted_px"]) == ([0, 0, 37, 29], [96, 80])
    assert picture(made).shape == small.shape
    changed = np.abs(picture(made).astype(int) - small).max(axis=2)
    assert changed[-1, 10:].mean() > 3
    assert changed[10:, -1].mean() > 3


def test_a_box_told_twice_is_painted_once(engine: FluxHands) -> None:
    made = engine.run(work(detector="doubled"))
    assert made.facts["painted"] == 1
    assert picture(made).tobytes() == picture(engine.run(work())).tobytes()


def test_outside_of_the_soft_mask_no_byte_changes(engine: FluxHands) -> None:
    """The box, half of the dilation and the feather about it."""
    made = picture(engine.run(work(feather=5, dilation=10)))
    changed = (made != PICTURE).any(axis=2)
    rows, columns = np.nonzero(changed)
    reach = 5 + 5 + 1
    assert rows.min() >= 40 - reach
    assert rows.max() <= 70 + reach
    assert columns.min() >= 60 - reach
    assert columns.max() <= 90 + reach
    assert changed[45:65, 65:85].mean() > 0.95


# Together and one by one


def test_a_batch_of_crops_equals_one_by_one(engine: FluxHands) -> None:
    """Within one level of 255: sums in another order round otherwise."""
    together, alone = (engine.run(work(detector="apart", max_batch=most)) for most in (4, 1))
    assert [crop["batch_of"] for crop in crops(together)] == [4, 4, 4, 4]
    assert [crop["batch"] for crop in crops(alone)] == [1, 2, 3, 4]
    assert [crop["seed"] for crop in crops(together)] == [5, 6, 7, 8]
    assert furthest(picture(together), picture(alone)) <= 1
    assert furthest(picture(together), PICTURE) > 20


def test_in_a_batch_too_each_cycle_has_the_next_seed(engine: FluxHands) -> None:
    together, alone = (engine.run(work(detector="apart", cycles=2, cfg=2.0, max_batch=most)) for most in (3, 1))
    assert furthest(picture(together), picture(alone)) <= 1
    assert furthest(picture(together), picture(engine.run(work(detector="apart", cfg=2.0)))) > 1


def test_a_smaller_plan_paints_one_by_one_and_the_same(engine: FluxHands, folder: Path) -> None:
    """By blocks from host memory, after the step ran out of memory."""
    less = engine.run(work(plan=1, detector="apart"))
    assert [crop["batch_of"] for crop in crops(less)] == [1, 1, 1, 1]
    assert furthest(picture(less), picture(engine.run(work(detector="apart")))) <= 1


def test_beside_a_cache_of_steps_crops_are_painted_one_by_one(folder: Path) -> None:
    """It decides for a whole batch, so that one crop's picture would depend on the others."""
    engine = FluxHands(studio_of(folder, "cpu", Residency(BUDGET), Speed(first_block_cache=0.1)))
    assert {crop["batch_of"] for crop in crops(engine.run(work(detector="apart")))} == {1}


def test_what_overlaps_sees_what_was_painted_before(engine: FluxHands) -> None:
    """The second differs from what it is if painted first, and is in a later batch; the third goes with the first."""
    first = engine.run(work(detector="neighbours"))
    assert [crop["batch"] for crop in crops(first)] == [1, 2, 1]
    other = engine.run(work(detector="neighbours", order="right_to_left"))
    assert [crop["box"][0] for crop in crops(other)] == [110, 36, 20]
    assert furthest(picture(first)[45:, :100], PICTURE[45:, :100]) > 0
    assert furthest(picture(first), picture(other)) > 5


def test_each_has_its_own_words_and_what_is_skipped_stays(engine: FluxHands) -> None:
    plain = picture(engine.run(work(detector="apart")))
    told = engine.run(work(detector="apart", prompts=("a hand", "a fist", "[SKIP]")))
    assert [crop.get("skipped") for crop in crops(told)] == [None, None, "prompt", None]
    made = picture(told)
    assert furthest(made[:45, :45], plain[:45, :45]) <= 1
    assert furthest(made[:45, 60:105], plain[:45, 60:105]) > 3
    np.testing.assert_array_equal(made[80:120, 110:150], PICTURE[80:120, 110:150])
    assert furthest(made[80:, :80], plain[80:, :80]) <= 1


# Parameters act


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a fist"}, {"steps": 3}, {"denoise": 0.9}, {"guidance": 9.0}, {"cfg": 4.0}, {"scheduler": "beta"},
        {"feather": 0}, {"noise_mask": False}, {"noise_mask_feather": 0}, {"dilation": 0}, {"cycles": 2},
        {"max_size": 80}, {"crop_factor": 3.0}, {"loras": (Lora(model="look"),)}, {"shift": None},
    ],
    ids=str,
)  # fmt: skip
def test_each_parameter_changes_the_picture(engine: FluxHands, change: dict[str, Any]) -> None:
    assert furthest(picture(engine.run(work(**change))), picture(engine.run(work()))) > 0


def test_same_work_same_bytes_whatever_the_engine_did_before(engine: FluxHands, folder: Path) -> None:
    first = FluxHands(studio_of(folder, "cpu", Residency(BUDGET))).run(work()).outputs["image"].data
    engine.run(work(prompt="a cat", loras=(Lora(model="look"),), cfg=3.0, negative_prompt="blur"))
    assert engine.run(work()).outputs["image"].data == first


# Seams


def steps(image: Image, first: int, last: int) -> float:
    """The largest step from a column to the next one in any colour, of the mean over the rows of the box's middle.

    A visible edge is one that many rows have in common.
    """
    columns = image[48:81].astype(float).mean(axis=0)
    return float(np.abs(np.diff(columns, axis=0))[first:last].max())


def test_the_paste_leaves_no_visible_square(engine: FluxHands) -> None:
    """On a smooth picture, from the untouched part over the mask's edges (about columns 56 and 105) to the painted one.

    Random weights paint other colours altogether: the worst case. No step over the edge is larger than 1.25 times those
    of the painted part's own texture; a hard paste's is, which shows that the bound says something.
    """
    made = {
        feather: picture(
            engine.run(work(detector="large", feather=feather, guide_size=160, max_size=320, noise_mask=False))
        )
        for feather in (0, 5)
    }
    hard, soft = (max(steps(made[feather], 46, 66), steps(made[feather], 94, 114)) for feather in (0, 5))
    texture = steps(made[5], 68, 92)
    assert soft <= 1.25 * texture < hard


# What is told


def test_the_facts_tell_of_each_crop(engine: FluxHands) -> None:
    made = engine.run(work(steps=3))
    assert made.facts["detector"] == "one"
    assert made.facts["identity"] == "none"
    assert made.facts["prompt_tokens_left_out"] == 0
    (crop,) = crops(made)
    assert crop.pop("first_sigma") == pytest.approx(0.7595, abs=1e-3)
    assert crop == {
        "box": [60, 40, 30, 30], "score": 0.95, "region": [45, 25, 60, 60], "painted_px": [96, 96], "steps": 3,
        "seed": 5, "batch": 1, "batch_of": 1,
    }  # fmt: skip


def test_progress_rises_over_crops_cycles_and_steps_and_a_cancelled_job_goes_no_further(engine: FluxHands) -> None:
    told: list[float] = []
    shown: list[bytes] = []
    asked = work(detector="neighbours", cycles=2)
    engine.run(Work(asked.params, asked.inputs, 5, told.append, show=shown.append))
    assert told == pytest.approx([0.05, *(0.05 + 0.9 * share / 12 for share in (2, 4, 6, 8, 9, 10, 11, 12))])
    assert shown
    assert all(len(one) < 16_384 for one in shown)
    told.clear()

    def cancel(share: float) -> None:
        told.append(share)
        if len(told) == 3:
            raise Cancelled("no longer wanted")

    with pytest.raises(Cancelled):
        engine.run(Work(asked.params, asked.inputs, 5, cancel))
    assert len(told) == 3


def test_models_are_named_by_their_digests_the_detector_too(engine: FluxHands) -> None:
    models = engine.models(work(loras=(Lora(model="look"),)).params)
    assert set(models) == {"tiny", "one", "look"}
    assert all(len(digest) == 64 for digest in models.values())
    assert engine.models(work(detector="apart").params)["apart"] != models["one"]


def test_what_a_step_borrows_is_told_beforehand(folder: Path) -> None:
    residency = Residency(BUDGET)
    engine = FluxHands(studio_of(folder, "cpu", residency))
    assert isinstance(engine, TakesTurns)
    wanted = engine.resident_keys(work().params)
    assert not wanted & residency.on_device()
    engine.run(work())
    assert wanted <= residency.on_device()


def test_the_stage_names_this_engine_and_its_published_defaults() -> None:
    operation = STAGE.operation("swap.hands")
    assert operation is not None
    params = operation.engines["flux"].parse({}, "params")
    assert isinstance(params, FluxHandsParams)
    assert (params.guide_size, params.max_size, params.steps, params.denoise) == (512, 1024, 20, 0.5)
    assert (params.feather, params.noise_mask_feather, params.drop_size, params.cycles) == (5, 20, 10, 1)
    assert (params.min_score, params.dilation, params.crop_factor) == (0.5, 10, 3.0)
    assert (params.force_inpaint, params.noise_mask, params.guide_size_for) == (True, True, "bbox")
