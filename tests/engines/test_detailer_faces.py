"""The engine of faces: held to the subject by PuLID, and other people's faces left alone where that is asked for."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from services.generate.flux import FluxGenerate
from services.generate.stage import FluxParams
from services.swap.detailer.whose import consensus, similarity
from services.swap.flux_face_detail import FluxFaceDetail
from services.swap.stage import STAGE, FluxFaceDetailParams
from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.pulid.artifact import PulidAbout, PulidIdentity, save_identity
from shared.flux.studio import studio_of
from shared.models.residency import Budget, Residency
from shared.vision.codec import Image, decode, encode_png
from shared.vision.networks import tiny_faces
from shared.vision.networks.antelope import DETECTOR, RECOGNISER, AntelopeFace, open_antelope
from shared.worker.operation import Outcome, TakesTurns, Work
from tests.engines.flux_studio import ID_WIDTH, TOKENS, write_models
from tests.engines.test_detailer_detector import write_detector

HEIGHT, WIDTH = 128, 256
BUDGET = Budget(100_000_000, 100_000_000)
PORTABLE = b'{"schema_version": 1}'
LEFT, RIGHT = (44, 44, 84, 84), (172, 44, 212, 84)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        write_models(Path(name))
        write_detector(Path(name) / "two", (LEFT, RIGHT), WIDTH, HEIGHT)
        write_detector(Path(name) / "nothing", (), WIDTH, HEIGHT)
        encoder = Path(name) / "antelopev2"
        encoder.mkdir()
        tiny_faces.write_detector(encoder / DETECTOR)
        tiny_faces.write_recogniser(encoder / RECOGNISER)
        yield Path(name)


@pytest.fixture(scope="module")
def engine(folder: Path) -> FluxFaceDetail:
    return FluxFaceDetail(studio_of(folder, "cpu", Residency(BUDGET)))


def people() -> Image:
    """Two patterns that are nothing alike, one in either half."""
    generator = np.random.default_rng(1)
    halves = [np.kron(generator.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8) for _ in range(2)]
    return np.concatenate(halves, axis=1)


PICTURE = people()
DATA = encode_png(PICTURE)


@cache
def embedding(folder: Path, face: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """Of the face in a box, as the encoder describes it."""
    seen: list[NDArray[np.float32]] = []
    antelope = open_antelope(folder / "antelopev2")

    class Listening:
        def find(self, image: Image) -> tuple[AntelopeFace, ...]:
            found = antelope.find(image)
            seen.append(found[0].embedding)
            return found

    left, top, right, bottom = face
    similarity(Listening(), PICTURE, (left, top, right - left, bottom - top), np.ones(512))
    return seen[0]


def who(arcface: NDArray[np.float32] | None = None, model: str = "pulid_flux_v0.9.1", nobody: int = 99) -> bytes:
    tokens = 3 * torch.randn(TOKENS, ID_WIDTH, generator=torch.Generator().manual_seed(0))
    uncond = torch.randn(TOKENS, ID_WIDTH, generator=torch.Generator().manual_seed(nobody))
    known = torch.zeros(1, 512) if arcface is None else torch.from_numpy(np.atleast_2d(arcface))
    about = PulidAbout(models={"idformer": model}, fusion="mean", photos=len(known))
    return save_identity(PulidIdentity(tokens, uncond, known, about))


SMALL: dict[str, Any] = {
    "model": "tiny", "prompt": "a face", "detector": "two", "guide_size": 64, "max_size": 96, "steps": 2,
    "crop_factor": 1.5,
}  # fmt: skip


def work(identity: bytes | None = None, **params: Any) -> Work[FluxFaceDetailParams]:
    inputs = {"image": (DATA,)} | ({} if identity is None else {"identity": (identity,)})
    return Work(FluxFaceDetailParams(**{**SMALL, **params}), inputs, 5)


def picture(outcome: Outcome) -> Image:
    return decode(outcome.outputs["image"].data)


def crops(outcome: Outcome) -> list[dict[str, Any]]:
    told: Any = outcome.facts["crops"]
    return list(told)


def furthest(one: Image, other: Image) -> int:
    return int(np.abs(one.astype(int) - other).max())


def test_faces_are_held_to_the_identity_where_there_is_one(engine: FluxFaceDetail) -> None:
    plain, held = engine.run(work()), engine.run(work(who()))
    assert (plain.facts["identity"], held.facts["identity"]) == ("none", "pulid_flux_v0.9.1")
    assert (plain.facts["faces"], plain.facts["painted"]) == (2, 2)
    assert furthest(picture(plain), picture(held)) > 3
    without = engine.run(work(who(), identity_weight=0.0))
    assert furthest(picture(plain), picture(without)) == 0
    late = engine.run(work(who(), identity_start_step=2))
    assert furthest(picture(plain), picture(late)) == 0


def test_in_a_batch_each_face_is_held_as_it_is_alone(engine: FluxFaceDetail) -> None:
    together, alone = (engine.run(work(who(), max_batch=most, cfg=2.0)) for most in (4, 1))
    assert [crop["batch_of"] for crop in crops(together)] == [2, 2]
    assert furthest(picture(together), picture(alone)) <= 1


def test_the_negative_branch_sees_nobodys_tokens(engine: FluxFaceDetail) -> None:
    one, other = who(), who(nobody=98)
    assert furthest(picture(engine.run(work(one))), picture(engine.run(work(other)))) == 0
    led = [picture(engine.run(work(identity, cfg=3.0, cfg_start_step=0))) for identity in (one, other)]
    assert furthest(*led) > 0


def test_a_portable_identity_is_refused_and_told_so(engine: FluxFaceDetail) -> None:
    with pytest.raises(InvalidInput, match="a portable engine made it, and FLUX cannot read it") as refused:
        engine.run(work(PORTABLE))
    assert refused.value.field == "identity"


def test_an_identity_of_another_version_of_pulid_is_refused(engine: FluxFaceDetail) -> None:
    with pytest.raises(InvalidInput, match=r"the identity was encoded by pulid_flux_v0\.9\.0"):
        engine.run(work(who(model="pulid_flux_v0.9.0")))


def test_the_subjects_faces_cannot_be_asked_for_without_an_identity(engine: FluxFaceDetail) -> None:
    with pytest.raises(InvalidInput, match="it is 'subject', and the step is given no identity") as refused:
        engine.run(work(whose="subject", encoder="antelopev2"))
    assert refused.value.field == "whose"


@pytest.mark.parametrize(("mine", "others"), [(LEFT, slice(128, 256)), (RIGHT, slice(0, 128))])
def test_other_peoples_faces_are_left_alone(
    engine: FluxFaceDetail, folder: Path, mine: tuple[int, int, int, int], others: slice
) -> None:
    """The subject's is found by its embedding, whichever it is; the other's half stays byte for byte."""
    made = engine.run(work(who(embedding(folder, mine)), whose="subject", encoder="antelopev2", min_similarity=0.9))
    first, second = crops(made)
    subject, other = (first, second) if mine == LEFT else (second, first)
    assert subject["similarity"] == pytest.approx(1.0, abs=1e-3)
    assert other["similarity"] < 0.9
    assert other["skipped"] == "another_person"
    assert "skipped" not in subject
    assert made.facts["painted"] == 1
    np.testing.assert_array_equal(picture(made)[:, others], PICTURE[:, others])
    assert furthest(picture(made), PICTURE) > 20


def test_from_which_likeness_a_face_is_the_subjects_is_a_parameter(engine: FluxFaceDetail, folder: Path) -> None:
    mine = who(embedding(folder, LEFT))
    assert engine.run(work(mine, whose="subject", encoder="antelopev2", min_similarity=-1.0)).facts["painted"] == 2
    strict = engine.run(work(who(-embedding(folder, LEFT)), whose="subject", encoder="antelopev2", min_similarity=0.99))
    assert strict.outputs["image"].data == DATA
    assert [crop["skipped"] for crop in crops(strict)] == ["another_person"] * 2


def test_a_face_that_the_encoder_does_not_see_is_left_alone_and_told(folder: Path) -> None:
    blind = folder / "blind"
    blind.mkdir()
    tiny_faces.write_detector(blind / DETECTOR, ())
    tiny_faces.write_recogniser(blind / RECOGNISER)
    engine = FluxFaceDetail(studio_of(folder, "cpu", Residency(BUDGET)))
    made = engine.run(work(who(embedding(folder, LEFT)), whose="subject", encoder="blind"))
    assert made.outputs["image"].data == DATA
    assert [crop["skipped"] for crop in crops(made)] == ["identity_untold"] * 2


def test_an_identity_without_a_direction_tells_nobody_apart(engine: FluxFaceDetail) -> None:
    made = engine.run(work(who(), whose="subject", encoder="antelopev2"))
    assert [crop["skipped"] for crop in crops(made)] == ["identity_untold"] * 2


class One:
    """An encoder that sees a face in one place of whatever it is shown."""

    def __init__(self, box: tuple[float, float, float, float], embedding: NDArray[np.float32]) -> None:
        self.face = AntelopeFace(box, np.zeros((5, 2)), embedding, 0.9)

    def find(self, image: Image) -> tuple[AntelopeFace, ...]:
        return (self.face,)


def test_a_face_beside_the_box_says_nothing_about_the_one_in_it() -> None:
    """The box is shown as 320 x 320 in the middle of 640 x 640."""
    subject = np.eye(512)[0]
    vector = subject.astype(np.float32) * 20
    assert similarity(One((200, 200, 240, 240), vector), PICTURE, (44, 44, 40, 40), subject) == pytest.approx(1)
    assert similarity(One((5, 5, 100, 100), vector), PICTURE, (44, 44, 40, 40), subject) is None
    assert similarity(One((200, 200, 240, 240), 0 * vector), PICTURE, (44, 44, 40, 40), subject) is None


def test_each_photo_weighs_the_same_in_the_subjects_direction() -> None:
    photos = np.zeros((2, 512), np.float32)
    photos[0, 0], photos[1, 1] = 30, 1
    direction = consensus(photos)
    assert direction is not None
    assert direction[:2] == pytest.approx([0.5**0.5, 0.5**0.5])
    assert consensus(np.stack([photos[0], -photos[0]])) is None
    assert consensus(np.full((1, 512), np.nan, np.float32)) is None


def test_one_flux_serves_generate_and_the_detailer(folder: Path) -> None:
    """What is loaded for the second is the detector alone."""
    residency = Residency(BUDGET)
    small = FluxParams(model="tiny", prompt="a face", width=64, height=64, steps=1)
    one, other = (studio_of(folder, "cpu", residency) for _ in range(2))
    generate, engine = FluxGenerate(one), FluxFaceDetail(other)
    generate.run(Work(small, {"photos": (b"",), "identity": (who(),)}, 1))
    before = residency.figures().loads
    engine.run(work(who()))
    assert residency.figures().loads == before + 1
    assert generate.resident_keys(small) < engine.resident_keys(work().params) <= residency.on_device()


def test_what_a_step_borrows_and_whose_bytes_it_stands_on_is_told_beforehand(folder: Path) -> None:
    residency = Residency(BUDGET)
    engine = FluxFaceDetail(studio_of(folder, "cpu", residency))
    assert isinstance(engine, TakesTurns)
    told = work(who(embedding(folder, LEFT)), whose="subject", encoder="antelopev2")
    assert set(engine.models(told.params)) == {"tiny", "pulid_flux_v0.9.1", "two", "antelopev2"}
    assert set(engine.models(work().params)) == {"tiny", "pulid_flux_v0.9.1", "two"}
    wanted = engine.resident_keys(told.params)
    assert len(wanted) == 3
    engine.run(told)
    assert wanted <= residency.on_device()


def test_a_missing_encoder_is_named_with_what_brings_it(engine: FluxFaceDetail) -> None:
    with pytest.raises(Permanent, match="`doctorgen models download antelopev2` brings them"):
        engine.run(work(who(np.ones(512, np.float32)), whose="subject", encoder="elsewhere"))


def test_where_no_face_is_found_the_picture_passes_byte_for_byte(engine: FluxFaceDetail) -> None:
    made = engine.run(work(who(np.ones(512, np.float32)), detector="nothing", whose="subject", encoder="antelopev2"))
    assert made.outputs["image"].data == DATA
    assert made.facts["note"] == "No faces were found; the picture is unchanged."


def test_the_stage_names_this_engine() -> None:
    operation = STAGE.operation("swap.face_detail")
    assert operation is not None
    assert isinstance(operation.engines["flux"].parse({}, "params"), FluxFaceDetailParams)
    assert operation.engines["flux"].factory == f"{FluxFaceDetail.__module__}:{FluxFaceDetail.__name__}"
