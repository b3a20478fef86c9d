"""InsightFace's packs: the published ones, one's own, and what they tell of a face."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from insightface.app import FaceAnalysis

from shared.contracts.errors import Permanent
from shared.models.onnx import CPU
from shared.models.residency import Budget, Residency
from shared.models.shelf import Shelf
from shared.vision.networks import tiny_swapper
from shared.vision.networks.insight import (
    ANTELOPEV2,
    BUFFALO_L,
    GENDERS,
    Insight,
    InsightFace,
    Pack,
    distinct,
    locate,
    open_app,
    open_guesser,
    own_pack,
)
from shared.vision.networks.packs import pack_named
from tests.engines.swap_models import SIX, crowd, opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ours"
    tiny_swapper.write_pack(folder, SIX)
    return folder


def test_each_face_is_found_with_sex_and_age(folder: Path) -> None:
    """Of six people in a photo; the tiny pack takes who is more red than blue for a woman, and all for forty."""
    faces = opened(folder).find(crowd())
    assert len(faces) == 6
    assert [face.area for face in faces] == sorted((face.area for face in faces), reverse=True)
    assert {face.age for face in faces} == {40}
    assert all(face.gender in {"female", "male"} for face in faces)
    blue = np.ascontiguousarray(crowd()[:, :, ::-1])
    turned = opened(folder).find(blue)
    assert [face.gender for face in turned] != [face.gender for face in faces]


def test_a_pack_says_what_insightface_s_own_class_says(folder: Path) -> None:
    """Which would open every file of the folder."""
    own = FaceAnalysis(name=str(folder), root=str(folder.parent), providers=[CPU])
    own.prepare(ctx_id=0, det_thresh=0.5, det_size=(640, 640))
    wanted = own.get(np.ascontiguousarray(crowd()[:, :, ::-1]))
    found = opened(folder).find(crowd())
    assert len(found) == len(wanted) == 6
    for same in wanted:
        (face,) = (one for one in found if np.array_equal(one.points, same.kps))
        assert face.box[:2] == tuple(same.bbox[:2])
        assert np.array_equal(face.embedding, same.embedding)
        assert (face.score, face.age) == (same.det_score, same.age)
        assert face.gender == GENDERS[same.gender]


def test_without_attributes_sex_and_age_are_not_told(folder: Path) -> None:
    face = Insight(open_app(folder, "cpu", BUFFALO_L)).find(crowd())[0]
    assert (face.gender, face.age) == (None, None)


@pytest.mark.parametrize("shape", [(1, 700), (700, 1), (3, 2000), (1, 1)])
def test_a_picture_of_any_shape_is_looked_at(folder: Path, shape: tuple[int, int]) -> None:
    """One that is too narrow for the detector's square shows no face; insightface itself fails there."""
    faces = Insight(open_app(folder, "cpu", BUFFALO_L)).find(np.full((*shape, 3), 128, np.uint8))
    assert not faces or shape == (1, 1)


@pytest.mark.parametrize(
    ("file", "output"),
    [
        (BUFFALO_L.detector, 2),  # scores, of which insightface would say: no face
        (BUFFALO_L.detector, 5),  # boxes, which would go into the manifest
        (BUFFALO_L.detector, 8),  # key points, on which the alignment fails
        (BUFFALO_L.recogniser, 0),
        (BUFFALO_L.attributes, 0),
    ],
)
def test_what_is_no_number_is_an_error_and_not_a_photo_without_a_face(tmp_path: Path, file: str, output: int) -> None:
    tiny_swapper.write_pack(tmp_path, SIX)
    told = onnx.load(tmp_path / file)
    name = told.graph.output[output].name
    for node in told.graph.node:
        node.output[:] = [f"{one} once" if one == name else one for one in node.output]
    told.graph.initializer.append(onnx.numpy_helper.from_array(np.array(np.nan, np.float32), "none"))
    told.graph.node.append(onnx.helper.make_node("Add", [f"{name} once", "none"], [name]))
    onnx.save(told, tmp_path / file)
    finder = opened(tmp_path)
    with pytest.raises(Permanent, match="gave what is no number"):
        finder.find(crowd())


def test_a_detector_is_opened_once_for_all_the_sizes_that_it_looks_at(tmp_path: Path) -> None:
    tiny_swapper.write_pack(tmp_path, ())
    app = open_app(tmp_path, "cpu", BUFFALO_L)
    assert Insight(app).find(crowd()) == ()
    assert len(set(map(id, app.detector.resolution_sessions.values()))) == 1


def test_a_pack_is_lent_by_a_residency(folder: Path) -> None:
    """Detector and recogniser once, whether sex and age are guessed beside or not; and what guesses them."""
    home = Residency(Budget(10**9, 10**9))
    for guesses in (True, False, True):
        pack = pack_named(Shelf(folder.parent), folder.name, attributes=guesses)
        with pack.borrowed("cpu", home) as finder:
            assert {face.age for face in finder.find(crowd())} == {40 if guesses else None}
        assert pack.keys("cpu") <= home.on_device()
    assert home.on_device() == pack.keys("cpu")
    assert home.figures().loads == 2
    assert home.figures().device_bytes == sum((folder / file).stat().st_size for file in BUFFALO_L.files(True))


def test_a_detector_without_key_points_is_named_and_no_bug_at_the_first_photo(tmp_path: Path) -> None:
    tiny_swapper.write_pack(tmp_path, SIX)
    told = onnx.load(tmp_path / BUFFALO_L.detector)
    del told.graph.output[6:]
    onnx.save(told, tmp_path / BUFFALO_L.detector)
    with pytest.raises(Permanent, match=r"det_10g\.onnx finds faces without the five key points"):
        open_app(tmp_path, "cpu", BUFFALO_L)


def test_what_guesses_sex_and_age_is_no_other_model(tmp_path: Path) -> None:
    tiny_swapper.write_pack(tmp_path)
    (tmp_path / BUFFALO_L.attributes).write_bytes((tmp_path / BUFFALO_L.recogniser).read_bytes())
    with pytest.raises(Permanent, match=r"genderage\.onnx is a model for recognition, where one for genderage"):
        open_guesser(tmp_path, "cpu", BUFFALO_L)
    (tmp_path / BUFFALO_L.attributes).write_bytes(b"no model")
    with pytest.raises(
        Permanent, match=r"genderage\.onnx is no model that insightface can load .*models verify buffalo_l"
    ):
        open_guesser(tmp_path, "cpu", BUFFALO_L)


class Disturbed:
    """insightface's FaceAnalysis; while it looks at one picture another thread asks for another with it."""

    def __init__(self) -> None:
        self.score = 0.0
        self.seen: dict[float, set[float]] = {}
        self.finder = Insight(self)
        self.other = threading.Thread(target=self.ask, args=(0.3,))
        self.prepared = threading.Event()

    def ask(self, score: float) -> None:
        finder = self.finder.guessing(None) if score == 0.3 else self.finder
        finder.find(np.zeros((8, 8, 3), np.uint8), min_score=score)

    def prepare(self, ctx_id: int, det_thresh: float, det_size: tuple[int, int]) -> None:
        assert (ctx_id, det_size[0]) == (0, det_size[1])
        self.score = det_thresh
        if threading.current_thread() is self.other:
            self.prepared.set()

    def get(self, _: Any) -> list[Any]:
        mine = 0.3 if threading.current_thread() is self.other else 0.5
        if mine == 0.5 and not self.other.ident:
            self.other.start()
            self.prepared.wait(0.2)  # in vain: it waits for its turn
        self.seen.setdefault(mine, set()).add(self.score)
        return []


def test_threads_that_share_a_pack_take_turns() -> None:
    """A Residency lends one object to all who ask, and its detector keeps the bounds of whoever came last.

    Also where one of them has sex and age guessed beside.
    """
    app = Disturbed()
    app.ask(0.5)
    app.other.join()
    assert app.seen == {0.5: {0.5}, 0.3: {0.3}}


@pytest.mark.parametrize("pack", [BUFFALO_L, ANTELOPEV2])
def test_a_pack_of_one_s_own_is_told_by_its_files(tmp_path: Path, pack: Pack) -> None:
    tiny_swapper.write_pack(tmp_path, pack=pack)
    assert own_pack(tmp_path, "ours").files(True) == pack.files(True)
    assert own_pack(tmp_path, "ours").name == "ours"
    (tmp_path / pack.recogniser).unlink()
    with pytest.raises(Permanent, match="holds no pack of InsightFace"):
        own_pack(tmp_path, "ours")


def test_a_missing_file_of_sex_and_age_is_named(tmp_path: Path) -> None:
    """Where it is asked for: antelopev2 does without for identities."""
    tiny_swapper.write_pack(tmp_path / "antelopev2", pack=ANTELOPEV2)
    (tmp_path / "antelopev2" / ANTELOPEV2.attributes).unlink()
    assert locate(tmp_path / "antelopev2", ANTELOPEV2) == tmp_path / "antelopev2"
    with pytest.raises(Permanent, match=r"genderage\.onnx of antelopev2 missing"):
        locate(tmp_path / "antelopev2", ANTELOPEV2, attributes=True)


def face(x: float, width: float, score: float) -> InsightFace:
    points = np.array([(-0.2, -0.2), (0.2, -0.2), (0.0, 0.0), (-0.15, 0.2), (0.15, 0.2)]) * width
    points = points + np.array((x, 50.0))
    return InsightFace((x - width / 2, 0.0, width, width), points, np.ones(512, np.float32), score)


def test_a_face_told_twice_counts_once_and_the_surer_one_stays() -> None:
    twice, again, other = face(50, 40, 0.7), face(52, 41, 0.9), face(100, 40, 0.6)
    assert distinct([twice, again, other]) == (again, other)
    assert distinct([]) == ()
