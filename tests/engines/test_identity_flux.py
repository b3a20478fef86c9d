"""identity.encode with PuLID's encoders: synthetic antelopev2, the others tiny and random, on real photos."""

import json
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from services.identity.antelope import DETECTOR, RECOGNISER, AntelopeFace, open_antelope
from services.identity.crop512 import SIDE_PX, TEMPLATE, crop512
from services.identity.flux import (
    PARSER,
    PULID,
    VISION_TOWER,
    Encoders,
    FluxEncoder,
    choose,
    encoder_from,
    open_encoder,
    quality,
)
from services.identity.parsing import CLASSES, FaceParser, grey_on_white, parse
from services.identity.stage import STAGE, FluxEncodeParams
from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.pulid.artifact import PulidIdentity, load_identity
from shared.flux.pulid.eva import EvaTower
from shared.flux.pulid.fusion import Fusion
from shared.flux.pulid.idformer import IDFormer
from shared.flux.pulid.index import EvaShape
from shared.flux.pulid.weights import Pulid
from shared.models.catalogue import ModelCatalogue
from shared.models.catalogue import parse as read_catalogue
from shared.models.shelf import Shelf
from shared.storage.digest import sha256
from shared.vision.codec import Image, decode
from shared.worker.operation import Outcome, Work
from tests.engines.synthetic_antelope import (
    ASTRONAUT_MARK,
    ASTRONAUT_POINTS,
    mark,
    marked_astronaut,
    write_antelope,
)
from tests.photos import astronaut, blurred, coffee, lit, png, scaled

SHAPE = EvaShape(image_size=56, width=48, depth=5, heads=2, projected=24, taps=(1, 2, 3, 4, 5))
TOKENS = (32, 40)
PUBLISHED_NAMES = {
    "mlp.norm.": "mlp.ffn_ln.",
    "attn.norm.": "attn.inner_attn_ln.",
    "fc1_g": "w1",
    "fc1_x": "w2",
    "fc2": "w3",
    "q_proj.bias": "q_bias",
    "v_proj.bias": "v_bias",
}
CATALOGUE = """
{name}:
  title: {name}
  role: test
  by_hand: made by the test
  files: [{{path: {file}, bytes: {size}}}]
  format: safetensors
  licence: none
  commercial: true
  memory_bytes: 1
"""


def tiny_pulid() -> Pulid:
    former = IDFormer(
        dim=32,
        depth=5,
        heads=2,
        head_dim=16,
        queries=TOKENS[0],
        id_tokens=2,
        out_dim=TOKENS[1],
        id_dim=512 + SHAPE.projected,
        vit_dim=SHAPE.width,
    )
    return Pulid(former, ())


class QuickParser(torch.nn.Sequential):
    """Scores a place's class by its colour: the face parser's interface in a hundredth of its time."""

    def __init__(self) -> None:
        super().__init__(torch.nn.AvgPool2d(8), torch.nn.Conv2d(3, CLASSES, 1), torch.nn.Upsample(scale_factor=8))


def random_networks() -> tuple[EvaTower, Pulid]:
    torch.manual_seed(0)
    return EvaTower(SHAPE).eval(), tiny_pulid().eval()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> FluxEncoder:
    folder = tmp_path_factory.mktemp("models") / "antelopev2"
    write_antelope(folder)
    tower, pulid = random_networks()
    parser = QuickParser().eval().requires_grad_(False)
    return FluxEncoder(Encoders(open_antelope(folder), parser, tower, pulid.pulid_encoder), {"tiny": "0" * 64})


@pytest.fixture(scope="module")
def alone(engine: FluxEncoder) -> Outcome:
    """Of the one photo that most tests look at."""
    return encode(engine, marked_astronaut())


@pytest.fixture(scope="module")
def dimmed(engine: FluxEncoder) -> Outcome:
    """Of the same photo, darker."""
    return encode(engine, lit(marked_astronaut(), 0.9))


def encode(engine: FluxEncoder, *photos: Image, **params: Any) -> Outcome:
    """Run the operation, its parameters going through JSON as the planner's do."""
    checked = FluxEncodeParams.model_validate_json(json.dumps(params))
    return engine.run(Work(checked, {"photos": tuple(png(photo) for photo in photos)}, seed=0))


def identity(outcome: Outcome) -> PulidIdentity:
    return load_identity(outcome.outputs["identity"].data, "identity")


def refusal(engine: FluxEncoder, *photos: Image, **params: Any) -> str:
    with pytest.raises(InvalidInput) as refused:
        encode(engine, *photos, **params)
    return str(refused.value)


@cache
def two_faces() -> Image:
    """Two marks, two faces: the left one the astronaut."""
    return mark(marked_astronaut(), (147, 45))


# One photo


def test_a_photo_becomes_identity_tokens(engine: FluxEncoder, alone: Outcome) -> None:
    """The tokens are those of the published steps, done here one by one."""
    assert tuple(alone.outputs) == ("identity", "face")
    found = identity(alone)
    networks = engine._encoders  # noqa: SLF001 - the same networks are to be used by hand
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
        "arcface": "antelopev2",
        "face_parser": "face-parsing",
        "eva_clip": "EVA02-CLIP-L-336",
        "idformer": "pulid_flux_v0.9.1",
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


def test_the_same_photos_give_the_same_bytes(engine: FluxEncoder, alone: Outcome) -> None:
    """Whatever was encoded between."""
    encode(engine, two_faces())
    assert encode(engine, marked_astronaut()) == alone


def test_a_large_photo_is_the_same_person(engine: FluxEncoder, alone: Outcome) -> None:
    """Reduced to 1024 pixels before anything else; its size is told as it was handed in."""
    large = encode(engine, scaled(marked_astronaut(), 4.0))
    apart = torch.nn.functional.cosine_similarity(identity(large).arcface, identity(alone).arcface)
    assert apart.item() > 0.99
    told = json.loads(json.dumps(large.facts))["faces"][0]
    assert told["width_px"] == pytest.approx(4 * 93, rel=0.01)


def test_half_precision_gives_nearly_the_same(engine: FluxEncoder, alone: Outcome) -> None:
    """As on a GPU: the vision tower and IDFormer in bf16, whose 8 bits are good for a per cent or two."""
    tower, pulid = random_networks()
    full = engine._encoders  # noqa: SLF001 - all but the two networks stays as it is
    halved = Encoders(full.faces, full.parser, tower.bfloat16(), pulid.pulid_encoder.bfloat16())
    found, exact = identity(encode(FluxEncoder(halved, {}), marked_astronaut())), identity(alone)
    assert found.id.dtype == found.uncond.dtype == torch.bfloat16
    assert found.arcface.dtype == torch.float32
    assert torch.linalg.vector_norm(found.id - exact.id) < 0.03 * torch.linalg.vector_norm(exact.id)


# Several photos


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_photos_are_fused_as_told(engine: FluxEncoder, alone: Outcome, dimmed: Outcome, fusion: Fusion) -> None:
    told: list[float] = []
    photos = png(marked_astronaut()), png(lit(marked_astronaut(), 0.9))
    found = identity(engine.run(Work(FluxEncodeParams(fusion=fusion), {"photos": photos}, 0, told.append)))
    assert told == [0.5, 1.0]
    each = [identity(alone).id, identity(dimmed).id]
    assert found.about.photos == 2
    assert found.arcface.shape == (2, 512)
    if fusion == "concat":
        torch.testing.assert_close(found.id, torch.cat(each))
    else:
        assert found.id.shape == TOKENS
    if fusion == "mean":
        torch.testing.assert_close(found.id, (each[0] + each[1]) / 2)


def test_the_better_photo_weighs_more_and_gives_the_face(engine: FluxEncoder, alone: Outcome) -> None:
    poor = mark(blurred(astronaut(), 2.0), ASTRONAUT_MARK)
    outcome = encode(engine, poor, marked_astronaut())
    ids = [identity(encode(engine, poor)).id, identity(alone).id]
    told = json.loads(json.dumps(outcome.facts))
    poor_quality, good_quality = (face["quality"] for face in told["faces"])
    assert told["best_photo"] == 2
    assert poor_quality < 0.7 * good_quality
    assert outcome.outputs["face"] == alone.outputs["face"]
    expected = (poor_quality * ids[0] + good_quality * ids[1]) / (poor_quality + good_quality)
    torch.testing.assert_close(identity(outcome).id, expected, rtol=1e-2, atol=1e-2)


def test_facts_hold_measures_but_no_embedding(alone: Outcome) -> None:
    """The manifest is kept longer than the biometric record."""
    facts = json.loads(json.dumps(alone.facts))
    assert facts.keys() == {"encoder", "fusion", "best_photo", "faces"}
    assert facts["faces"][0].keys() == {"photo", "width_px", "score", "quality"}


# What is refused


def test_no_face_is_refused_by_photo(engine: FluxEncoder) -> None:
    assert refusal(engine, marked_astronaut(), coffee()) == (
        "photos[2]: no face was found. Use a photo in which the face is seen from the front, whole, lit and in focus."
    )


def test_no_picture_is_refused_by_photo(engine: FluxEncoder) -> None:
    with pytest.raises(InvalidInput, match=r"^photos\[2\]: 4 bytes that are no readable picture"):
        engine.run(Work(FluxEncodeParams(), {"photos": (png(marked_astronaut()), b"nope")}, seed=0))


@pytest.mark.parametrize("count", [0, 6])
def test_the_number_of_photos_is_bounded(engine: FluxEncoder, count: int) -> None:
    assert refusal(engine, *[marked_astronaut()] * count) == f"photos: {count} photos. Hand in 1 to 5 photos."


def test_picks_must_fit_the_photos(engine: FluxEncoder) -> None:
    assert refusal(engine, marked_astronaut(), faces=[1, 2]).startswith("faces: 2 entries for 1 photo.")


def test_a_pick_beyond_the_faces_is_refused(engine: FluxEncoder) -> None:
    assert refusal(engine, two_faces(), faces=[3]) == (
        "faces[1]: face 3 was picked, but photos[1] shows 2 faces. Pick a face from 1 (the leftmost) to 2."
    )


def test_the_caller_may_pick_a_face(engine: FluxEncoder) -> None:
    left, right = (encode(engine, two_faces(), faces=[pick]).outputs["face"].data for pick in (1, 2))
    expected = crop512(two_faces(), np.array(ASTRONAUT_POINTS))
    assert np.abs(decode(left).astype(int) - expected).mean() < 1.0
    assert np.abs(decode(right).astype(int) - expected).mean() > 10.0


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


def test_quality_falls_with_what_spoils_a_photo() -> None:
    """Smaller, blurred, darker, turned away, less sure: each alone is worse."""
    crop = crop512(astronaut(), np.array(ASTRONAUT_POINTS))
    best = quality(face(0, 200), 200, crop)
    turned = TEMPLATE + np.array([(0, 0), (0, 0), (35, 0), (0, 0), (0, 0)])
    assert 0.0 < best <= 1.0
    assert quality(face(0, 100), 100, crop) < best
    assert quality(face(0, 200), 200, blurred(crop, 12)) < best
    assert quality(face(0, 200), 200, lit(crop, 0.3)) < best
    assert quality(AntelopeFace((0, 0, 200, 200), turned, np.ones(512, np.float32), 1.0), 200, crop) < 0.7 * best
    assert quality(AntelopeFace((0, 0, 200, 200), TEMPLATE, np.ones(512, np.float32), 0.5), 200, crop) < best


# Parameters


def test_the_stage_names_the_engine() -> None:
    operation = STAGE.operation("identity.encode")
    assert operation is not None
    spec = operation.engines["flux"]
    assert spec.params is FluxEncodeParams
    assert spec.factory == f"{open_encoder.__module__}:{open_encoder.__name__}"


def test_the_fusions_are_the_ones_there_are() -> None:
    """The stage's description may not import torch, and repeats them."""
    assert get_args(FluxEncodeParams.model_fields["fusion"].annotation) == get_args(Fusion)


@pytest.mark.parametrize(
    "params",
    [
        {"model": "pulid_flux_v0.9.0"},
        {"encoder": "buffalo_l"},
        {"fusion": "median"},
        {"det_size": 650},
        {"det_size": 320, "min_det_size": 640},
        {"min_det_size": 64},
        {"min_det_score": 0.0},
        {"faces": [0]},
        {"sharpness": 1},
    ],
)
def test_parameters_out_of_range_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FluxEncodeParams.model_validate_json(json.dumps(params))


# The weights


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shelf, ModelCatalogue]:
    """A models folder in the published layouts, and the catalogue of what is in it, every file's digest pinned."""
    folder = tmp_path_factory.mktemp("shelf")
    tower, pulid = random_networks()
    parser = FaceParser()
    write_antelope(folder / "antelopev2" / "antelopev2")
    files = {
        PULID: (f"{PULID}.safetensors", pulid.state_dict()),
        VISION_TOWER: ("EVA02_CLIP_L_336_psz14_s6B.safetensors", published(tower)),
        PARSER: ("parsing_bisenet.safetensors", parser.state_dict()),
    }
    text = ""
    for name, (file, state) in files.items():
        (folder / name).mkdir()
        save_file({key: one.clone().contiguous() for key, one in state.items()}, folder / name / file)
        text += CATALOGUE.format(name=name, file=file, size=(folder / name / file).stat().st_size)
    catalogue = read_catalogue(text)
    for model in catalogue.values():
        assert Shelf(folder).verify(model).state == "ready"
    return Shelf(folder), catalogue


def published(tower: EvaTower) -> dict[str, Tensor]:
    """The tower's weights under EVA-CLIP's own names."""
    state = {}
    for name, tensor in tower.trunk.state_dict().items():
        for ours, theirs in PUBLISHED_NAMES.items():
            name = name.replace(ours, theirs)  # noqa: PLW2901 - a name is changed step by step
        state[f"visual.{name}"] = tensor
    return state


def test_the_engine_is_built_from_the_models_folder(shelf: tuple[Shelf, ModelCatalogue], alone: Outcome) -> None:
    """All that the files hold is in use, and each file's digest stands in the step key."""
    loaded = encoder_from(shelf[0], "cpu", shelf[1], SHAPE, tiny_pulid)
    found = loaded._encoders  # noqa: SLF001 - what was read is to be seen
    of_files = {
        f"{PULID}/{PULID}.safetensors": Pulid(found.idformer, ()).state_dict(),
        f"{VISION_TOWER}/EVA02_CLIP_L_336_psz14_s6B.safetensors": published(found.tower),
        f"{PARSER}/parsing_bisenet.safetensors": found.parser.state_dict(),
    }
    for path, state in of_files.items():
        for name, tensor in load_file(shelf[0].folder / path).items():
            assert torch.equal(state[name], tensor), name
    once = identity(encode(loaded, marked_astronaut()))
    assert once.id.shape == TOKENS
    torch.testing.assert_close(once.uncond, identity(alone).uncond)
    folder = shelf[0].folder
    assert loaded.models(FluxEncodeParams()) == {
        PULID: sha256((folder / PULID / f"{PULID}.safetensors").read_bytes()),
        VISION_TOWER: sha256((folder / VISION_TOWER / "EVA02_CLIP_L_336_psz14_s6B.safetensors").read_bytes()),
        PARSER: sha256((folder / PARSER / "parsing_bisenet.safetensors").read_bytes()),
        "antelopev2/scrfd_10g_bnkps.onnx": sha256((folder / "antelopev2/antelopev2" / DETECTOR).read_bytes()),
        "antelopev2/glintr100.onnx": sha256((folder / "antelopev2/antelopev2" / RECOGNISER).read_bytes()),
    }


def test_a_missing_file_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCTORGEN_MODELS_DIR", str(tmp_path))
    with pytest.raises(Permanent) as told:
        open_encoder()
    assert f"{tmp_path}/{PULID}/{PULID}.safetensors is missing" in str(told.value)
    assert f"`doctorgen models download {PULID}`" in str(told.value)


def test_a_missing_antelopev2_is_named(shelf: tuple[Shelf, ModelCatalogue], tmp_path: Path) -> None:
    for one in shelf[0].folder.iterdir():
        if one.name != "antelopev2":
            (tmp_path / one.name).symlink_to(one)
    with pytest.raises(Permanent, match=r"of antelopev2 missing: .*`doctorgen models download antelopev2`"):
        encoder_from(Shelf(tmp_path), "cpu", shelf[1], SHAPE, tiny_pulid)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_an_error(shelf: tuple[Shelf, ModelCatalogue]) -> None:
    with pytest.raises(Permanent, match="cuda was asked for"):
        encoder_from(shelf[0], "cuda", shelf[1], SHAPE, tiny_pulid)
