"""The editing engines on tiny random pipelines of the published architectures: told their words, sizes and photos.

The pipelines bring every photo to about a million pixels, which is most of the time of a tiny one: their constants are
made smaller here, and nothing else of them is changed.
"""

import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux import pipeline_flux_kontext
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus
from safetensors.torch import load_file, save_file

from bench.counted import GPU, counted
from services.generate.edit import pipeline
from services.generate.edit.editors import KLEIN, KONTEXT, QWEN, Editor
from services.generate.edit.engine import EditGenerate
from services.generate.edit.references import references
from services.generate.stage import STAGE, EditParams, KleinParams, KontextParams, QwenEditParams
from shared.contracts.errors import Cancelled, InvalidInput, Permanent, ResourceExhausted
from shared.contracts.identity import FaceMeasure, FacePlace, IdentityRecord
from shared.flux.pulid.artifact import PulidAbout, PulidIdentity, save_identity
from shared.models.catalogue import load_models
from shared.models.device import DEVICE
from shared.models.lock import Pin, pin
from shared.models.process import residency, use_residency
from shared.models.residency import Budget, Residency
from shared.vision.codec import Image, decode, encode_png
from shared.worker.operation import Outcome, Params, Work
from tests.engines import tiny_edit


def pulid(*faces: FacePlace) -> bytes:
    """PuLID's identity, of the fewest numbers, with what is written down of the photos: none of older ones."""
    about = PulidAbout(models={}, fusion="mean", photos=len(faces) or 1, faces=faces or None)
    return save_identity(
        PulidIdentity(torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(about.photos, 512), about=about)
    )


PULID = pulid()
"""An identity that says nothing of the photos."""


class Kind(NamedTuple):
    editor: Editor
    params: type[EditParams]
    make: Callable[[], Any]
    model: str


KINDS = {
    "kontext": Kind(KONTEXT, KontextParams, tiny_edit.kontext, "flux1-kontext-dev"),
    "klein": Kind(KLEIN, KleinParams, tiny_edit.klein, "flux2-klein-4b"),
    "qwen": Kind(QWEN, QwenEditParams, tiny_edit.qwen, "qwen-image-edit-2511"),
}
STAGE_SPECS = STAGE.operations[0].engines
each = pytest.mark.parametrize("name", KINDS)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A tiny model of each kind, by its name."""
    with TemporaryDirectory() as name:
        for kind in KINDS.values():
            tiny_edit.write(kind.make, Path(name) / kind.editor.engine)
        yield Path(name)


@pytest.fixture(autouse=True, scope="module")
def small_references() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", [(96, 128), (128, 128), (128, 96)])
        patch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", 128 * 128)
        patch.setattr(pipeline_qwenimage_edit_plus, "CONDITION_IMAGE_SIZE", 112 * 112)
        yield


@pytest.fixture(autouse=True, scope="module")
def budget() -> Iterator[Residency]:
    with use_residency(Residency(Budget(10**9, 10**9))) as ours:
        yield ours


def engine(folder: Path, name: str) -> EditGenerate:
    return EditGenerate(KINDS[name].editor, folder, "cpu")


@cache
def photo(seed: int = 0, rows: int = 128, columns: int = 128) -> bytes:
    """Blots of colour."""
    coarse = np.random.default_rng(seed).integers(0, 256, (rows // 16, columns // 16, 3), np.uint8)
    return encode_png(coarse.repeat(16, axis=0).repeat(16, axis=1))


def work(name: str, *, seed: int = 7, photos: tuple[bytes, ...] = (photo(),), **params: Any) -> Work[EditParams]:
    small = {"model": name, "prompt": "a doctor in a ward", "width": 64, "height": 64, "steps": 2}
    return Work(KINDS[name].params(**{**small, **params}), {"photos": photos, "identity": (PULID,)}, seed)


def data(outcome: Outcome) -> bytes:
    return outcome.outputs["image"].data


def picture(outcome: Outcome) -> Image:
    return decode(data(outcome))


def face(
    number: int, *, quality: float = 0.5, box: tuple[float, float, float, float] = (50, 40, 20, 24)
) -> FaceMeasure:
    return FaceMeasure(
        photo=number, box=box, eyes=((55, 50), (65, 50)), yaw=0.0, pitch=0.0, roll=0.0, sharpness=100.0,
        exposure=120.0, quality=quality, embedding=(0.0,) * 128,
    )  # fmt: skip


def record(*faces: FaceMeasure, best: int = 0) -> bytes:
    return IdentityRecord(faces=faces, best=best, embedding=(0.0,) * 128, encoder="test").to_json()


Made = Callable[..., bytes]


@pytest.fixture(scope="module")
def made(folder: Path, budget: Residency) -> Made:
    """The picture of a work of that engine with these parameters, painted once. `budget` is in force then."""

    @cache
    def paint(name: str, **params: Any) -> bytes:
        return data(engine(folder, name).run(work(name, **params)))

    return paint


@each
def test_same_work_same_bytes_whatever_ran_before(folder: Path, made: Made, name: str) -> None:
    """Neither another job of the same engine nor the process's own random numbers leave a trace."""
    first = made(name)
    one = engine(folder, name)
    one.run(work(name, prompt="a cat", seed=8, width=96, steps=1))
    torch.manual_seed(99)
    assert data(one.run(work(name))) == first


@each
def test_seed_prompt_and_photo_each_change_the_picture(made: Made, name: str) -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 8}, {"prompt": "at sea"}, {"photos": (photo(1),)}]
    assert len({made(name, **change) for change in changes}) == len(changes)


def test_the_instruction_and_the_number_of_steps_change_the_picture(made: Made) -> None:
    assert len({made("qwen"), made("qwen", instruction="Draw"), made("qwen", steps=3)}) == 3


@pytest.mark.parametrize("name", ["kontext", "klein"])
def test_it_computes_on_a_gpu_in_its_dtype(folder: Path, name: str) -> None:
    """On a device that has no numbers, where tensors of two devices or dtypes that meet are an error.

    So the picture is black, which is found last. Qwen's encoder reads from a tensor how large the photos are.
    """
    with counted(), use_residency(Residency(Budget(10**9, 10**9))), pytest.raises(Permanent, match="one flat colour"):
        EditGenerate(KINDS[name].editor, folder, GPU).run(work(name))


@each
def test_the_picture_has_the_size_asked_for_whatever_the_photos(folder: Path, name: str) -> None:
    outcome = engine(folder, name).run(work(name, width=80, height=128, steps=1, photos=(photo(0, 96, 160),)))
    assert picture(outcome).shape == (128, 80, 3)
    assert outcome.facts["painted"] == [80, 128]


@pytest.mark.parametrize(("name", "most"), [("klein", 4), ("qwen", 3), ("kontext", 1)])
def test_as_many_photos_are_shown_as_the_pipeline_takes(folder: Path, made: Made, name: str, most: int) -> None:
    """The last of them is seen, too, and one more is not."""
    photos = tuple(photo(seed) for seed in range(5))
    outcome = engine(folder, name).run(work(name, photos=photos))
    assert outcome.facts == {
        "pipeline": KINDS[name].editor.pipeline,
        "photos_shown": list(range(most)),
        "other_faces_shown": [None] * most,
        "painted": [64, 64],
    }
    assert data(outcome) == made(name, photos=photos[:most]) != made(name, photos=(*photos[: most - 1], photo(1)))


@pytest.mark.parametrize("name", ["kontext", "qwen"])
def test_the_negative_prompt_acts_with_true_guidance_only(made: Made, name: str) -> None:
    assert made(name, cfg=1.0, negative_prompt="blur") == made(name, cfg=1.0)
    assert len({made(name, cfg=1.0), made(name, cfg=4.0), made(name, cfg=4.0, negative_prompt="blur")}) == 3


def test_kontext_is_told_its_distilled_guidance(made: Made) -> None:
    assert made("kontext", guidance=9.0) != made("kontext")


def test_distilled_weights_are_not_asked_for_true_guidance(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="klein is distilled") as refused:
        engine(folder, "klein").run(work("klein", cfg=3.0))
    assert refused.value.field == "cfg"


def test_weights_that_are_not_distilled_take_true_guidance(tmp_path: Path) -> None:
    tiny_edit.write(lambda: tiny_edit.klein(distilled=False), tmp_path / "klein")
    one = engine(tmp_path, "klein")
    assert data(one.run(work("klein", steps=1, cfg=3.0))) != data(one.run(work("klein", steps=1)))


@each
def test_progress_rises_step_by_step_and_a_cancelled_job_goes_no_further(folder: Path, made: Made, name: str) -> None:
    """And leaves nothing behind that the next job would see."""
    told: list[float] = []
    one, asked, before = engine(folder, name), work(name), made(name)

    def cancel(share: float) -> None:
        told.append(share)
        if len(told) == 2:
            raise Cancelled("no longer wanted")

    with pytest.raises(Cancelled):
        one.run(Work(asked.params, asked.inputs, 7, cancel))
    assert len(told) == 2
    told.clear()
    assert data(one.run(Work(asked.params, asked.inputs, 7, told.append))) == before
    assert told == pytest.approx([0.05, 0.5, 0.95])


def test_two_engines_share_one_copy_of_the_weights_and_give_it_back(folder: Path) -> None:
    with use_residency(Residency(Budget(10**9, 10**9))) as ours:
        assert residency() is ours
        for _ in range(2):
            engine(folder, "qwen").run(work("qwen", steps=1))
        assert ours.figures().loads == 1
        assert ours.on_device() == engine(folder, "qwen").resident_keys(work("qwen").params)
        assert ours.drop_idle() == 1


def test_a_machine_that_is_too_small_says_so_before_it_loads_anything(folder: Path) -> None:
    with use_residency(Residency(Budget(10**6, 10**6))) as ours:
        with pytest.raises(ResourceExhausted, match="klein, float32 needs"):
            engine(folder, "klein").run(work("klein"))
        assert ours.figures().loads == 0


@each
def test_what_ran_out_of_memory_is_painted_in_turns_on_the_device_and_gives_the_same_bytes(
    folder: Path, made: Made, name: str
) -> None:
    """Blocks and layers come from host memory; also after another plan, and before it."""
    one, offloaded = engine(folder, name), replace(work(name), plan=STAGE_SPECS[name].smaller_plans)
    with use_residency(Residency(Budget(10**9, 10**9))) as ours:
        assert data(one.run(offloaded)) == made(name)
        assert data(one.run(work(name))) == made(name)
        assert data(one.run(offloaded)) == made(name)
        assert ours.figures().loads == 2
    parts = pipeline.resident(folder / name, KINDS[name].editor, torch.float32, "cpu", offloaded=True).load()
    hooked = {
        part for part, module in parts.items() if any(hasattr(layer, "_diffusers_hook") for layer in module.modules())
    }
    assert hooked == parts.keys() - {"vae"}


@each
def test_where_there_is_no_room_for_a_whole_pipeline_its_parts_still_take_turns(folder: Path, name: str) -> None:
    place, editor = folder / name, KINDS[name].editor
    whole = pipeline.resident(place, editor, torch.float32, "cpu")
    (smaller,) = whole.smaller
    assert smaller.device_bytes < whole.device_bytes
    with use_residency(Residency(Budget(smaller.device_bytes, 10**9))) as ours:
        with pytest.raises(ResourceExhausted, match="What would fit: group offload"):
            engine(folder, name).run(work(name))
        assert picture(engine(folder, name).run(replace(work(name), plan=1))).shape == (64, 64, 3)
        assert ours.figures().device_bytes == smaller.device_bytes


def test_a_device_that_runs_out_of_memory_lets_go_of_what_nobody_uses(folder: Path) -> None:
    """And of the activations of the call that failed, which the error would else keep."""
    activations = []

    def fail(share: float) -> None:
        if share > 0.05:
            activation = torch.zeros(8)
            activations.append(weakref.ref(activation))
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {activation.nbytes} bytes more")

    with use_residency(Residency(Budget(10**9, 10**9))) as ours:
        engine(folder, "kontext").run(work("kontext", steps=1))
        with pytest.raises(ResourceExhausted, match=r"cpu ran out of memory .* 1 models that nobody uses"):
            engine(folder, "klein").run(replace(work("klein"), progress=fail))
        assert ours.on_device() == engine(folder, "klein").resident_keys(work("klein").params)
    assert activations[0]() is None


@each
def test_missing_weights_are_named_with_the_command_that_brings_them(tmp_path: Path, name: str) -> None:
    model = KINDS[name].model
    parse: Any = KINDS[name].params
    default = parse()
    assert default.model == model
    one = engine(tmp_path, name)
    with pytest.raises(Permanent, match=rf"{model}/model_index.json is missing. `doctorgen models download {model}`"):
        one.run(Work(default, {"photos": (photo(),), "identity": (PULID,)}, 7))
    with pytest.raises(Permanent, match=r"my-own/model_index.json is missing. `doctorgen models download my-own`"):
        one.run(work(name, model="my-own"))


def test_a_model_of_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"which the engine klein cannot use. Name flux2-klein-4b, or a folder"):
        engine(folder, "klein").run(work("klein", model="qwen-image-edit-2511"))
    with pytest.raises(Permanent, match="holds a FluxKontextPipeline, and the engine klein needs a Flux2KleinPipeline"):
        engine(folder, "klein").run(work("klein", model="kontext"))


def broken(tmp_path: Path, name: str, spoil: Callable[[Any], object] = lambda _: None) -> EditGenerate:
    def make() -> Any:
        pipeline = KINDS[name].make()
        spoil(pipeline)
        return pipeline

    tiny_edit.write(make, tmp_path / name)
    return engine(tmp_path, name)


@torch.no_grad()
def test_a_picture_that_is_none_is_no_result(tmp_path: Path) -> None:
    """Values that are no numbers would be shown as black."""
    one = broken(tmp_path / "a", "kontext", lambda made: made.vae.decoder.conv_out.bias.fill_(torch.nan))
    with pytest.raises(Permanent, match=r"are no finite numbers. Check the weights: `doctorgen models verify"):
        one.run(work("kontext", steps=1))
    one = broken(tmp_path / "b", "kontext", lambda made: made.vae.decoder.conv_out.weight.zero_())
    with pytest.raises(Permanent, match="one flat colour"):
        one.run(work("kontext", steps=1))


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_weights_with_a_tensor_missing_are_refused_and_not_filled_up_at_random(tmp_path: Path, part: str) -> None:
    one = broken(tmp_path, "klein")
    (file,) = (tmp_path / "klein" / part).glob("*.safetensors")
    weights = load_file(file)
    lost = max(name for name in weights if name.endswith("weight"))
    save_file({name: weight for name, weight in weights.items() if name != lost}, file, {"format": "pt"})
    with pytest.raises(Permanent, match=rf"1 tensors are missing \({lost}.*`doctorgen models download klein`"):
        one.run(work("klein"))


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    one = broken(tmp_path, "klein")
    (file,) = (tmp_path / "klein" / "transformer").glob("*.safetensors")
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(Permanent, match=r"pickles are not loaded.*`doctorgen models download klein`"):
        one.run(work("klein"))
    for other in (tmp_path / "klein").rglob("*.safetensors"):
        other.unlink()
    with pytest.raises(Permanent, match=r"no weights in safetensors in .*, and pickles are not loaded"):
        EditGenerate(KLEIN, tmp_path, "cpu").run(work("klein"))


def test_inputs_that_only_flux_understands_are_refused_and_not_ignored(folder: Path) -> None:
    asked = work("klein")
    more = {**asked.inputs, "identity_2": (PULID,), "style": (photo(),)}
    with pytest.raises(InvalidInput, match="it gives identity_2, style to the engine klein"):
        engine(folder, "klein").run(Work(asked.params, more, 7))


def test_models_are_named_by_the_digest_of_their_files(folder: Path, tmp_path: Path) -> None:
    one = engine(folder, "klein")
    mine = KleinParams(model="klein")
    assert one.models(mine).keys() == {"klein"}
    assert one.models(mine) != {"klein": one.models(KleinParams(model="qwen"))["qwen"]}
    assert one.models(KleinParams(model="nothing")) == {}
    with pytest.raises(Permanent, match="`doctorgen models download flux2-klein-4b` brings it"):
        one.models(KleinParams())
    known = load_models()["flux2-klein-4b"]
    for file in known.files:
        path = tmp_path / known.name / (f"{file.folder}/a.safetensors" if file.folder else file.path)
        path.parent.mkdir(parents=True)
        with path.open("wb") as empty:
            empty.truncate(file.size)
        pin(
            tmp_path,
            known.name,
            {path.relative_to(tmp_path / known.name).as_posix(): Pin(sha256="a" * 64, size=file.size)},
        )
    assert engine(tmp_path, "klein").models(KleinParams()).keys() == {"flux2-klein-4b"}


@each
def test_the_stage_builds_each_engine_from_the_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("DOCTORGEN_MODELS_DIR", str(folder))
    monkeypatch.setenv(DEVICE, "cpu")
    operation = STAGE.operation("generate.text_to_image")
    assert operation is not None
    spec = operation.engines[name]
    params = spec.parse({"model": name, "width": 64, "height": 64, "steps": 1}, "params")
    assert isinstance(params, KINDS[name].params)
    built = spec.build()
    assert built.models(params) == engine(folder, name).models(params)
    assert picture(built.run(Work[Params](params, work(name).inputs, 7))).shape == (64, 64, 3)
    assert KINDS[name].editor.place in load_models()[KINDS[name].model].default_for


def test_a_gpu_that_is_not_there_is_an_error_and_no_slow_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.delenv(DEVICE, raising=False)
    with pytest.raises(Permanent, match="cuda was asked for"):
        EditGenerate(KLEIN, folder).run(work("klein"))


def test_by_the_portable_record_the_subject_is_cut_out_and_the_best_photo_comes_first() -> None:
    photos = tuple(photo(seed, 1600, 1600) for seed in range(3))
    faces = (face(0, quality=0.2), face(1, quality=0.4, box=(700, 500, 100, 120)), face(2, quality=0.9))
    shown = references(photos, record(*faces, best=1), 4)
    assert [one.photo for one in shown] == [1, 2, 0]
    assert np.array_equal(shown[0].picture, decode(photos[1])[385:960, 500:1000])
    assert shown[1].picture.shape[0] >= 128 <= shown[1].picture.shape[1], "a small face keeps its surroundings"
    assert [one.photo for one in references(photos, record(*faces, best=1), 1)] == [1]


def test_by_pulids_identity_the_photos_are_shown_whole_in_their_order() -> None:
    """Where it says that nobody else is in them, and where it is too old to say where anybody is."""
    photos = tuple(photo(seed) for seed in range(3))
    alone = pulid(*(FacePlace(photo=number, box=(50, 40, 20, 24)) for number in range(3)))
    for identity, others in ((PULID, None), (alone, 0)):
        shown = references(photos, identity, 2)
        assert [(one.photo, one.others) for one in shown] == [(0, others), (1, others)]
        assert np.array_equal(shown[1].picture, decode(photos[1]))


LEFT, RIGHT, BESIDE_RIGHT = (100.0, 300.0, 120.0, 150.0), (400.0, 280.0, 120.0, 150.0), (460.0, 300.0, 110.0, 140.0)


@pytest.mark.parametrize("portable", [False, True])
def test_of_a_photo_of_several_people_the_one_who_is_meant_is_shown(*, portable: bool) -> None:
    """The photos are cut half way to the next face; one that lies over the subject's cannot be, and is told."""
    photos = (photo(0, 128, 128), photo(1, 1024, 1024), photo(2, 1024, 1024))
    places: list[dict[str, Any]] = [
        {"photo": 0, "box": (50.0, 40.0, 20.0, 24.0)},
        {"photo": 1, "box": LEFT, "others": (RIGHT,)},
        {"photo": 2, "box": RIGHT, "others": (LEFT, BESIDE_RIGHT)},
    ]
    if portable:
        identity = record(*(FaceMeasure(**{**face(0).model_dump(), **place}) for place in places))
    else:
        identity = pulid(*(FacePlace(**place) for place in places))
    shown = references(photos, identity, 3)
    assert [(one.photo, one.others) for one in shown] == [(0, 0), (1, 0), (2, 1)]
    assert np.array_equal(shown[0].picture, decode(photos[0])), "there is nobody else in it"
    assert np.array_equal(shown[1].picture, decode(photos[1])[165:855, :310])
    assert np.array_equal(shown[2].picture, decode(photos[2])[145:835, 310:760])


@each
def test_the_model_sees_the_person_who_is_meant_and_nothing_of_the_next(folder: Path, name: str) -> None:
    """What is left of the next person in a photo changes no byte; whom it is about does."""
    group = decode(photo(0, 512, 512)).copy()
    others = group.copy()
    others[:, 176:] = 0
    one, here, there = engine(folder, name), (56.0, 150.0, 80.0, 100.0), (216.0, 150.0, 80.0, 100.0)
    identities = [pulid(FacePlace(photo=0, box=box, others=(other,))) for box, other in ((here, there), (there, here))]

    def paint(image: Image, identity: bytes) -> bytes:
        asked = work(name, steps=1)
        return data(one.run(Work(asked.params, {"photos": (encode_png(image),), "identity": (identity,)}, 7)))

    left = paint(group, identities[0])
    assert paint(others, identities[0]) == left
    assert paint(group, identities[1]) != left


@pytest.mark.parametrize(("faces", "field"), [((face(1),), "photos"), ((face(0, box=(500, 500, 20, 20)),), "identity")])
def test_an_identity_of_other_photos_is_refused(faces: tuple[FaceMeasure, ...], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        references((photo(),), record(*faces), 1)
    assert refused.value.field == field


def test_a_model_index_that_is_damaged_says_so(tmp_path: Path) -> None:
    (tmp_path / "klein").mkdir()
    (tmp_path / "klein" / "model_index.json").write_text(json.dumps({})[:-1])
    with pytest.raises(Permanent, match=r"model_index.json cannot be read"):
        engine(tmp_path, "klein").run(work("klein"))
