"""swap.face with the engine `flux`: whose face goes where, and what is said of bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from services.swap.flux_face import FluxFace
from services.swap.stage import STAGE, FluxFaceParams, Target
from services.swap.swapping.choice import choose, similarity
from services.swap.swapping.subjects import subject_of, subjects_of
from shared.contracts.errors import InvalidInput, Permanent
from shared.models.residency import Budget, Residency
from shared.models.shelf import Shelf
from shared.vision.codec import Image, decode
from shared.vision.networks import tiny_restorer, tiny_swapper
from shared.vision.networks.antelope import DETECTOR
from shared.vision.networks.insight import BUFFALO_L, InsightFace
from shared.vision.networks.parsing import FaceParser
from shared.vision.networks.tiny_faces import Graph
from shared.worker.operation import Outcome, Work
from tests.engines.swap_models import PACK, SIX, SWAPPER, crowd, engine, opened, params, run, write
from tests.engines.synthetic_antelope import ASTRONAUT_POINTS, marked_astronaut, write_antelope
from tests.photos import astronaut, coffee, hopper, inset, png

TWO = ((0.25, 0.5, 0.4), (0.75, 0.5, 0.6))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whose pack sees six faces, where those of `crowd` are."""
    folder = tmp_path_factory.mktemp("models")
    write(folder, SIX)
    return folder


@pytest.fixture(scope="module")
def flux(models: Path) -> FluxFace:
    return engine(models)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> FluxFace:
    """Whose pack sees two faces side by side in any picture, the right one larger."""
    folder = tmp_path_factory.mktemp("two")
    write(folder, TWO)
    return engine(folder)


def side_by_side(left: tuple[int, int, int], right: tuple[int, int, int]) -> Image:
    picture = np.empty((200, 400, 3), np.uint8)
    picture[:, :200], picture[:, 200:] = left, right
    # A face of one level has no direction: the recogniser is told apart by some grain.
    grain = np.random.default_rng(0).integers(-20, 20, picture.shape)
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


RED, GREEN, BLUE = (200, 60, 60), (60, 200, 60), (60, 60, 200)


def changed(outcome: Outcome, image: Image) -> list[bool]:
    """Which half of a picture was changed."""
    after = decode(outcome.outputs["image"].data)
    half = image.shape[1] // 2
    return [bool((after[:, part] != image[:, part]).any()) for part in (slice(None, half), slice(half, None))]


def swapped(outcome: Outcome) -> list[dict[str, Any]]:
    told = outcome.facts["swapped"]
    assert isinstance(told, list)
    return [one for one in told if isinstance(one, dict)]


def whys(outcome: Outcome) -> str:
    return str(outcome.facts.get("left_alone"))


def test_without_targets_the_largest_face_gets_the_subject_s(two: FluxFace) -> None:
    image = side_by_side(RED, BLUE)
    outcome = run(two, image, [astronaut()])
    assert changed(outcome, image) == [False, True]
    (told,) = swapped(outcome)
    assert (told["subject"], told["face"], told["gender"]) == (1, 1, "male")
    assert outcome.facts["faces"] == 2


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"by": "index", "order": "left_to_right", "index": 1}, [True, False]),
        ({"by": "index", "order": "right_to_left", "index": 1}, [False, True]),
        ({"by": "index", "order": "smallest_first", "index": 2}, [False, True]),
        ({"by": "index", "order": "largest_first", "index": 2}, [True, False]),
        ({"by": "position", "x": 0.1, "y": 0.9}, [True, False]),
        ({"by": "largest", "gender": "male"}, [False, True]),
    ],
)
def test_a_target_says_which_face(two: FluxFace, target: dict[str, object], expected: list[bool]) -> None:
    image = side_by_side(RED, BLUE)
    outcome = run(two, image, [astronaut()], targets=(target,))
    assert changed(outcome, image) == expected


def test_the_likest_face_is_found_among_others(two: FluxFace) -> None:
    """Though the other is larger."""
    image = side_by_side(RED, BLUE)
    outcome = run(two, image, [side_by_side(BLUE, RED)], targets=({"by": "likeness"},))
    assert changed(outcome, image) == [True, False]
    assert swapped(outcome)[0]["similarity_before"] > 0.7


@pytest.mark.parametrize(
    ("faces", "expected"),
    [((), [True, False]), ((None,), [True, False]), ((1,), [False, True]), ((2,), [True, False])],
)
def test_the_face_that_the_caller_picked_is_given(
    two: FluxFace, faces: tuple[int | None, ...], expected: list[bool]
) -> None:
    """Of a group photo, counted from the left; the largest, on the right, where none is picked."""
    image = side_by_side(RED, BLUE)
    outcome = run(two, image, [side_by_side(BLUE, RED)], targets=({"by": "likeness"},), faces=faces)
    assert changed(outcome, image) == expected
    assert swapped(outcome)[0]["similarity_before"] > 0.7


def test_picks_are_of_the_first_subject_s_photos(tmp_path: Path) -> None:
    """Of the others' the largest face is given."""
    write(tmp_path, TWO)
    insight = opened(tmp_path / PACK)
    largest, left = (face.embedding for face in insight.find(side_by_side(BLUE, RED)))
    group = (png(side_by_side(BLUE, RED)),) * 2
    first, second = subjects_of({"photos": group, "photos_3": group}, (1, None), insight, 0.5)
    assert first.embedding == pytest.approx((left + largest) / 2, abs=1e-5)
    assert second.embedding == pytest.approx(largest, abs=1e-5)


def test_a_pick_beyond_the_faces_names_the_photo(two: FluxFace) -> None:
    """Another person's face would be given."""
    with pytest.raises(InvalidInput) as refused:
        run(two, side_by_side(RED, BLUE), [astronaut(), hopper()], faces=(None, 3))
    assert str(refused.value) == (
        "photos[2]: face 3 was picked, but photos[2] shows 2 faces to the swapper's encoder. "
        "Crop the photo to the person who is meant, and pick no face in it."
    )
    with pytest.raises(InvalidInput, match="faces: 1 entries for 2 photos"):
        run(two, side_by_side(RED, BLUE), [astronaut(), hopper()], faces=(1,))


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ({"by": "largest", "gender": "female"}, "the chosen face is male, and female was asked for"),
        ({"by": "index", "index": 3}, "face 3 was asked for and there are 2"),
        ({"by": "largest", "min_similarity": 0.999}, "is below 0.999"),
    ],
)
def test_what_is_said_of_a_target_must_hold_and_no_other_face_is_taken(
    two: FluxFace, target: dict[str, object], why: str
) -> None:
    image = side_by_side(RED, BLUE)
    outcome = run(two, image, [astronaut()], targets=(target,))
    assert changed(outcome, image) == [False, False]
    assert outcome.outputs["image"].data == png(image)
    assert why in whys(outcome)
    with pytest.raises(InvalidInput, match="subject 1 of 1"):
        run(two, image, [astronaut()], targets=(target,), require_face=True)


@pytest.mark.parametrize("first", [RED, BLUE])
def test_a_team_is_assigned_by_likeness(two: FluxFace, first: tuple[int, int, int]) -> None:
    """Each subject gets the face that is most like theirs, whichever is named first."""
    image = side_by_side(RED, BLUE)
    second = BLUE if first == RED else RED
    outcome = run(two, image, [side_by_side(GREEN, first)], [side_by_side(GREEN, second)])
    assert changed(outcome, image) == [True, True]
    right = 1 if first == BLUE else 2
    assert {told["face"]: told["subject"] for told in swapped(outcome)} == {1: right, 2: 3 - right}
    assert all(told["similarity_before"] > 0.7 for told in swapped(outcome))


def test_the_pairing_of_the_largest_sum_is_taken() -> None:
    """Not the likest pair first, which would leave the second subject with a stranger's face."""
    faces = [person(0.9, 0.1, 0.2), person(0.8, 0.6, 0.0)]
    subjects = [axis(0), axis(0, 1, 0.3)]
    taken = choose(faces, subjects, (), (100, 100))
    alike = np.array([[similarity(one, face.embedding) for face in faces] for one in subjects])
    assert alike[0].argmax() == 0
    chosen = [faces.index(one.face) for one in taken if one.face is not None]
    assert alike[range(2), chosen].sum() == pytest.approx(max(np.trace(alike), np.trace(alike[:, ::-1])))


def axis(number: int, other: int = 9, share: float = 0.0) -> NDArray[np.float32]:
    vector = np.zeros(512, np.float32)
    vector[number], vector[other] = 1.0, share
    return vector


def person(*numbers: float) -> InsightFace:
    embedding = np.zeros(512, np.float32)
    embedding[: len(numbers)] = numbers
    return InsightFace((0.0, 0.0, 10.0, 10.0), np.zeros((5, 2)), embedding, 0.9)


def test_sex_is_asked_in_vain_of_an_encoder_that_tells_none() -> None:
    with pytest.raises(InvalidInput, match=r"targets\[1\].gender: the encoder tells nobody's sex"):
        choose([person(1.0)], [axis(0)], [Target(gender="female")], (100, 100))


def test_of_more_subjects_than_faces_those_that_fit_are_done(two: FluxFace) -> None:
    image = side_by_side(RED, BLUE)
    subjects = [[astronaut()], [hopper()], [crowd()]]
    outcome = run(two, image, *subjects)
    assert changed(outcome, image) == [True, True]
    assert len(swapped(outcome)) == 2
    assert "the picture shows 2 faces" in whys(outcome)
    with pytest.raises(InvalidInput, match="of 3: the picture shows 2 faces"):
        run(two, image, *subjects, require_face=True)


def test_two_subjects_on_one_face_are_refused(two: FluxFace) -> None:
    with pytest.raises(InvalidInput, match=r"targets\[2\]: it means the face that targets\[1\] means"):
        run(two, side_by_side(RED, BLUE), [astronaut()], [hopper()], targets=({}, {"by": "index", "index": 1}))


@pytest.mark.parametrize("count", [1, 3])
def test_targets_are_one_for_each_subject(two: FluxFace, count: int) -> None:
    with pytest.raises(InvalidInput, match=f"targets: {count} of them for 2 subjects"):
        run(two, side_by_side(RED, BLUE), [astronaut()], [hopper()], targets=({},) * count)


def test_a_picture_without_a_face_passes_byte_for_byte_and_says_so(tmp_path: Path) -> None:
    """The pack's detector sees faces only where a picture is marked."""
    write(tmp_path)
    write_antelope(tmp_path / "marks")
    (tmp_path / "marks" / DETECTOR).rename(tmp_path / PACK / BUFFALO_L.detector)
    flux, image = engine(tmp_path), coffee()
    outcome = run(flux, image, [marked_astronaut()])
    assert outcome.outputs["image"].data == png(image)
    assert outcome.facts["faces"] == 0
    assert outcome.facts["note"] == "No face was swapped; the picture is unchanged."
    assert "the picture shows no face" in whys(outcome)
    with pytest.raises(InvalidInput, match="image: subject 1 of 1: the picture shows no face"):
        run(flux, image, [marked_astronaut()], require_face=True)
    with pytest.raises(InvalidInput, match=r"photos\[1\], photos\[2\]: no face was found"):
        run(flux, marked_astronaut(), [coffee(), astronaut()])
    outcome = run(flux, marked_astronaut(), [coffee(), marked_astronaut()])
    assert outcome.facts["photos_without_face"] == ["photos[1]"]
    assert len(swapped(outcome)) == 1
    assert run(flux, marked_astronaut(), [coffee(), marked_astronaut()], faces=(1, 1)) == outcome


def test_several_photos_are_the_mean_of_their_raw_descriptions(models: Path) -> None:
    insight = opened(models / PACK)
    found = [insight.find(photo)[0].embedding for photo in (astronaut(), hopper())]
    subject = subject_of("photos", [png(astronaut()), png(hopper())], (None, None), insight, 0.5)
    assert subject.embedding == pytest.approx(np.mean(found, axis=0), abs=1e-6)
    assert similarity(found[0], found[0]) == pytest.approx(1.0)


def test_a_photo_that_is_no_picture_is_named(flux: FluxFace) -> None:
    inputs = {"image": (png(crowd()),), "photos": (png(astronaut()),), "photos_3": (png(hopper()), b"no picture")}
    with pytest.raises(InvalidInput, match=r"photos_3\[2\]"):
        flux.run(Work(params(), inputs, seed=0))


@pytest.mark.parametrize(
    ("seen", "why"), [((0.5, 0.5, 0.01), "it is too small"), ((-0.6, 0.5, 0.3), "nothing of a swapped face would show")]
)
def test_a_face_of_which_nothing_would_show_is_left_alone(
    tmp_path: Path, seen: tuple[float, float, float], why: str
) -> None:
    """Tiny, or beyond the picture's edge."""
    write(tmp_path, (seen,))
    image = astronaut()
    outcome = run(engine(tmp_path), image, [image])
    assert outcome.outputs["image"].data == png(image)
    assert why in whys(outcome)


def test_a_face_at_the_border_is_swapped_where_the_picture_shows_it(tmp_path: Path) -> None:
    write(tmp_path, ((0.02, 0.5, 0.4),))
    image = astronaut()
    after = decode(run(engine(tmp_path), image, [hopper()]).outputs["image"].data)
    assert after.shape == image.shape
    assert (after[256, :60] != image[256, :60]).any()
    assert np.array_equal(after[:, 300:], image[:, 300:])


def test_a_face_that_was_detected_twice_counts_once(tmp_path: Path) -> None:
    """A box that overlaps it little enough for the detector to keep both. Two subjects cannot both be laid onto it."""
    write(tmp_path, ((0.5, 0.5, 0.4), (0.5, 0.5, 0.25)))
    outcome = run(engine(tmp_path), astronaut(), [hopper()], [crowd()])
    assert outcome.facts["faces"] == 1
    assert len(swapped(outcome)) == 1
    with pytest.raises(InvalidInput, match=r"photos\[1\] shows 1 face to"):
        run(engine(tmp_path), astronaut(), [hopper()], faces=(2,))


def test_a_swapper_that_gives_no_numbers_is_an_error_and_no_black_face(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / SWAPPER / tiny_swapper.SWAPPER
    model = onnx.load(path)
    for constant in model.graph.initializer:
        if constant.name == "taken":
            constant.CopyFrom(onnx.numpy_helper.from_array(np.array(np.nan, np.float32), "taken"))
    onnx.save(model, path)
    with pytest.raises(Permanent, match=f"{SWAPPER} gave pixels that are no numbers"):
        run(engine(tmp_path), astronaut(), [hopper()])


def test_an_encoder_that_gives_no_numbers_is_an_error(tmp_path: Path) -> None:
    write(tmp_path)
    graph = Graph()
    flat = graph.add("Flatten", graph.add("GlobalAveragePool", "input.1"))
    none = graph.add("Mul", graph.add("MatMul", flat, graph.constant(np.zeros((3, 512)))), graph.number(float("nan")))
    graph.save(tmp_path / PACK / BUFFALO_L.recogniser, ("input.1", ["None", 3, 112, 112]), [(none, ["N", 512])])
    with pytest.raises(Permanent, match="gave what is no number"):
        run(engine(tmp_path), crowd(), [astronaut()])


def test_a_face_in_profile_is_swapped_and_told(tmp_path: Path) -> None:
    """Its nose lies beside its eyes: swappers know such faces badly, and who reads the manifest should know."""
    write(tmp_path)
    profile = np.array(ASTRONAUT_POINTS)
    profile[2, 0] = profile[0, 0] - 12
    write_antelope(tmp_path / "marks", points=profile.tolist())
    (tmp_path / "marks" / DETECTOR).rename(tmp_path / PACK / BUFFALO_L.detector)
    outcome = run(engine(tmp_path), marked_astronaut(), [marked_astronaut()])
    assert swapped(outcome)[0]["turned_away"] is True


def test_strength_is_opacity(flux: FluxFace) -> None:
    image = crowd()
    changes = [
        np.abs(decode(run(flux, image, [astronaut()], strength=s).outputs["image"].data).astype(int) - image).mean()
        for s in (0.0, 0.5, 1.0)
    ]
    assert changes[0] < 0.001
    assert changes[1] == pytest.approx(changes[2] / 2, rel=0.1)


def test_colour_match_brings_the_picture_s_colours_back(flux: FluxFace) -> None:
    """The tiny swapper tints a face, and that is what is taken back."""
    image = crowd()
    x, y = int(SIX[1][0] * 640), int(SIX[1][1] * 443)
    there = (slice(y - 15, y + 15), slice(x - 15, x + 15))
    off = [
        np.abs(
            np.median(decode(run(flux, image, [astronaut()], colour_match=c).outputs["image"].data)[there], axis=(0, 1))
            - np.median(image[there], axis=(0, 1))
        ).max()
        for c in (0.0, 1.0)
    ]
    assert off[0] > 15
    assert off[1] < off[0] / 2


def test_boost_gives_a_large_face_more_detail(flux: FluxFace, tmp_path: Path) -> None:
    write(tmp_path, ((0.5, 0.5, 0.9),))
    large = engine(tmp_path)
    image = inset(np.zeros((512, 512, 3), np.uint8), astronaut(), 0, 0)
    detail = []
    for boost_px in (128, 512):
        after = decode(run(large, image, [hopper()], boost_px=boost_px).outputs["image"].data)
        detail.append(float(np.abs(np.diff(after[200:300, 200:300].astype(int), axis=1)).mean()))
    assert detail[1] > 1.3 * detail[0]


@pytest.mark.parametrize("alignment", ["insightface", "facefusion"])
def test_a_swapper_of_256_pixels_runs_by_the_same_interface(flux: FluxFace, alignment: str) -> None:
    image = crowd()
    outcome = run(flux, image, [astronaut()], model="our-hyperswap", alignment=alignment, masks=("box",))
    assert outcome.facts["swapper"] == "our-hyperswap"
    assert not np.array_equal(decode(outcome.outputs["image"].data), image)


def test_the_same_step_gives_the_same_bytes(flux: FluxFace) -> None:
    image = crowd()
    first, second = (
        run(flux, image, [astronaut()], boost_px=256, alignment="facefusion", masks=("box", "occlusion"))
        for _ in range(2)
    )
    assert first.outputs["image"].data == second.outputs["image"].data
    assert first.facts == second.facts


def test_networks_are_loaded_once_and_named_as_they_are_borrowed(models: Path) -> None:
    home = Residency(Budget(10**9, 10**9))
    flux = FluxFace(models, "cpu", home)
    for _ in range(2):
        run(flux, crowd(), [astronaut()], masks=("insightface", "occlusion"))
    assert home.figures().loads == 4
    assert home.on_device() == flux.resident_keys(params(masks=("insightface", "occlusion")))
    assert flux.resident_keys(params()) < home.on_device()


def test_all_networks_together(tmp_path: Path) -> None:
    """Four masks, and tiny ones of the parser and of a restorer: each is borrowed under the name that was told."""
    write(tmp_path)
    (tmp_path / "our-parser").mkdir()
    torch.manual_seed(0)
    save_file(FaceParser(8).state_dict(), tmp_path / "our-parser" / "parser.safetensors")
    tiny_restorer.write(tmp_path / "our-restorer")
    home = Residency(Budget(10**9, 10**9))
    flux = FluxFace(tmp_path, "cpu", home)
    told = {"masks": ("insightface", "box", "parsed", "occlusion"), "parser": "our-parser", "restorer": "our-restorer"}
    outcome = run(flux, astronaut(), [hopper()], **told)
    assert outcome.facts["restored"] == 1
    assert home.on_device() == flux.resident_keys(params(**told))
    assert flux.models(params(**told)).keys() >= {"our-parser", "our-restorer", "our-occluder"}


def test_a_step_s_weights_are_named_by_digest(flux: FluxFace) -> None:
    """With a mask's network where the mask is chosen."""
    plain = flux.models(params())
    assert plain.keys() == {"our-swapper", *(f"{PACK}/{file}" for file in BUFFALO_L.files(attributes=True))}
    assert flux.models(params(masks=("occlusion",))).keys() - plain.keys() == {"our-occluder"}
    assert all(len(digest) == 64 for digest in plain.values())


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    flux = engine(tmp_path)
    with pytest.raises(Permanent, match="inswapper_128"):
        flux.models(FluxFaceParams())
    write(tmp_path)
    with pytest.raises(Permanent, match=r"our-other.* is to hold one \.onnx file"):
        flux.models(params(model="our-other"))
    with pytest.raises(Permanent, match="holds no pack of InsightFace"):
        flux.models(params(encoder="our-swapper"))
    with pytest.raises(Permanent, match="codeformer"):
        flux.models(params(restorer="codeformer"))
    (tmp_path / PACK / BUFFALO_L.attributes).unlink()
    with pytest.raises(Permanent, match="holds no pack of InsightFace"):
        engine(tmp_path).models(params())


def test_the_archive_s_own_folder_is_seen_through(tmp_path: Path) -> None:
    """For the catalogue's packs, as antelopev2.zip unpacks."""
    write(tmp_path)
    tiny_swapper.write_pack(tmp_path / "buffalo_l" / "buffalo_l")
    assert engine(tmp_path).models(params(encoder="buffalo_l")).keys() >= {"buffalo_l/w600k_r50.onnx"}
    assert Shelf(tmp_path).folder == tmp_path


def test_the_stage_offers_this_engine() -> None:
    operation = STAGE.operation("swap.face")
    assert operation is not None
    assert operation.engines["flux"].factory == "services.swap.flux_face:FluxFace"
    assert FluxFaceParams().masks == ("insightface",)
