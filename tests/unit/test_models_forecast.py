"""What a recipe would have in memory on a GPU of any size: the plans that docs/memory.md tells of, and the command."""

import json
from collections.abc import Sequence

import pytest
from pydantic import JsonValue

from doctor_image_gen.cli import plan
from doctor_image_gen.cli.plan import to_run
from doctor_image_gen.recipes import find_recipe
from shared.models.borrowing import FLUX_1, PULID_ATTENTIONS_BYTES, Borrowing, Painting, Whole, Words, borrowing
from shared.models.catalogue import load_models
from shared.models.forecast import ON_CPU, Forecast, StepForecast, StepToRun, forecast
from shared.models.memory import WORKING_BYTES, Memory, Plan
from shared.models.needs import PlannedStep
from shared.models.process import budget
from shared.models.residency import Budget
from shared.models.settings import Fp8, Speed
from tests.unit.typed import Type

GB = 10**9
FLUX = "flux1-dev with pulid_flux_v0.9.1"


def told(vram: float, ram: float = 128, recipe: str = "portrait", fp8: Fp8 | None = None) -> Forecast:
    device, host = (Memory(total_bytes=int(size * GB), free_bytes=int(size * GB)) for size in (vram, ram))
    steps = list(to_run(find_recipe(None, recipe), "flux", fp8))
    return forecast(steps, budget(device, host), Speed(fp8=fp8))


def hows(found: Forecast, model: str) -> set[str]:
    return {one.how for step in found.first for one in step.models if one.name == model}


@pytest.mark.parametrize(
    ("vram", "fp8", "how", "peak", "moved"),
    [
        (24, None, Plan.GROUP_OFFLOAD, 23.05, 0.0),
        (40, None, Plan.RESIDENT, 32.71, 62.21),
        (48, None, Plan.RESIDENT, 43.71, 61.68),
        (40, "weights", Plan.RESIDENT, 33.30, 37.93),
        (80, None, Plan.RESIDENT, 67.68, 0.0),
        (80, "weights", Plan.RESIDENT, 55.59, 0.0),
    ],
)
def test_the_plans_of_the_documentation(vram: float, fp8: Fp8 | None, how: Plan, peak: float, moved: float) -> None:
    """The portrait with 128 GB of host memory: after its first job no process reads a weight from the disk again."""
    found = told(vram, fp8=fp8)
    assert found.fits
    assert hows(found, FLUX) == hows(found, "REAL1SM_V3_FP8") == {how}
    assert hows(found, "text encoders of flux1-dev") == {Plan.RESIDENT}
    assert found.peak_bytes / GB == pytest.approx(peak, abs=0.3)
    assert found.peak_bytes <= vram * GB
    assert sum(step.loads for step in found.later) == 0
    assert sum(step.moved_bytes for step in found.later) / GB == pytest.approx(moved, abs=1.0)


@pytest.mark.parametrize("vram", [24, 40, 80])
def test_generate_and_the_detailers_read_one_flux(vram: float) -> None:
    found = told(vram)
    steps = {step.step: step for step in found.first}
    assert steps["generate"].loads == 2
    assert all(FLUX in {one.name for one in steps[name].models} for name in ("generate", "hands", "face_detail"))
    assert [steps[name].loads for name in ("hands", "face_detail")] == [1, 1], "a detector each, and no transformer"


def test_a_flux_that_is_there_for_nobody_takes_the_identity_s_modules() -> None:
    """Where another model painted the scene hands come first, for whom nobody is to be seen."""
    found = told(80, recipe="portrait-klein")
    steps = {step.step: step for step in found.first}
    assert {one.name for one in steps["hands"].models} >= {"flux1-dev"}
    assert {one.name for one in steps["face_detail"].models} >= {FLUX}
    assert steps["face_detail"].loads == 1, "a detector, and no transformer"
    before, after = steps["face"], steps["face_detail"]
    assert after.peak_bytes - before.peak_bytes < PULID_ATTENTIONS_BYTES + 0.2 * GB
    assert [step.loads for step in found.later if step.step in {"hands", "face_detail"}] == [0, 0]


def test_on_80_gb_all_models_stay() -> None:
    found = told(80)
    assert {one.name for step in found.first for one in step.models} == set(found.later[-1].on_device)


def test_a_job_s_words_are_read_once_for_all_its_steps() -> None:
    found = told(40)
    readers = [step.step for step in found.later if any("text encoders" in one.name for one in step.models)]
    assert readers == ["generate"]


def test_words_that_a_recipe_states_are_read_once_in_a_process() -> None:
    """What a step is led away from is read only where it acts; other encoders read the same words again."""
    stated: dict[str, JsonValue] = {"model": "flux1-dev", "prompt": "a hand"}

    def words(**params: JsonValue) -> Borrowing:
        return borrowing(load_models(), PlannedStep("x", "swap.hands", "flux", {**stated, **params}))

    steps = [
        StepToRun("hands", words()),
        StepToRun("again", words(negative_prompt="six fingers")),
        StepToRun("away", words(negative_prompt="six fingers", cfg=2.0)),
        StepToRun("single file", words(model="flux1-dev-single-file")),
    ]
    found = forecast(steps, Budget(74 * GB, 76 * GB))

    def readers(job: Sequence[StepForecast]) -> list[str]:
        return [step.step for step in job if any("text encoders" in one.name for one in step.models)]

    assert readers(found.first) == ["hands", "away", "single file"]
    assert readers(found.later) == []


def test_text_encoders_that_find_no_room_encode_on_the_cpu() -> None:
    assert hows(told(12), "text encoders of flux1-dev") == {ON_CPU}


def test_fp8_is_refused_where_the_transformer_does_not_fit_whole_first() -> None:
    found = told(24, fp8="weights")
    assert (found.fits, found.refused_step) == (False, "generate")
    assert "flux.fp8 needs the whole transformer of flux1-dev with pulid_flux_v0.9.1" in str(found.refused)


def test_what_fits_by_no_plan_says_which_step_and_what_it_needs() -> None:
    found = told(40, ram=32)
    assert found.refused_step == "generate"
    assert "group offload needs 2.49 GB and 24.81 GB" in str(found.refused)
    assert [step.step for step in found.first] == ["identity"]


def test_little_host_memory_reads_transformers_again_in_every_job() -> None:
    assert sum(step.loads for step in told(24, ram=64).later) > 0


def test_offloading_that_is_set_is_planned() -> None:
    steps = list(to_run(find_recipe(None, "portrait"), "flux", None))
    found = forecast(steps, Budget(74 * GB, 76 * GB), Speed(group_offload=True))
    assert hows(found, FLUX) == {Plan.GROUP_OFFLOAD}


def test_a_step_that_no_flux_identity_reaches_needs_no_pulid() -> None:
    """swap-classic paints nobody in particular: its identity is the portable engine's."""
    names = {one.name for step in told(80, recipe="swap-classic").first for one in step.models}
    assert "flux1-dev" in names
    assert not [name for name in names if "pulid" in name or "EVA" in name]


def test_a_transformer_in_one_file_has_the_encoders_beside_it() -> None:
    names = {one.name for step in told(80, recipe="pulid-fast").first for one in step.models}
    assert {"flux1-dev-fp8 with pulid_flux_v0.9.1", "text encoders of t5xxl_fp16"} <= names


def test_fp8_files_are_widened() -> None:
    """A file of 11.9 GB takes 23.8 GB once it is loaded; only the setting flux.fp8 keeps weights narrow."""
    step = PlannedStep("refine", "refine.photoreal", "flux", {"model": "REAL1SM_V3_FP8"})
    found = borrowing(load_models(), step)
    assert found.painting is not None
    assert (found.painting.need, found.painting.beside) == (FLUX_1, 168_000_000)
    assert found.words == Words(name="text encoders of flux1-dev", bytes=9_766_000_000)
    assert (found.alone, found.held) == ((), ())


def test_detectors_are_given_back_and_controlnets_are_held() -> None:
    hands = PlannedStep("hands", "swap.hands", "flux", {"model": "flux1-dev", "detector": "hand_yolov9c"})
    assert borrowing(load_models(), hands).alone == (Whole(name="hand_yolov9c", bytes=101_500_000),)
    controls = {"model": "flux1-dev", "controls": [{"model": "flux-controlnet-union-pro-2.0"}]}
    posed = PlannedStep("generate", "generate.text_to_image", "flux", controls)  # type: ignore[arg-type] # JSON
    assert [one.name for one in borrowing(load_models(), posed).held] == ["flux-controlnet-union-pro-2.0"]


def test_a_control_s_default_model_is_planned() -> None:
    """portrait-posed names the kind of its drawing alone."""
    names = {one.name for step in told(80, recipe="portrait-posed").first for one in step.models}
    assert "flux-controlnet-union-pro-2.0" in names


def test_who_tells_faces_apart_borrows_an_encoder() -> None:
    """The one that encoded the identity, so that it is read once."""
    portrait = find_recipe(None, "portrait")
    asked = [
        one.model_copy(update={"engines": {"flux": {**one.engines["flux"], "whose": "subject"}}})
        if one.name == "face_detail"
        else one
        for one in portrait.steps
    ]
    steps = list(to_run(portrait.model_copy(update={"steps": tuple(asked)}), "flux", None))
    (detail,) = [one.borrowing for one in steps if one.name == "face_detail"]
    assert [one.name for one in detail.alone] == ["face_yolov8m", "antelopev2"]
    found = {one.step: one for one in forecast(steps, Budget(74 * GB, 76 * GB)).first}
    assert found["face_detail"].loads == 1


def test_the_portable_engine_borrows_nothing() -> None:
    assert borrowing(load_models(), PlannedStep("x", "refine.photoreal", "portable", {})) == Borrowing()


def test_every_built_in_recipe_can_be_planned() -> None:
    for name in ("portrait", "portrait-plus", "portrait-posed", "portrait-restaged", "portrait-klein", "rehearsal"):
        assert told(80, recipe=name).fits, name


def test_a_painter_in_fp8_gives_back_what_it_takes_less_each_time_it_is_loaded() -> None:
    half = FLUX_1.weights // 2

    def step(name: str) -> StepToRun:
        asked = Painting(model=name, identity_model=None, need=FLUX_1, beside=0, fp8_saves=half)
        return StepToRun(name, Borrowing(painting=asked))

    found = forecast([step("one"), step("two")], Budget(25 * GB, 100 * GB), Speed(fp8="weights"))
    assert [one.moved_bytes for one in found.first] == [FLUX_1.weights, FLUX_1.weights]
    assert found.later[-1].on_device == ("one", "two")
    assert max(one.peak_bytes for one in found.later) == 2 * (FLUX_1.weights - half)


def test_the_command_says_whether_it_fits(type_in: Type) -> None:
    said = type_in("models", "plan", "--vram", "24", "--ram", "128")
    assert said.status == 0
    assert "flux1-dev with pulid_flux_v0.9.1: group offload" in said.out
    assert "fits: 2" in said.out
    said = type_in("models", "plan", "portrait", "--vram", "40", "--ram", "32")
    assert said.status == 1
    assert "does not fit: step generate:" in said.out


def test_the_same_for_machines(type_in: Type) -> None:
    said = type_in("models", "plan", "portrait-plus", "--vram", "80", "--ram", "128", "--json")
    assert said.status == 0
    document = json.loads(said.out)
    assert document["device_bytes"] == 80 * GB - WORKING_BYTES
    assert [step["step"] for step in document["later"]] == [step["step"] for step in document["first"]]


@pytest.mark.parametrize(("option", "value"), [("--vram", "0"), ("--vram", "-3"), ("--ram", "nan"), ("--ram", "inf")])
def test_a_size_that_is_none_is_refused(type_in: Type, option: str, value: str) -> None:
    sizes = {"--vram": "24", "--ram": "64"} | {option: value}
    said = type_in("models", "plan", *(f"{name}={size}" for name, size in sizes.items()))
    assert said.status == 2
    assert f"{option}: found {value}." in said.err


def test_without_a_gpu_its_size_must_be_told(type_in: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "device_memory", lambda: None)
    said = type_in("models", "plan")
    assert said.status == 2
    assert "--vram: there is no GPU here to ask" in said.err


def test_the_setting_says_how_large_the_gpu_is(type_in: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCTORGEN_VRAM_GB", "24")
    assert "on a GPU with 24.00 GB" in type_in("models", "plan", "--ram", "128").out
