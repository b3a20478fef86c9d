"""identity.encode with PuLID's encoders: synthetic antelopev2, the others tiny and random, on real photos."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from services.identity import tiny
from services.identity.flux import FluxEncoder, Seen, choose, join, look, nobody, refuse_strangers, worth
from services.identity.measure import Looks
from services.identity.networks import PARSER, VISION_TOWER, Encoders, borrowed, place_of
from services.identity.stage import STAGE, FluxEncodeParams
from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.pulid.artifact import PulidIdentity, load_identity
from shared.flux.pulid.fusion import Fusion
from shared.flux.pulid.index import INDEX, PUBLISHED
from shared.flux.pulid.tiny import IDENTITY, published_names
from shared.models.catalogue import load_models
from shared.models.lock import Pin, pin
from shared.models.process import residency, use_residency
from shared.models.residency import Budget, Residency
from shared.models.shelf import Shelf
from shared.storage.digest import sha256
from shared.storage.layout import EXTENSIONS
from shared.vision.codec import Image, decode
from shared.vision.networks.antelope import DETECTOR, PACK, RECOGNISER, Antelope, AntelopeFace
from shared.vision.networks.crop512 import SIDE_PX, TEMPLATE, crop512
from shared.vision.networks.parsing import CLASSES, grey_on_white, parse
from shared.worker.operation import Outcome, Work
from tests.engines.synthetic_antelope import (
    ASTRONAUT_MARK,
    ASTRONAUT_POINTS,
    mark,
    marked_astronaut,
    write_antelope,
)
from tests.photos import astronaut, blurred, coffee, lit, png, scaled

OWN = "our-pulid"
PULID = "pulid_flux_v0.9.1"
TOKENS = (IDENTITY.idformer.queries, IDENTITY.idformer.out_dim)


class QuickParser(torch.nn.Sequential):
    """Scores a place's class by its colour: the face parser's interface in a hundredth of its time."""

    def __init__(self) -> None:
        super().__init__(torch.nn.AvgPool2d(8), torch.nn.Conv2d(3, CLASSES, 1), torch.nn.Upsample(scale_factor=8))


@pytest.fixture(scope="module", autouse=True)
def _own_residency() -> Iterator[None]:
    with use_residency(Residency(Budget(10**9, 10**9))):
        yield


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A models folder with an identity model of its own, whose detector sees marks."""
    folder = tmp_path_factory.mktemp("models")
    tiny.write(folder / OWN)
    write_antelope(folder / OWN / "antelopev2")
    return Shelf(folder)


@pytest.fixture(scope="module")
def engine(shelf: Shelf) -> FluxEncoder:
    return FluxEncoder(shelf.folder, "cpu")


@pytest.fixture(scope="module")
def networks(shelf: Shelf, engine: FluxEncoder) -> Iterator[Encoders]:
    """Those that the engine uses."""
    with borrowed(place_of(shelf, params()), "cpu", residency()) as encoders:
        yield encoders


@pytest.fixture(scope="module")
def quick(networks: Encoders) -> Encoders:
    """The same but for the face parser, which takes the most time, and whose answer is of no matter to most tests."""
    return replace(networks, parser=QuickParser().eval().requires_grad_(False))


@pytest.fixture(scope="module")
def alone(engine: FluxEncoder) -> Outcome:
    """Of the one photo that most tests look at."""
    return encode(engine, marked_astronaut())


@pytest.fixture(scope="module")
def seen(quick: Encoders) -> list[Seen]:
    """The astronaut, and darker."""
    photos = marked_astronaut(), lit(marked_astronaut(), 0.9)
    return [look(quick, png(photo), None, params(), 1) for photo in photos]


def params(**changes: Any) -> FluxEncodeParams:
    """Through JSON, as the planner's go."""
    return FluxEncodeParams.model_validate_json(json.dumps({"model": OWN, **changes}))


def encode(engine: FluxEncoder, *photos: Image, **changes: Any) -> Outcome:
    return engine.run(Work(params(**changes), {"photos": tuple(png(photo) for photo in photos)}, seed=0))


def identity(outcome: Outcome) -> PulidIdentity:
    return load_identity(outcome.outputs["identity"].data, "identity")


def refusal(engine: FluxEncoder, *photos: Image, **changes: Any) -> str:
    with pytest.raises(InvalidInput) as refused:
        encode(engine, *photos, **changes)
    return str(refused.value)


@cache
def two_faces() -> Image:
    """Two marks, two faces: the left one the astronaut."""
    return mark(marked_astronaut(), (147, 45))


# One photo


def test_a_photo_becomes_identity_tokens(networks: Encoders, alone: Outcome) -> None:
    """The tokens are those of the published steps, done here one by one."""
    assert tuple(alone.outputs) == ("identity", "face")
    found = identity(alone)
    (face,) = networks.faces.find(marked_astronaut())
    crop = crop512(marked_astronaut(), face.points)
    bare = grey_on_white(crop, parse(networks.parser, crop))
    small = torch.nn.functional.interpolate(
        torch.from_numpy(bare.transpose(2, 0, 1)[None].copy()), (56, 56), mode="bicubic", antialias=True
    )
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    with torch.inference_mode():
        features = networks.tower((small - mean) / std)
        unit = features.projected / torch.linalg.vector_norm(features.projected, dim=1, keepdim=True)
        id_cond = torch.cat([torch.from_numpy(face.embedding)[None], unit], dim=1)
        expected: Tensor = networks.idformer(id_cond, features.hidden)[0]
        nobody: Tensor = networks.idformer(torch.zeros_like(id_cond), [torch.zeros_like(h) for h in features.hidden])[0]
    assert found.id.shape == TOKENS
    torch.testing.assert_close(found.id, expected)
    torch.testing.assert_close(found.uncond, nobody)
    assert np.array_equal(found.arcface.numpy(), face.embedding[None])
    assert found.about.models == {
        "arcface": f"{OWN}/antelopev2",
        "face_parser": f"{OWN}/face_parsing.safetensors",
        "eva_clip": f"{OWN}/eva_clip.safetensors",
        "idformer": OWN,
    }
    assert (found.about.fusion, found.about.photos) == ("weighted", 1)


def test_the_face_is_the_aligned_one_in_colour(alone: Outcome) -> None:
    face = alone.outputs["face"]
    assert face.media_type == "image/png"
    crop = decode(face.data)
    assert crop.shape == (SIDE_PX, SIDE_PX, 3)
    assert np.abs(crop.astype(int) - crop512(marked_astronaut(), np.array(ASTRONAUT_POINTS))).mean() < 1.0


def test_the_outputs_are_the_subject_s(alone: Outcome) -> None:
    """Kind decides how long an artifact is kept."""
    assert {one.kind for one in alone.outputs.values()} == {"identity"}
    assert {one.media_type for one in alone.outputs.values()} <= EXTENSIONS.keys(), "the store takes no others"


def test_a_large_photo_is_the_same_person(quick: Encoders, seen: list[Seen]) -> None:
    """Reduced to 1024 pixels before anything else; its size is told as it was handed in."""
    large = look(quick, png(scaled(marked_astronaut(), 2.5)), None, params(), 1)
    assert cosine(large, seen[0]) > 0.99
    assert large.looks.width_px == pytest.approx(2.5 * 93, rel=0.01)
    assert large.looks.sharpness == pytest.approx(seen[0].looks.sharpness, rel=0.3)


def cosine(one: Seen, other: Seen) -> float:
    a, b = one.face.embedding, other.face.embedding
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_half_precision_gives_nearly_the_same(quick: Encoders, seen: list[Seen]) -> None:
    """As on a GPU: the vision tower and IDFormer in bf16, whose 8 bits are good for a per cent or two."""
    halved = replace(quick, tower=deepcopy(quick.tower).bfloat16(), idformer=deepcopy(quick.idformer).bfloat16())
    tokens, exact = look(halved, png(marked_astronaut()), None, params(), 1).tokens, seen[0].tokens
    assert tokens.dtype == nobody(halved).dtype == torch.bfloat16
    assert torch.linalg.vector_norm(tokens - exact) < 0.03 * torch.linalg.vector_norm(exact)


# Several photos


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_photos_are_fused_as_told(quick: Encoders, seen: list[Seen], fusion: Fusion) -> None:
    found = join(seen, nobody(quick), fusion, {"idformer": OWN})
    each = [one.tokens for one in seen]
    assert (found.about.photos, found.about.fusion) == (2, fusion)
    assert found.arcface.shape == (2, 512)
    if fusion == "concat":
        torch.testing.assert_close(found.id, torch.cat(each))
    else:
        assert found.id.shape == TOKENS
    if fusion == "mean":
        torch.testing.assert_close(found.id, (each[0] + each[1]) / 2)


def test_the_better_photo_weighs_more_and_gives_the_face(
    engine: FluxEncoder, networks: Encoders, alone: Outcome
) -> None:
    poor = mark(blurred(astronaut(), 1.6), ASTRONAUT_MARK)
    told: list[float] = []
    outcome = engine.run(Work(params(), {"photos": (png(poor), png(marked_astronaut()))}, 0, told.append))
    assert told == [0.5, 1.0]
    ids = [look(networks, png(poor), None, params(), 1).tokens, identity(alone).id]
    facts = json.loads(json.dumps(outcome.facts))
    poor_quality, good_quality = (face["quality"] for face in facts["faces"])
    assert facts["best_photo"] == 2
    assert poor_quality < 0.7 * good_quality
    assert outcome.outputs["face"] == alone.outputs["face"]
    expected = (poor_quality * ids[0] + good_quality * ids[1]) / (poor_quality + good_quality)
    torch.testing.assert_close(identity(outcome).id, expected, rtol=1e-2, atol=1e-2)


def test_facts_hold_measures_but_no_embedding(alone: Outcome) -> None:
    """The manifest is kept longer than the biometric record."""
    facts = json.loads(json.dumps(alone.facts))
    assert facts.keys() == {"encoder", "fusion", "best_photo", "faces"}
    measured = {"photo", "width_px", "yaw_deg", "pitch_deg", "sharpness", "exposure", "score", "quality"}
    assert facts["faces"][0].keys() == measured


# What is refused


def test_no_face_is_refused_by_photo(engine: FluxEncoder) -> None:
    assert refusal(engine, coffee()) == (
        "photos[1]: no face was found. Use a photo in which the face is seen from the front, whole, lit and in focus."
    )


def test_no_picture_is_refused_by_photo(engine: FluxEncoder) -> None:
    with pytest.raises(InvalidInput, match=r"^photos\[2\]: 4 bytes that are no readable picture"):
        engine.run(Work(params(), {"photos": (png(marked_astronaut()), b"nope")}, seed=0))


@pytest.mark.parametrize("count", [0, 6])
def test_the_number_of_photos_is_bounded(engine: FluxEncoder, count: int) -> None:
    assert refusal(engine, *[marked_astronaut()] * count) == f"photos: {count} photos. Hand in 1 to 5 photos."


def test_picks_must_fit_the_photos(engine: FluxEncoder) -> None:
    assert refusal(engine, marked_astronaut(), faces=[1, 2]).startswith("faces: 2 entries for 1 photo.")


def test_a_pick_beyond_the_faces_is_refused(engine: FluxEncoder) -> None:
    assert refusal(engine, two_faces(), faces=[3]) == (
        "faces[1]: face 3 was picked, but photos[1] shows 2 faces. Pick a face from 1 (the leftmost) to 2."
    )


def test_the_caller_may_pick_a_face(quick: Encoders) -> None:
    left, right = (look(quick, png(two_faces()), pick, params(), 1).crop for pick in (1, 2))
    expected = crop512(two_faces(), np.array(ASTRONAUT_POINTS))
    assert np.abs(left.astype(int) - expected).mean() < 1.0
    assert np.abs(right.astype(int) - expected).mean() > 10.0


def test_where_the_subject_s_face_and_others_are_is_written_down(quick: Encoders, seen: list[Seen]) -> None:
    """In pixels of the photo as it was handed in, for whoever must not take another for the subject."""
    large = scaled(two_faces(), 2.5)
    left, right = (look(quick, png(large), pick, params(), 2).place for pick in (1, 2))
    assert left.photo == right.photo == 1
    assert left.box == pytest.approx(
        [2.5 * edge for edge in look(quick, png(two_faces()), 1, params(), 1).place.box], 0.05
    )
    assert (left.others, right.others) == ((right.box,), (left.box,))
    assert seen[0].place.others is None
    about = join([seen[0], look(quick, png(large), 1, params(), 2)], nobody(quick), "mean", {}).about
    assert about.faces == (seen[0].place, left)


class Twice:
    """Finds the astronaut's face, and her head as another."""

    def find(self, *_: object) -> tuple[AntelopeFace, ...]:
        points, vector = np.array(ASTRONAUT_POINTS), np.ones(512, np.float32)
        head = AntelopeFace((170.0, 50.0, 120.0, 150.0), points, vector, 0.6)
        return head, AntelopeFace((180.0, 70.0, 93.0, 120.0), points, vector, 0.9)


def test_a_face_that_is_told_twice_counts_once(networks: Encoders) -> None:
    """As the swap counts, so that a pick is the same person to both."""
    with pytest.raises(InvalidInput, match=r"face 2 was picked, but photos\[1\] shows 1 face\."):
        look(replace(networks, faces=cast("Antelope", Twice())), png(astronaut()), 2, params(), 1)
    once = look(replace(networks, faces=cast("Antelope", Twice())), png(astronaut()), None, params(), 1)
    assert once.place.others is None


def test_a_small_face_is_refused(engine: FluxEncoder) -> None:
    """93 pixels are told as they are, and are too few for whoever wants 100."""
    assert refusal(engine, marked_astronaut(), min_face_width_px=100.0) == (
        "photos[1]: the face is too small: 93 pixels wide, at least 100 are needed. "
        "Use a photo taken from nearer, or of higher resolution."
    )


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (blurred(astronaut(), 3.0), "the face is too blurred: its sharpness is "),
        (lit(astronaut(), 0.15), "the face is too dark: its mean grey level is "),
        (lit(astronaut(), 0.4, 170.0), "the face is too bright: its mean grey level is "),
    ],
)
def test_a_poor_photo_is_refused_as_by_the_portable_engine(engine: FluxEncoder, photo: Image, message: str) -> None:
    assert refusal(engine, mark(photo, ASTRONAUT_MARK)).startswith(f"photos[1]: {message}")


class Turned:
    """Finds the astronaut's face, her nose where that of someone who looks to the side is."""

    def find(self, *_: object) -> tuple[AntelopeFace, ...]:
        points = np.array(ASTRONAUT_POINTS)
        points[2, 0] += 35
        return (AntelopeFace((180.0, 70.0, 93.0, 120.0), points, np.ones(512, np.float32), 1.0),)


def test_a_face_turned_away_is_refused(networks: Encoders) -> None:
    with pytest.raises(InvalidInput, match=r"^photos\[3\]: the face is turned \d\d degrees to the picture's right"):
        look(replace(networks, faces=cast("Antelope", Turned())), png(astronaut()), None, params(), 3)


def test_photos_of_two_people_are_refused(engine: FluxEncoder) -> None:
    """To the synthetic recogniser a negative is nobody like the astronaut."""
    stranger = mark(np.invert(astronaut()), ASTRONAUT_MARK)
    told = refusal(engine, marked_astronaut(), stranger)
    assert told.startswith("photos[1], photos[2]: these photos show different people, with similarities down to -")
    assert told.endswith(
        " (0.20 and above is the same person). Leave out every photo of another person, and submit again."
    )


def test_another_person_among_several_is_refused_by_name(seen: list[Seen]) -> None:
    """Unless the bound is so low that nobody is."""
    stranger = replace(seen[0], face=replace(seen[0].face, embedding=-seen[0].face.embedding))
    photos = [seen[0], stranger, seen[1]]
    with pytest.raises(
        InvalidInput, match=r"^photos\[2\]: shows another person than the rest, similarity -[01]\.\d\d "
    ):
        refuse_strangers(photos, 0.2)
    refuse_strangers(photos, -1.0)
    refuse_strangers([seen[0], seen[1]], 0.2)


def face(x: float, width: float) -> AntelopeFace:
    return AntelopeFace((x, 0.0, width, width), TEMPLATE, np.ones(512, np.float32), 1.0)


def test_the_largest_face_is_meant_unless_one_is_picked() -> None:
    """Passers-by are not counted from the left."""
    large, middling, passer_by = face(50, 100), face(300, 60), face(0, 20)
    faces = (large, middling, passer_by)
    assert choose(faces, None, 0.4, 1) is large
    assert choose(faces, 1, 0.4, 1) is large
    assert choose(faces, 2, 0.4, 1) is middling
    assert choose(faces, 1, 0.0, 1) is passer_by


def test_a_face_the_detector_is_less_sure_of_is_worth_less() -> None:
    looks = Looks(256.0, 0.0, 0.0, 127.5, 400.0)
    assert worth(looks, 0.5) == 0.5 * worth(looks, 1.0) == 0.5


# Parameters


def test_the_stage_names_the_engine() -> None:
    operation = STAGE.operation("identity.encode")
    assert operation is not None
    spec = operation.engines["flux"]
    assert spec.params is FluxEncodeParams
    assert spec.factory == f"{FluxEncoder.__module__}:{FluxEncoder.__name__}"


def test_the_fusions_are_the_ones_there_are() -> None:
    """The stage's description may not import torch, and repeats them."""
    assert get_args(FluxEncodeParams.model_fields["fusion"].annotation) == get_args(Fusion)


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "../pulid"},
        {"encoder": "buffalo_l"},
        {"fusion": "median"},
        {"det_size": 650},
        {"det_size": 320, "min_det_size": 640},
        {"min_det_size": 64},
        {"min_det_score": 0.0},
        {"min_similarity": 1.1},
        {"faces": [0]},
        {"sharpness": 1},
    ],
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        params(**wrong)


# The weights


def test_nothing_is_opened_before_a_step_and_nothing_twice(shelf: Shelf) -> None:
    """And the same photos give the same bytes, whatever was put out for want of room and encoded between."""
    photo = marked_astronaut()
    with use_residency(Residency(Budget(10**9, 10**9))) as fresh:
        engine = FluxEncoder(shelf.folder, "cpu")
        assert engine.models(params()) == {OWN: shelf.own_digest(OWN)}
        assert fresh.figures().loads == 0
        first = encode(engine, photo)
        assert fresh.on_device() == engine.resident_keys(params())
        assert (fresh.figures().loads, fresh.drop_idle()) == (4, 4)
        encode(engine, two_faces())
        assert encode(engine, photo) == first
        assert fresh.figures().loads == 8


def test_all_that_the_files_hold_is_in_use(shelf: Shelf, networks: Encoders) -> None:
    former = {f"pulid_encoder.{name}": one for name, one in networks.idformer.state_dict().items()}
    files = IDENTITY.files
    for file, state in (
        (files.pulid, former),
        (files.vision_tower, published_names(networks.tower)),
        (files.face_parser, networks.parser.state_dict()),
    ):
        held = load_file(shelf.folder / OWN / file)
        assert held
        for name, tensor in held.items():
            if not name.startswith("pulid_ca."):
                assert torch.equal(state[name], tensor), name


@pytest.fixture
def catalogued(tmp_path: Path) -> Shelf:
    """A models folder with what the catalogue's PuLID needs: sparse files of the right sizes, pinned."""
    sizes = {(PULID, f"{PULID}.safetensors"): 1142099520}
    for name in (VISION_TOWER, PARSER):
        sizes[name, load_models()[name].gives[0]] = 1000
    for (name, file), size in sizes.items():
        (tmp_path / name).mkdir()
        with (tmp_path / name / file).open("wb") as empty:
            empty.truncate(size)
        pin(tmp_path, name, {file: Pin(sha256=sha256(name.encode()), size=size)})
    (tmp_path / PACK / PACK).mkdir(parents=True)
    for file in (DETECTOR, RECOGNISER):
        (tmp_path / PACK / PACK / file).write_bytes(file.encode())
    return Shelf(tmp_path)


def test_the_catalogue_s_pulid_is_found_with_all_it_needs(catalogued: Shelf) -> None:
    """In its published sizes; each file's digest stands in the step key."""
    place, folder = place_of(catalogued, FluxEncodeParams()), catalogued.folder
    assert place.index == PUBLISHED
    assert place.pulid == folder / PULID / f"{PULID}.safetensors"
    assert place.tower == folder / VISION_TOWER / "EVA02_CLIP_L_336_psz14_s6B.safetensors"
    assert place.parser == folder / PARSER / "parsing_bisenet.safetensors"
    assert place.faces.place == folder / PACK / PACK
    assert place.names == {"arcface": PACK, "face_parser": PARSER, "eva_clip": VISION_TOWER, "idformer": PULID}
    assert FluxEncoder(catalogued.folder).models(FluxEncodeParams()) == {
        **{name: sha256(name.encode()) for name in (PULID, VISION_TOWER, PARSER)},
        **{f"{PACK}/{file}": sha256(file.encode()) for file in (DETECTOR, RECOGNISER)},
    }


def test_an_own_model_may_use_the_catalogue_s_antelopev2(catalogued: Shelf) -> None:
    tiny.write(catalogued.folder / OWN)
    place = place_of(catalogued, params(encoder="antelopev2"))
    assert place.faces.place == catalogued.folder / PACK / PACK
    assert place.digests.keys() == {OWN, f"{PACK}/{DETECTOR}", f"{PACK}/{RECOGNISER}"}
    assert place_of(catalogued, params()).faces.place == catalogued.folder / OWN / PACK


def test_a_missing_file_is_named_with_the_command_that_brings_it(catalogued: Shelf) -> None:
    (catalogued.folder / PULID / f"{PULID}.safetensors").unlink()
    with pytest.raises(Permanent) as told:
        FluxEncoder(catalogued.folder).models(FluxEncodeParams())
    assert f"{catalogued.folder}/{PULID}/{PULID}.safetensors is missing" in str(told.value)
    assert f"`doctorgen models download {PULID}`" in str(told.value)


def test_a_missing_antelopev2_is_named(catalogued: Shelf) -> None:
    (catalogued.folder / PACK / PACK / DETECTOR).unlink()
    with pytest.raises(Permanent, match=r"of antelopev2 missing: .*`doctorgen models download antelopev2`"):
        place_of(catalogued, FluxEncodeParams())


def test_something_else_of_the_catalogue_is_no_identity_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="model: flux1-dev is a transformer"):
        place_of(Shelf(tmp_path), params(model="flux1-dev"))


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (None, "is missing. A name of the catalogue is brought by `doctorgen models download`"),
        ("{", "is not understood: the document: Invalid JSON"),
        ('{"idformer": {"dim": 0}}', "is not understood: idformer.dim: Input should be greater than or equal to 1"),
        ('{"idformer": {"id_dim": 9}}', "idformer.id_dim is 9, which its inputs make 1280"),
        ('{"files": {"pulid": "../pulid"}}', "is not understood: files.pulid: String should match"),
        ("{}", "eva_clip.safetensors is missing, which "),
    ],
)
def test_a_folder_of_one_s_own_says_what_is_wrong_with_it(tmp_path: Path, index: str | None, said: str) -> None:
    (tmp_path / OWN).mkdir()
    if index is not None:
        (tmp_path / OWN / INDEX).write_text(index)
    with pytest.raises(Permanent) as told:
        place_of(Shelf(tmp_path), params())
    assert said in str(told.value)
    assert f"{tmp_path / OWN / INDEX}" in str(told.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_an_error(shelf: Shelf) -> None:
    with pytest.raises(Permanent, match="cuda was asked for"):
        encode(FluxEncoder(shelf.folder, "cuda"), marked_astronaut())
