"""The flux engine on tiny random weights: a pure function of its work, told its words, its sizes and whose face."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml

from doctor_image_gen import recipes
from services.generate.flux import FluxGenerate
from services.generate.stage import STAGE, FluxParams
from shared.contracts.errors import Cancelled, InvalidInput, Permanent
from shared.flux import tiny
from shared.flux.params import Lora
from shared.flux.parts import adapter_file, parts
from shared.flux.pulid.artifact import PulidAbout, PulidIdentity, save_identity
from shared.flux.schedules import SCHEDULERS
from shared.flux.studio import studio_of
from shared.models.catalogue import load_models
from shared.models.device import DEVICE
from shared.models.lock import Pin, pin, pin_of
from shared.models.process import use_residency
from shared.models.residency import Budget, Residency
from shared.models.settings import Speed
from shared.models.shelf import Shelf
from shared.vision.codec import Image, decode
from shared.worker.operation import Outcome, Params, TakesTurns, Work
from tests.engines.flux_studio import ID_WIDTH, TOKENS, write_lora, write_models

BUDGET_BYTES = 100_000_000
PORTABLE = b'{"schema_version": 1}'
"""What the portable identity engine hands on is JSON; nothing in it is of use to FLUX."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        write_models(Path(name))
        write_lora(Path(name), "look")
        yield Path(name)


@pytest.fixture(scope="module")
def engine(folder: Path) -> FluxGenerate:
    return fresh(folder)


def fresh(folder: Path) -> FluxGenerate:
    """An engine that has loaded nothing yet, nor has its residency."""
    return FluxGenerate(studio_of(folder, "cpu", Residency(Budget(BUDGET_BYTES, BUDGET_BYTES))))


@cache
def who(seed: int = 0, model: str = "pulid_flux_v0.9.1", nobody: int = 99) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    tokens = 3 * torch.randn(TOKENS, ID_WIDTH, generator=generator)
    about = PulidAbout(models={"idformer": model}, fusion="mean", photos=1)
    uncond = torch.randn(TOKENS, ID_WIDTH, generator=torch.Generator().manual_seed(nobody))
    return save_identity(PulidIdentity(tokens, uncond, torch.zeros(1, 512), about))


def work(seed: int = 7, identity: bytes = PORTABLE, **params: Any) -> Work[FluxParams]:
    small = {"model": "tiny", "prompt": "a doctor in a ward", "width": 64, "height": 64, "steps": 2}
    return Work(FluxParams(**{**small, **params}), {"photos": (b"",), "identity": (identity,)}, seed)


Made = Callable[..., bytes]


@pytest.fixture(scope="module")
def made(engine: FluxGenerate) -> Made:
    """The picture of a work with these parameters, painted once."""
    known: dict[tuple[tuple[str, Any], ...], bytes] = {}

    def paint(**params: Any) -> bytes:
        key = tuple(sorted(params.items()))
        if key not in known:
            known[key] = data(engine.run(work(**params)))
        return known[key]

    return paint


def picture(outcome: Outcome) -> Image:
    return decode(outcome.outputs["image"].data)


def data(outcome: Outcome) -> bytes:
    return outcome.outputs["image"].data


def test_same_work_same_bytes_whatever_the_engine_did_before(folder: Path, engine: FluxGenerate) -> None:
    """Other words, another subject and true guidance in between leave no trace."""
    first = data(fresh(folder).run(work()))
    engine.run(work(prompt="a cat", identity=who(), cfg=3.0, cfg_start_step=0, negative_prompt="blur"))
    assert data(engine.run(work())) == first


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"prompt": "a doctor at sea"},
        {"steps": 4},
        {"scheduler": "beta"},
        {"shift": None},
        {"guidance": 10.0},
        {"cfg": 4.0},
        {"identity": who()},
    ],
)
def test_each_parameter_changes_the_picture(made: Made, change: dict[str, Any]) -> None:
    assert made(**change) != made()


def test_the_negative_prompt_acts_with_true_guidance_only(made: Made) -> None:
    assert made(negative_prompt="blur") == made()
    assert made(cfg=4.0, negative_prompt="blur") != made(cfg=4.0)
    assert made(cfg=4.0, cfg_start_step=2) == made()


@pytest.mark.parametrize(("width", "height"), [(64, 64), (128, 80), (80, 128)])
def test_the_picture_has_the_size_asked_for(engine: FluxGenerate, width: int, height: int) -> None:
    assert picture(engine.run(work(width=width, height=height, steps=1))).shape == (height, width, 3)


def test_each_subject_has_a_picture_of_their_own(made: Made) -> None:
    assert len({made(identity=who(0)), made(identity=who(1)), made()}) == 3


def test_the_manifest_is_told_whether_an_identity_was_held_and_whether_all_words_were_read(
    engine: FluxGenerate,
) -> None:
    held = engine.run(work(steps=1, identity=who())).facts
    assert (held["identity"], held["prompt_tokens_left_out"]) == ("pulid_flux_v0.9.1", 0)
    facts = engine.run(work(steps=1, prompt="x" * 600)).facts
    assert facts["identity"] == "none"
    assert facts["prompt_tokens_left_out"] in range(85, 92)


def test_the_identity_acts_as_strongly_and_as_early_as_asked(made: Made) -> None:
    plain = decode(made()).astype(float)

    def moved(**params: Any) -> float:
        return float(np.abs(decode(made(identity=who(), **params)) - plain).mean())

    assert moved(identity_weight=0.0) == 0
    assert moved(identity_start_step=2) == 0
    assert 0 < moved(identity_start_step=1) < moved()
    assert moved(identity_weight=0.3) < moved()


def test_the_negative_branch_sees_nobodys_tokens(made: Made) -> None:
    """Other tokens of nobody's change the picture with true guidance, and only then."""
    one, two = who(), who(nobody=98)
    assert made(identity=one) == made(identity=two)
    assert made(identity=one, cfg=3.0) != made(identity=two, cfg=3.0)


def test_another_version_of_pulid_is_taken_up_without_a_trace_of_the_first(folder: Path, engine: FluxGenerate) -> None:
    older = work(steps=1, identity=who(0, "pulid_flux_v0.9.0"), identity_model="pulid_flux_v0.9.0")
    newer = work(steps=1, identity=who())
    before = data(engine.run(newer))
    assert data(engine.run(older)) == data(fresh(folder).run(older)) != before
    assert data(engine.run(newer)) == before


def test_an_identity_of_another_version_of_pulid_is_refused(engine: FluxGenerate) -> None:
    with pytest.raises(InvalidInput, match=r"the identity was encoded by pulid_flux_v0\.9\.0") as refused:
        engine.run(work(identity=who(0, "pulid_flux_v0.9.0")))
    assert refused.value.field == "identity_model"


@pytest.mark.parametrize(
    ("params", "missing"),
    [
        ({"model": "flux1-dev"}, "flux1-dev/model_index.json"),
        ({"model": "flux1-dev-fp8"}, "flux1-dev-fp8/flux1-dev-fp8.safetensors"),
        ({"model": "my-own"}, "my-own/model_index.json"),
    ],
)
def test_missing_weights_are_named_with_the_command_that_brings_them(
    engine: FluxGenerate, params: dict[str, Any], missing: str
) -> None:
    name = Path(missing).parent
    with pytest.raises(Permanent, match=f"{missing} is missing. `doctorgen models download {name}`"):
        engine.run(work(**params))


def test_a_missing_identity_model_is_named_with_what_brings_it(engine: FluxGenerate) -> None:
    name = "pulid_flux_v9"
    with pytest.raises(Permanent, match=f"{name}/identity_index.json is missing.*`doctorgen models download`"):
        engine.run(work(identity=who(0, name), identity_model=name))


def test_a_model_of_single_files_is_found_with_the_files_it_needs(tmp_path: Path) -> None:
    """The files are as large as they are published, and empty."""
    catalogue = load_models()
    for model in catalogue.with_requirements("flux1-dev-fp8"):
        for file in model.files:
            path = tmp_path / model.name / (f"{file.folder}/tokenizer.json" if file.folder else file.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as empty:
                empty.truncate(file.size)
    where = parts(tmp_path, "flux1-dev-fp8")
    encoders = where.encoders
    found = (where.transformer, where.vae, encoders.clip_tokenizer, encoders.clip, encoders.t5_tokenizer, encoders.t5)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "flux1-dev-fp8/flux1-dev-fp8.safetensors",
        "ae/ae.safetensors",
        "flux-tokenizers/tokenizer",
        "clip_l/clip_l.safetensors",
        "flux-tokenizers/tokenizer_2",
        "t5xxl_fp16/t5xxl_fp16.safetensors",
    ]
    (tmp_path / "ae" / "ae.safetensors").unlink()
    with pytest.raises(Permanent, match=r"ae\.safetensors is missing. `doctorgen models download ae`"):
        parts(tmp_path, "flux1-dev-fp8")


def test_a_transformer_that_comes_alone_has_the_rest_of_the_model_that_it_requires(tmp_path: Path) -> None:
    catalogue = load_models()
    for model in catalogue.with_requirements("REAL1SM_V3_FP8"):
        for file in model.files:
            path = tmp_path / model.name / (f"{file.folder}/all" if file.folder else file.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as empty:
                empty.truncate(file.size)
    where, base = parts(tmp_path, "REAL1SM_V3_FP8"), parts(tmp_path, "flux1-dev")
    assert where.transformer == tmp_path / "REAL1SM_V3_FP8" / "REAL1SM_V3_FP8.safetensors"
    assert (where.vae, where.encoders) == (base.vae, base.encoders)


def test_an_adapters_file_has_its_folders_name_or_is_alone_there(tmp_path: Path) -> None:
    own = tmp_path / "look"
    own.mkdir()
    with pytest.raises(Permanent, match=r"look/look\.safetensors is missing. `doctorgen models download look`"):
        adapter_file(tmp_path, "look")
    (own / "v2.safetensors").touch()
    assert adapter_file(tmp_path, "look") == own / "v2.safetensors"
    (own / "v3.safetensors").touch()
    with pytest.raises(Permanent, match=r"holds 2 files. Call the one that is meant look\.safetensors"):
        adapter_file(tmp_path, "look")
    (own / "look.safetensors").touch()
    assert adapter_file(tmp_path, "look") == own / "look.safetensors"


def test_an_adapter_acts_as_strongly_as_asked_and_leaves_no_trace(folder: Path, made: Made) -> None:
    plain = made(steps=1)
    one = made(steps=1, loras=(Lora(model="look"),))
    assert len({plain, one, made(steps=1, loras=(Lora(model="look", strength=0.5),))}) == 3
    assert made(steps=1, loras=(Lora(model="look", strength=0.5), Lora(model="look", strength=0.5))) == one
    assert made(steps=1, loras=(), seed=7) == plain


def test_a_model_of_another_kind_is_refused(engine: FluxGenerate) -> None:
    with pytest.raises(InvalidInput, match="inswapper_128 is a face swapper"):
        engine.run(work(model="inswapper_128"))


def test_a_gpu_that_is_not_there_is_an_error_and_no_slow_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.delenv(DEVICE, raising=False)
    with pytest.raises(Permanent, match="cuda was asked for"):
        FluxGenerate(studio_of(folder)).run(work())


def test_progress_rises_step_by_step_and_a_cancelled_job_goes_no_further(engine: FluxGenerate) -> None:
    told: list[float] = []
    asked = work(steps=4)
    engine.run(Work(asked.params, asked.inputs, 7, told.append))
    assert told == pytest.approx([0.05, 0.275, 0.5, 0.725, 0.95])
    told.clear()

    def cancel(share: float) -> None:
        told.append(share)
        if len(told) == 3:
            raise Cancelled("no longer wanted")

    with pytest.raises(Cancelled):
        engine.run(Work(asked.params, asked.inputs, 7, cancel))
    assert len(told) == 3


TINY = FluxParams(model="tiny")


def test_models_are_named_by_the_digest_of_their_files(folder: Path, tmp_path: Path) -> None:
    models = fresh(folder).models(TINY)
    assert set(models) == {"tiny", "pulid_flux_v0.9.1"}
    older = TINY.model_copy(update={"identity_model": "pulid_flux_v0.9.0"})
    assert set(fresh(folder).models(older)) == {"tiny", "pulid_flux_v0.9.0"}
    assert models["pulid_flux_v0.9.1"] == Shelf(folder).own_digest("pulid_flux_v0.9.1")
    tiny.write(tmp_path / "tiny")
    tiny.write(tmp_path / "other", seed=1)
    elsewhere = fresh(tmp_path)
    other = TINY.model_copy(update={"model": "other"})
    assert elsewhere.models(TINY)["tiny"] == models["tiny"] != elsewhere.models(other)["other"]


def test_adapters_and_settings_that_change_pictures_are_named_with_the_models(folder: Path) -> None:
    look = TINY.model_copy(update={"loras": (Lora(model="look"), Lora(model="look", strength=0.5))})
    assert set(fresh(folder).models(look)) == {"tiny", "pulid_flux_v0.9.1", "look"}
    quick = FluxGenerate(studio_of(folder, "cpu", speed=Speed(fused_qkv=True)))
    assert set(quick.models(TINY)) == {"tiny", "pulid_flux_v0.9.1", "tiny/settings"}


def test_what_a_step_borrows_is_told_beforehand(folder: Path) -> None:
    residency = Residency(Budget(BUDGET_BYTES, BUDGET_BYTES))
    engine = FluxGenerate(studio_of(folder, "cpu", residency))
    assert isinstance(engine, TakesTurns)
    wanted = engine.resident_keys(TINY)
    assert not wanted & residency.on_device()
    engine.run(work(steps=1, identity=who()))
    assert wanted <= residency.on_device()


def test_a_pinned_file_is_not_read_again(tmp_path: Path) -> None:
    name = "pulid_flux_v0.9.1"
    (tmp_path / name).mkdir()
    file = tmp_path / name / f"{name}.safetensors"
    file.write_bytes(b"weights")
    pin(tmp_path, name, {file.name: Pin(sha256="a" * 64, size=7)})
    assert fresh(tmp_path).models(TINY) == {name: "a" * 64}
    file.write_bytes(b"other weights")
    assert fresh(tmp_path).models(TINY) == {name: pin_of(file).sha256}


def test_where_no_weights_are_there_are_no_models(tmp_path: Path) -> None:
    assert fresh(tmp_path / "nothing").models(TINY) == {}


def test_the_folder_and_the_device_are_those_of_the_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCTORGEN_MODELS_DIR", str(folder))
    monkeypatch.setenv(DEVICE, "cpu")
    operation = STAGE.operation("generate.text_to_image")
    assert operation is not None
    built = operation.engines["flux"].build()
    assert "tiny" in built.models(TINY)
    asked = work(steps=1)
    with use_residency(Residency(Budget(BUDGET_BYTES, BUDGET_BYTES))) as process:
        assert picture(built.run(Work[Params](asked.params, asked.inputs, asked.seed))).shape == (64, 64, 3)
        assert process.figures().loads == 2


def test_the_portrait_recipe_and_the_schedules_names_are_understood() -> None:
    document = yaml.safe_load((Path(recipes.__file__).parent / "portrait.yaml").read_text("utf-8"))
    asked = next(step for step in document["steps"] if step["name"] == "generate")
    params = FluxParams(**asked["params"], **asked["engines"]["flux"])
    assert (params.model, params.steps, params.scheduler, params.identity_weight) == ("flux1-dev", 100, "beta", 0.85)
    assert get_args(FluxParams.model_fields["scheduler"].annotation) == SCHEDULERS


@pytest.mark.parametrize("wrong", [{"width": 100}, {"width": 48}, {"height": 2064}, {"steps": 0}, {"cfg": 0.5},
                                   {"model": "../secret"}, {"sampler": "dpm"}, {"identity_weight": 3.5}])  # fmt: skip
def test_parameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    operation = STAGE.operation("generate.text_to_image")
    assert operation is not None
    with pytest.raises(InvalidInput) as refused:
        operation.engines["flux"].parse(wrong, "params")
    assert refused.value.field == f"params.{next(iter(wrong))}"
