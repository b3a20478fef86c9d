"""antelopev2: where its files may lie, where it runs, and what it finds."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shared.contracts.errors import Permanent
from shared.models.onnx import CPU, CUDA
from shared.vision.codec import Image
from shared.vision.networks import insight
from shared.vision.networks.antelope import DETECTOR, RECOGNISER, Antelope, locate, open_antelope
from tests.engines.synthetic_antelope import (
    ASTRONAUT_BOX,
    ASTRONAUT_POINTS,
    mark,
    marked_astronaut,
    write_antelope,
)
from tests.photos import astronaut


@pytest.fixture(scope="module")
def antelope(tmp_path_factory: pytest.TempPathFactory) -> Antelope:
    folder = tmp_path_factory.mktemp("models") / "antelopev2"
    write_antelope(folder)
    return open_antelope(folder)


@dataclass
class FakeApp:
    """insightface's FaceAnalysis, as far as it is used: finds what it is told to, at the sizes it is told to."""

    found: dict[int, list[Any]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    seen: list[Image] = field(default_factory=list)
    thresholds: set[float] = field(default_factory=set)

    def prepare(self, ctx_id: int, det_thresh: float, det_size: tuple[int, int]) -> None:
        assert det_size[0] == det_size[1]
        self.sizes.append(det_size[0])
        self.thresholds.add(det_thresh)

    def get(self, image: Image) -> list[Any]:
        self.seen.append(image)
        return self.found.get(self.sizes[-1], [])


def face(left: float, top: float, right: float, bottom: float) -> Any:
    return SimpleNamespace(
        bbox=np.array((left, top, right, bottom), np.float32),
        kps=np.zeros((5, 2), np.float32),
        embedding=np.full(512, 3.0, np.float32),
        det_score=np.float32(0.9),
    )


def test_a_photo_gives_box_points_and_a_raw_embedding(antelope: Antelope) -> None:
    """Through insightface itself, with files of antelopev2's interface."""
    (found,) = antelope.find(marked_astronaut())
    left, top, right, bottom = ASTRONAUT_BOX
    assert found.box == pytest.approx((left, top, right - left, bottom - top), abs=0.1)
    assert found.points == pytest.approx(np.array(ASTRONAUT_POINTS), abs=0.1)
    assert found.score > 0.9
    assert found.embedding.shape == (512,)
    assert np.linalg.norm(found.embedding) > 2.0


def test_it_finds_again_what_it_found_before(antelope: Antelope) -> None:
    """The ladder of one photo leaves nothing behind for the next."""
    first = antelope.find(marked_astronaut())
    assert antelope.find(astronaut()) == ()
    again = antelope.find(marked_astronaut())
    assert again[0].box == first[0].box
    assert np.array_equal(again[0].embedding, first[0].embedding)


def test_each_face_is_found(antelope: Antelope) -> None:
    found = antelope.find(mark(marked_astronaut(), (147, 45)))
    assert len(found) == 2
    assert found[1].box[0] - found[0].box[0] == pytest.approx(4 * 25.6, abs=0.1)


def test_the_photo_is_given_as_bgr() -> None:
    app = FakeApp()
    Antelope(app).find(np.full((4, 4, 3), (255, 0, 9), np.uint8), det_size=320)
    assert app.seen[0][0, 0].tolist() == [9, 0, 255]


def test_a_photo_without_a_face_is_looked_at_ever_smaller() -> None:
    app = FakeApp()
    assert Antelope(app).find(astronaut(), min_score=0.4) == ()
    assert app.sizes == [640, 576, 512, 448, 384, 320]
    assert app.thresholds == {0.4}


def test_the_first_size_with_a_face_is_taken() -> None:
    app = FakeApp({512: [face(0, 0, 10, 10)], 448: [face(0, 0, 90, 90)]})
    (found,) = Antelope(app).find(astronaut())
    assert app.sizes == [640, 576, 512]
    assert found.box == (0, 0, 10, 10)


def test_the_largest_face_comes_first() -> None:
    app = FakeApp({640: [face(0, 0, 10, 10), face(50, 0, 90, 40), face(20, 0, 40, 20)]})
    assert [one.area for one in Antelope(app).find(astronaut())] == [1600, 400, 100]


def test_the_archive_s_own_folder_is_seen_through(tmp_path: Path) -> None:
    """antelopev2.zip holds a folder antelopev2: unpacked in a folder of that name, the files lie one deeper."""
    write_antelope(tmp_path / "antelopev2" / "antelopev2")
    assert locate(tmp_path / "antelopev2") == tmp_path / "antelopev2" / "antelopev2"
    assert len(open_antelope(tmp_path / "antelopev2").find(marked_astronaut())) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_antelope(tmp_path / "antelopev2")
    (tmp_path / "antelopev2" / RECOGNISER).unlink()
    folder = tmp_path / "antelopev2"
    with pytest.raises(Permanent) as told:
        open_antelope(folder)
    assert str(told.value) == (
        f"{RECOGNISER} of antelopev2 missing: looked in {folder} and {folder / 'antelopev2'}. "
        "`doctorgen models download antelopev2` brings them."
    )


def test_an_empty_place_names_both_files(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=f"{DETECTOR} and {RECOGNISER} of antelopev2 missing"):
        locate(tmp_path)


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    write_antelope(tmp_path / "antelopev2")
    (tmp_path / "antelopev2" / RECOGNISER).write_bytes(b"no model")
    with pytest.raises(Permanent, match=f"{RECOGNISER} is no model that insightface can load"):
        open_antelope(tmp_path / "antelopev2")


def test_a_file_of_another_kind_is_said(tmp_path: Path) -> None:
    """A second detector under the recogniser's name is no antelopev2."""
    folder = tmp_path / "antelopev2"
    write_antelope(folder)
    (folder / RECOGNISER).write_bytes((folder / DETECTOR).read_bytes())
    with pytest.raises(Permanent, match=f"{RECOGNISER} is a model for detection, where one for recognition is wanted"):
        open_antelope(folder)


def test_cuda_that_onnxruntime_was_not_built_for_is_an_error(tmp_path: Path) -> None:
    """The CPU build would take the order and run on the CPU."""
    import onnxruntime

    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime was built for CUDA")
    write_antelope(tmp_path / "antelopev2")
    with pytest.raises(Permanent, match=r"CUDAExecutionProvider and runs with .*CPUExecutionProvider"):
        open_antelope(tmp_path / "antelopev2", device="cuda")


def test_cuda_that_a_session_fell_back_from_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu on a machine without a usable GPU claims CUDA, and each session runs on the CPU."""
    write_antelope(tmp_path / "antelopev2")
    monkeypatch.setattr(insight, "provider_of", lambda _: (CUDA, [CPU]))
    with pytest.raises(Permanent, match=f"was to run with {CUDA} and runs with {CPU}"):
        open_antelope(tmp_path / "antelopev2", device="cuda")


def test_nothing_is_opened_that_is_not_used(tmp_path: Path) -> None:
    """The published pack holds landmarks, too, of 144 MB; and what else lies beside is no other pack's detector."""
    folder = tmp_path / "antelopev2"
    write_antelope(folder)
    for name in ("1k3d68.onnx", "a_detector.onnx"):
        (folder / name).write_bytes(b"no model")
    assert len(open_antelope(folder).find(marked_astronaut())) == 1
