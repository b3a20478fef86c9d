"""The GPU engine of upscale, on tiny networks of random weights: exact sizes, tiles, faces, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from services.upscale.flux import FluxImage
from services.upscale.portable import PortableImage
from services.upscale.stage import STAGE, FluxImageParams, ImageParams
from shared.contracts.errors import InvalidInput, Permanent
from shared.models.residency import Budget, Residency
from shared.vision.codec import Image, decode, encode_png
from shared.vision.networks import tiny_esrgan, tiny_faces, tiny_restorer
from shared.vision.networks.insight import ANTELOPEV2
from shared.worker.operation import Outcome, Work
from tests.pictures import astronaut, difference, psnr

NETWORK: dict[str, Any] = {"method": "network", "upscaler": "small-esrgan", "width": 640, "height": 512}
FACES: dict[str, Any] = {"face_restorer": "small-restorer", "face_encoder": "antelopev2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_esrgan.write(folder / "small-esrgan")
    tiny_esrgan.write(folder / "cleaner", scale=1, unshuffle=4)
    tiny_restorer.write(folder / "small-restorer")
    tiny_faces.write(folder / "antelopev2")
    return folder


@pytest.fixture
def residency() -> Iterator[Residency]:
    residency = Residency(Budget(10**9, 10**9))
    yield residency
    residency.drop_idle()


@pytest.fixture
def engine(folder: Path, residency: Residency) -> FluxImage:
    return FluxImage(folder, "cpu", residency)


def photo(side_px: int = 160) -> Image:
    return astronaut(side_px)


def work(picture: Image, plan: int = 0, **params: Any) -> Work[FluxImageParams]:
    return Work(FluxImageParams(**params), {"image": (encode_png(picture),)}, 0, plan=plan)


def shown(outcome: Outcome) -> Image:
    return decode(outcome.outputs["image"].data)


def test_the_stage_names_the_engine() -> None:
    (operation,) = STAGE.operations
    assert isinstance(operation.engines["flux"].build(), FluxImage)


@pytest.mark.parametrize(
    ("params", "said"),
    [({"method": "network"}, "needs an upscaler"), ({"face_restorer": "GFPGANv1.4"}, "needs a face_encoder")],
)
def test_what_is_used_must_be_named(params: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        FluxImageParams(**params)


def test_lanczos_is_the_portable_engines_to_the_bit(engine: FluxImage) -> None:
    sizes: dict[str, Any] = {"scale": 3.0, "width": 700, "height": 900, "sharpen": 0.5}
    portable = PortableImage().run(Work(ImageParams(**sizes), {"image": (encode_png(photo()),)}, 0))
    outcome = engine.run(work(photo(), **sizes))
    assert outcome.outputs["image"].data == portable.outputs["image"].data
    assert outcome.facts["method"] == "lanczos"
    assert engine.models(FluxImageParams()) == {}
    assert engine.resident_keys(FluxImageParams()) == frozenset()


@pytest.mark.parametrize(("width", "height"), [(640, 512), (600, 777)])
def test_a_network_gives_exactly_the_size_asked_for(engine: FluxImage, width: int, height: int) -> None:
    """And the picture: the tiny network passes colours on."""
    outcome = engine.run(work(photo(), **NETWORK | {"width": width, "height": height, "tile": 96}))
    lanczos = shown(engine.run(work(photo(), width=width, height=height)))
    assert shown(outcome).shape == (height, width, 3)
    assert psnr(shown(outcome), lanczos) > 22
    assert outcome.facts == {
        "from_width": 160,
        "from_height": 160,
        "width": width,
        "height": height,
        "method": "network",
        "upscaler": "small-esrgan",
        "network_scale": 4,
        "tile": 96,
        "precision": "float32",
    }


def test_the_same_work_gives_the_same_bytes_and_loads_once(engine: FluxImage, residency: Residency) -> None:
    first, again = (engine.run(work(photo(), **NETWORK)) for _ in range(2))
    assert first.outputs["image"].data == again.outputs["image"].data
    assert residency.figures().loads == 1
    assert residency.on_device() == engine.resident_keys(FluxImageParams(**NETWORK))


def test_the_largest_tile_that_fits_is_taken_and_smaller_plans_take_smaller_ones(engine: FluxImage) -> None:
    """Each plan the same picture, to a level of 255."""
    outcomes = [engine.run(work(photo(), plan, **NETWORK)) for plan in (0, 1, 2)]
    assert [outcome.facts["tile"] for outcome in outcomes] == [512, 256, 128]
    whole, _, tiled = (shown(outcome).astype(int) for outcome in outcomes)
    assert np.abs(whole - tiled).max() <= 1
    stated = [engine.run(work(photo(), plan, **NETWORK, tile=160)).facts["tile"] for plan in (0, 1, 2)]
    assert stated == [160, 80, 64]


def test_what_the_network_gives_beyond_the_size_is_averaged(engine: FluxImage) -> None:
    asked = NETWORK | {"width": 512, "height": 512, "sharpen": 0.0}
    made = shown(engine.run(work(photo(256), **asked)))
    lanczos = shown(engine.run(work(photo(256), **asked | {"method": "lanczos"})))
    assert psnr(made, lanczos) > 22
    held_back = shown(engine.run(work(photo(256), **asked, scale=1.0)))
    assert psnr(held_back, lanczos) > psnr(made, lanczos) + 1


def test_a_picture_that_is_large_enough_is_not_seen_by_a_network_that_enlarges(engine: FluxImage) -> None:
    asked = NETWORK | {"width": 512, "height": 512}
    large = engine.run(work(photo(600), **asked)).outputs["image"].data
    assert large == engine.run(work(photo(600), **asked | {"method": "lanczos"})).outputs["image"].data


def test_it_is_seen_by_one_that_only_cleans(engine: FluxImage) -> None:
    asked = NETWORK | {"width": 512, "height": 512, "upscaler": "cleaner"}
    cleaned = shown(engine.run(work(photo(512), **asked)))
    plain = shown(engine.run(work(photo(512), **asked | {"method": "lanczos"})))
    assert 0.5 < difference(cleaned, plain) < 20


def test_faces_are_restored_afterwards_and_the_rest_stays(engine: FluxImage, residency: Residency) -> None:
    asked = NETWORK | {"width": 512, "height": 512}
    plain = shown(engine.run(work(photo(128), **asked)))
    told: list[float] = []
    given = work(photo(128), **asked, **FACES)
    outcome = engine.run(Work(given.params, given.inputs, 0, told.append))
    restored = shown(outcome)
    assert (outcome.facts["face_restorer"], outcome.facts["faces"]) == ("small-restorer", 1)
    assert difference(restored[200:300, 200:300], plain[200:300, 200:300]) > 10
    assert np.array_equal(restored[:, :40], plain[:, :40])
    assert told == sorted(told)
    assert (told[-2] < 1, told[-1]) == (True, 1.0)
    assert residency.on_device() == engine.resident_keys(given.params)


def test_a_face_that_is_told_twice_is_restored_once(folder: Path, engine: FluxImage) -> None:
    """A head, and its face alone: boxes that overlap too little for the detector to see that they are one."""
    tiny_faces.write(folder / "doubling")
    tiny_faces.write_detector(folder / "doubling" / ANTELOPEV2.detector, ((0.5, 0.5, 0.5), (0.5, 0.5, 0.31)))
    outcome = engine.run(work(photo(), width=640, height=640, **FACES | {"face_encoder": "doubling"}))
    assert outcome.facts["faces"] == 1


@pytest.mark.parametrize("seen", [(), ((0.5, 0.5, 0.0),)], ids=["none", "one whose key points coincide"])
def test_without_a_face_to_be_restored_the_picture_is_enlarged_all_the_same(
    folder: Path, residency: Residency, seen: tuple[tiny_faces.Seen, ...], tmp_path: Path
) -> None:
    """The restorer is not even loaded."""
    (tmp_path / "small-restorer").symlink_to(folder / "small-restorer")
    tiny_faces.write(tmp_path / "antelopev2")
    tiny_faces.write_detector(tmp_path / "antelopev2" / ANTELOPEV2.detector, seen)
    engine = FluxImage(tmp_path, "cpu", residency)
    outcome = engine.run(work(photo(), width=640, height=640, **FACES))
    assert outcome.facts["faces"] == 0
    assert outcome.outputs["image"].data == engine.run(work(photo(), width=640, height=640)).outputs["image"].data
    assert residency.figures().loads == 1


def test_hidden_faces_need_no_models(engine: FluxImage) -> None:
    params = FluxImageParams(**FACES, face_visibility=0.0)
    assert engine.models(params) == {}


def test_every_network_counts_towards_the_steps_address(engine: FluxImage) -> None:
    names = {"small-esrgan", "small-restorer", "antelopev2/scrfd_10g_bnkps.onnx", "antelopev2/glintr100.onnx"}
    models = engine.models(FluxImageParams(**NETWORK, **FACES))
    assert models.keys() == names
    assert all(len(digest) == 64 for digest in models.values())


def test_a_job_that_is_no_longer_wanted_ends_at_the_next_tile(engine: FluxImage) -> None:
    class NotWantedError(Exception):
        pass

    told: list[float] = []

    def tell(done: float) -> None:
        told.append(done)
        raise NotWantedError

    given = work(photo(), **NETWORK, tile=64)
    with pytest.raises(NotWantedError):
        engine.run(Work(given.params, given.inputs, 0, tell))
    assert len(told) == 1


@pytest.mark.parametrize(
    ("field", "params", "said"),
    [
        ("upscaler", {"method": "network", "upscaler": "GFPGANv1.4"}, "no upscaler but of the role face restorer"),
        ("face_restorer", {**FACES, "face_restorer": "4x-UltraSharp"}, "no face restorer but of the role upscaler"),
        ("face_encoder", {**FACES, "face_encoder": "flux1-dev"}, "no face recognition but of the role"),
    ],
)
def test_a_model_of_another_role_is_refused_by_its_name(
    engine: FluxImage, field: str, params: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said) as found:
        engine.models(FluxImageParams(**params))
    assert found.value.field == field


def test_a_model_of_ones_own_of_another_kind_is_refused_by_what_it_is(engine: FluxImage) -> None:
    with pytest.raises(InvalidInput, match=r"upscaler: small-restorer is a face restorer \(RestoreFormer\)"):
        engine.run(work(photo(), **NETWORK | {"upscaler": "small-restorer"}))


def test_a_missing_model_is_named_with_what_brings_it(engine: FluxImage) -> None:
    with pytest.raises(Permanent, match="doctorgen models download 4x-UltraSharp"):
        engine.models(FluxImageParams(method="network", upscaler="4x-UltraSharp"))
    with pytest.raises(Permanent, match="holds no pack of InsightFace"):
        engine.models(FluxImageParams(**FACES | {"face_encoder": "nobody"}))


def test_pixels_that_are_no_numbers_are_an_error(folder: Path, engine: FluxImage) -> None:
    weights = load_file(folder / "small-esrgan" / tiny_esrgan.FILE)
    weights["model.10.bias"] = torch.full((3,), float("nan"))
    (folder / "broken").mkdir()
    save_file(weights, folder / "broken" / "broken.safetensors")
    with pytest.raises(Permanent, match="broken gave pixels that are no numbers"):
        engine.run(work(photo(), **NETWORK | {"upscaler": "broken"}))


def test_bytes_that_are_no_picture_are_refused(engine: FluxImage) -> None:
    with pytest.raises(InvalidInput, match="no readable picture"):
        engine.run(Work(FluxImageParams(), {"image": (b"none",)}, 0))


def test_a_gpu_that_is_not_there_is_an_error_and_no_slow_run(folder: Path, residency: Residency) -> None:
    engine = FluxImage(folder, "cuda:7", residency)
    with pytest.raises(Permanent, match="cuda:7"):
        engine.run(work(photo(), **NETWORK))
    assert residency.figures().loads == 0
    keys = engine.resident_keys(FluxImageParams(**NETWORK))
    assert {key.split(" in ")[-1] for key in keys} == {"torch.float16 on cuda:7"}
