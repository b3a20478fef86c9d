"""The boundary of the same person, found from people's photos."""

from pathlib import Path

import numpy as np
import pytest

from services.qa import calibrate
from services.qa.calibrate import boundary, cosines, described, report
from services.qa.flux_observe import Eyes
from shared.vision.networks import tiny_yunet
from shared.vision.networks.tiny_faces import write_recogniser
from tests.engines.real_faces import RealFinder, describer
from tests.photos import astronaut, coffee, hopper, lit, mirrored, png


@pytest.fixture
def people(tmp_path: Path) -> Path:
    folder = tmp_path / "people"
    for name, photo in (("collins", astronaut()), ("hopper", hopper())):
        (folder / name).mkdir(parents=True)
        for number, one in enumerate((photo, mirrored(photo), lit(photo, 0.8))):
            (folder / name / f"{number}.png").write_bytes(png(one))
    return folder


def test_the_boundary_lies_between_one_person_and_two(people: Path) -> None:
    (people / "hopper" / "cup.png").write_bytes(png(coffee()))
    (people / "hopper" / "note.txt").write_bytes(b"no picture")
    found, without = described(people, Eyes(RealFinder(), describer(), "dlib", None))
    same, different = cosines(found)
    assert (same.size, different.size) == (6, 9)
    assert different.max() < boundary(same, different) < same.min()
    told = report(found, without)
    assert "6 photos of 2 people" in told
    assert "cup.png: no face was found" in told
    assert "note.txt: no face was found" in told
    assert ": 0 pairs of one person are below it, 0 of different people are not." in told


def test_where_they_overlap_as_few_as_can_be_are_wrong() -> None:
    same, different = np.array([0.2, 0.5, 0.6, 0.7]), np.array([0.0, 0.1, 0.3, 0.1])
    level = boundary(same, different)
    assert 0.3 < level < 0.5
    assert boundary(np.array([0.8]), np.array([0.2])) == pytest.approx(0.5)
    assert boundary(np.array([0.5]), np.array([0.5])) == 0.5


def test_one_person_alone_tells_no_boundary() -> None:
    assert "Two people at least" in report({"one": [np.ones(1, np.float32)] * 2}, [])


def test_the_command_uses_the_models_folder(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    monkeypatch.setenv("DOCTORGEN_MODELS_DIR", str(models))
    monkeypatch.setenv("DOCTORGEN_DEVICE", "cpu")
    tiny_yunet.write(models / "finder" / "finder.onnx")
    (models / "describer").mkdir()
    write_recogniser(models / "describer" / "describer.onnx")
    asked = [str(people), "--detector", "finder", "--recogniser", "describer"]
    assert calibrate.main(asked) == 0
    assert "qa.same_person_cosine=" in capsys.readouterr().out
    assert calibrate.main([*asked[:-1], "nobody"]) == 1
    assert "nobody" in capsys.readouterr().err
    assert calibrate.main([*asked[:-1], "buffalo_l"]) == 1
    assert "name auraface" in capsys.readouterr().err
