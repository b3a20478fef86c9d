"""The flux engine of refine on tiny random weights: the picture painted anew, in its own size, as the schedule says."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from services.generate.flux import FluxGenerate
from services.generate.stage import FluxParams
from services.refine.flux import FluxPhotoreal, padded
from services.refine.stage import STAGE, FluxPhotorealParams
from shared.contracts.errors import Cancelled, InvalidInput, Permanent
from shared.flux import parts as lying
from shared.flux import studio as studios
from shared.flux import tiny
from shared.flux.decode import decode as painted
from shared.flux.decode import encode
from shared.flux.denoise import Branch, denoise, start
from shared.flux.latents import noise
from shared.flux.layout import WEIGHTS
from shared.flux.levels import noise_levels
from shared.flux.loading import load_transformer
from shared.flux.studio import Studio, studio_of
from shared.models.catalogue import parse
from shared.models.residency import Budget, Residency
from shared.models.settings import Speed
from shared.vision.codec import Image, decode, encode_png
from shared.worker.operation import Outcome, TakesTurns, Work
from tests.engines.flux_studio import write_lora
from tests.engines.test_flux_loading import FP8, SHALLOW, published_shapes, rows_told_apart, save_sparse
from tests.pictures import astronaut, difference

BUDGET_BYTES = 100_000_000


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        tiny.write(Path(name) / "tiny")
        write_lora(Path(name), "look")
        yield Path(name)


@pytest.fixture(scope="module")
def engine(folder: Path) -> FluxPhotoreal:
    return fresh(folder)


def fresh(folder: Path) -> FluxPhotoreal:
    """An engine that has loaded nothing yet, nor has its residency."""
    return FluxPhotoreal(studio_of(folder, "cpu", Residency(Budget(BUDGET_BYTES, BUDGET_BYTES))))


def photo(width: int = 64, height: int = 64) -> Image:
    return np.asarray(cv2.resize(astronaut(), (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def params(**more: Any) -> FluxPhotorealParams:
    small = {"model": "tiny", "prompt": "a doctor", "steps": 2, "denoise": 0.5, "scheduler": "simple"}
    return FluxPhotorealParams(**{**small, **more})


def work(image: Image | None = None, seed: int = 7, plan: int = 0, **more: Any) -> Work[FluxPhotorealParams]:
    shown = encode_png(photo() if image is None else image)
    return Work(params(**more), {"image": (shown,)}, seed, plan=plan)


def data(outcome: Outcome) -> bytes:
    return outcome.outputs["image"].data


def picture(outcome: Outcome) -> Image:
    return decode(data(outcome))


def test_same_work_same_bytes_whatever_the_engine_did_before(folder: Path, engine: FluxPhotoreal) -> None:
    first = data(fresh(folder).run(work()))
    engine.run(work(prompt="a cat", cfg=3.0, cfg_start_step=0, negative_prompt="blur"))
    assert data(engine.run(work())) == first


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"prompt": "a doctor at sea"},
        {"steps": 3},
        {"denoise": 0.9},
        {"scheduler": "beta"},
        {"shift": 0.5},
        {"guidance": 10.0},
        {"cfg": 4.0},
        {"image": photo()[::-1].copy()},
    ],
)
def test_each_parameter_changes_the_picture(engine: FluxPhotoreal, change: dict[str, Any]) -> None:
    assert data(engine.run(work(**change))) != data(engine.run(work()))


def test_a_picture_of_one_tile_is_the_untiled_path_bit_by_bit(folder: Path, engine: FluxPhotoreal) -> None:
    """Encoded, noised as ComfyUI noises it, sampled and decoded with nothing in between; a longer tile is the same."""
    image, asked = photo(256, 128), params(tile=256, overlap=64)
    outcome = engine.run(work(image, tile=256, overlap=64))
    studio = Studio(folder, "cpu", torch.float32, Residency(Budget(BUDGET_BYTES, BUDGET_BYTES)))
    words, levels = studio.prompt("tiny", "a doctor"), noise_levels(asked, 256, 128, 0.5)
    with studio.painting("tiny") as painter:
        first = start(noise(256, 128, 7), levels, encode(painter.vae, image))
        wanted = painted(painter.vae, denoise(painter.transformer, first, levels, Branch(words), 3.5))
    assert outcome.facts["tiles"] == 1
    assert np.array_equal(picture(outcome), wanted)
    assert data(engine.run(work(image, tile=1024))) == data(outcome)


def test_a_larger_picture_is_painted_in_tiles_without_a_seam(engine: FluxPhotoreal) -> None:
    """A soft gradient: what is laid over it steps no more where tiles begin and end than anywhere within them."""
    ramp = np.linspace(60, 200, 448)[None, :, None].repeat(144, 0).repeat(3, 2)
    smooth = np.asarray(ramp.round(), np.uint8)
    outcome = engine.run(work(smooth, tile=256, overlap=64))
    assert outcome.facts["tiles"] == 2
    changed = picture(outcome).astype(float) - smooth
    steps = np.abs(np.diff(changed.mean(axis=(0, 2))))
    edges = [192 - 1, 256 - 1]
    assert steps[edges].max() <= np.delete(steps, edges).max()


def test_a_shift_that_is_taken_from_the_size_is_a_tile_s(engine: FluxPhotoreal) -> None:
    """The whole picture's would be beyond all that FLUX was trained with: of 4096 x 4096 nothing would be left."""
    outcome = engine.run(work(photo(448, 144), tile=256, overlap=64, shift=None))
    assert outcome.facts["first_sigma"] == pytest.approx(noise_levels(params(shift=None), 256, 144, 0.5)[0], abs=1e-6)


@pytest.mark.parametrize(("width", "height"), [(70, 50), (65, 64), (15, 3), (1, 1)])
def test_a_picture_of_any_size_keeps_it(engine: FluxPhotoreal, width: int, height: int) -> None:
    assert picture(engine.run(work(photo(width, height), steps=1))).shape == (height, width, 3)


def test_odd_sides_are_mirrored_and_cut_again_never_resized(engine: FluxPhotoreal) -> None:
    image = photo(70, 50)
    whole = padded(image)
    assert whole.shape == (64, 80, 3)
    assert np.array_equal(whole[:50, :70], image)
    assert np.array_equal(whole[50:, :70], image[:35:-1])
    assert np.array_equal(picture(engine.run(work(image))), picture(engine.run(work(whole)))[:50, :70])


def test_the_manifest_says_where_the_noise_begins_and_ends(engine: FluxPhotoreal) -> None:
    """ComfyUI's karras at denoise 0.4 begins at 2.4 % of noise: the recipe `portrait` is faithful to that."""
    asked = FluxPhotorealParams(model="tiny", steps=35, denoise=0.4, scheduler="karras")
    facts = engine.run(Work(asked, {"image": (encode_png(photo(16, 16)),)}, 7)).facts
    assert facts == {
        "model": "tiny",
        "first_sigma": 0.023876,
        "last_sigma": 0.000316,
        "steps": 35,
        "tiles": 1,
        "prompt_tokens_left_out": 0,
    }


def test_comfyui_s_karras_changes_next_to_nothing_where_simple_repaints(engine: FluxPhotoreal) -> None:
    """At the same denoise of 0.4, beside what the autoencoder alone makes of the picture."""

    def refined(scheduler: str, share: float) -> Image:
        return picture(engine.run(work(denoise=share, steps=2, scheduler=scheduler)))

    alone = refined("karras", 0.01)
    assert difference(refined("karras", 0.4), alone) < difference(refined("simple", 0.4), alone) / 5


def test_less_memory_is_the_same_picture(folder: Path, engine: FluxPhotoreal) -> None:
    """A step that ran out of memory is tried again with the transformer's blocks taking turns."""
    again = fresh(folder).run(work(plan=1))
    assert difference(picture(again), picture(engine.run(work()))) < 0.01


def test_adapters_act_and_leave_no_trace(engine: FluxPhotoreal) -> None:
    plain = data(engine.run(work()))
    assert data(engine.run(work(loras=({"model": "look", "strength": 1.0},)))) != plain
    assert data(engine.run(work())) == plain


def test_its_models_are_named_by_their_digests_and_settings(folder: Path) -> None:
    assert set(fresh(folder).models(params())) == {"tiny"}
    assert set(fresh(folder).models(params(loras=({"model": "look"},)))) == {"tiny", "look"}
    assert fresh(folder).models(params(model="REAL1SM_V3_FP8")) == {}
    fast = FluxPhotoreal(studio_of(folder, "cpu", speed=Speed(first_block_cache=0.1)))
    assert set(fast.models(params())) == {"tiny", "tiny/settings"}


def test_its_model_is_on_the_device_after_a_step_and_is_generate_s_where_both_name_it(folder: Path) -> None:
    residency = Residency(Budget(BUDGET_BYTES, BUDGET_BYTES))
    one, other = (studio_of(folder, "cpu", residency) for _ in range(2))
    generate, refine = FluxGenerate(one), FluxPhotoreal(other)
    assert isinstance(refine, TakesTurns)
    scene = FluxParams(model="tiny", width=64, height=64, steps=1)
    made = generate.run(Work(scene, {"photos": (b"",), "identity": (b"{}",)}, 1))
    assert refine.resident_keys(params()) <= residency.on_device()
    before = residency.figures()
    refine.run(Work(params(steps=1), {"image": (data(made),)}, 1))
    assert refine.resident_keys(params()) <= residency.on_device()
    assert residency.figures().loads == before.loads


@pytest.mark.parametrize(
    ("part", "file", "tensor", "said"),
    [
        ("transformer", WEIGHTS, "proj_out.bias", "^broken gave 1024 of 1024 values that are no finite numbers"),
        ("vae", WEIGHTS, "encoder.conv_out.bias", "^the autoencoder of broken gave 1024 of 1024 values"),
        ("vae", WEIGHTS, "decoder.conv_out.bias", "^the autoencoder of broken: the decoded picture holds 12288 of"),
    ],
)
def test_numbers_that_are_none_are_an_error_that_names_the_model(
    tmp_path: Path, part: str, file: str, tensor: str, said: str
) -> None:
    """Never a black picture."""
    tiny.write(tmp_path / "broken")
    weights = tmp_path / "broken" / part / file
    tensors = load_file(weights)
    tensors[tensor][:] = torch.nan
    save_file(tensors, weights)
    with pytest.raises(Permanent, match=said):
        fresh(tmp_path).run(work(model="broken"))


def test_what_is_no_picture_is_refused(engine: FluxPhotoreal) -> None:
    with pytest.raises(InvalidInput):
        engine.run(Work(params(), {"image": (b"no picture",)}, 1))


def test_a_missing_model_says_which_command_brings_it(engine: FluxPhotoreal) -> None:
    with pytest.raises(Permanent, match="doctorgen models download REAL1SM_V3_FP8"):
        engine.run(work(model="REAL1SM_V3_FP8"))


def test_a_step_that_is_cancelled_ends_between_two_tiles(engine: FluxPhotoreal) -> None:
    told: list[float] = []

    def cancel(share: float) -> None:
        told.append(share)
        if len(told) == 3:
            raise Cancelled("no longer wanted")

    large = Work(params(tile=256, overlap=32), {"image": (encode_png(photo(400, 64)),)}, 1, cancel)
    with pytest.raises(Cancelled):
        engine.run(large)
    assert len(told) == 3


@pytest.mark.parametrize(("name", "value"), [("tile", 100), ("overlap", 520), ("denoise", 0.0), ("tone", 0.5)])
def test_a_parameter_out_of_range_or_unknown_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        FluxPhotorealParams.model_validate({name: value})


def test_tiles_that_overlap_by_more_than_half_are_refused() -> None:
    with pytest.raises(ValidationError, match="overlap 512 is more than half of tile 512"):
        FluxPhotorealParams(tile=512, overlap=512)


def test_the_stage_names_the_engine() -> None:
    spec = STAGE.operations[0].engines["flux"]
    assert spec.factory == f"{FluxPhotoreal.__module__}:{FluxPhotoreal.__qualname__}"
    assert spec.smaller_plans == 1


def test_real1sm_is_read_from_one_fp8_file_with_the_rest_of_flux1_dev(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the Studio, as the engine asks for it: a file of FLUX.1's width, one block of each kind deep.

    One of its layers is in raw fp8 and another in scaled.
    """
    tiny.write(tmp_path / "flux1-dev")
    own = tmp_path / "REAL1SM_V3_FP8"
    own.mkdir()
    raw, scaled = "double_blocks.0.img_attn.proj", "double_blocks.0.txt_attn.proj"
    shapes = published_shapes(SHALLOW, guidance=True)
    rows = rows_told_apart(shapes[f"{raw}.weight"], FP8)
    given = {f"{raw}.weight": rows, f"{scaled}.weight": rows, f"{scaled}.scale_weight": torch.tensor(0.5)}
    save_sparse(own / "REAL1SM_V3_FP8.safetensors", shapes, given | {"scaled_fp8": torch.empty(0, dtype=FP8)})
    catalogue = parse(
        "flux1-dev: {title: x, role: transformer, hub: a/b, files: [{path: model_index.json, bytes: 1, "
        "approximate: true}], format: diffusers, licence: x, commercial: false, memory_bytes: 1}\n"
        "REAL1SM_V3_FP8: {title: x, role: transformer, by_hand: x, files: [{path: REAL1SM_V3_FP8.safetensors, bytes: 1,"
        " approximate: true}], format: safetensors, licence: x, commercial: false, memory_bytes: 1, "
        "requires: [flux1-dev]}"
    )
    monkeypatch.setattr(lying, "load_models", lambda: catalogue)
    monkeypatch.setattr(studios, "load_transformer", partial(load_transformer, depth=SHALLOW))
    size = 10_000_000_000
    studio = Studio(tmp_path, "cpu", torch.bfloat16, Residency(Budget(size, size)))
    assert studio.prompt("REAL1SM_V3_FP8", "a doctor").sequence.shape[-1] == tiny.WIDTH
    with studio.painting("REAL1SM_V3_FP8") as painter:
        assert {value.dtype for value in painter.transformer.parameters()} == {torch.bfloat16}
        attention = painter.transformer.transformer_blocks[0].attn
        assert torch.equal(attention.to_out[0].weight, rows.bfloat16())
        assert torch.equal(attention.to_add_out.weight, rows.bfloat16() * 0.5)
        assert painter.vae.config.latent_channels == 16
