"""`doctorgen generate` in a process of its own: what it prints, and that it leaves nothing but what was asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_bad_input import SKETCH
from tests.photos import coffee, png, scaled

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working folder, a data folder and a folder for temporary files, all empty; and a recipe."""
    for name in ("cwd", "data", "tmp", "own/recipes"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "own" / "recipes" / "sketch.yaml").write_text(SKETCH)
    return tmp_path


def doctorgen(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    settings = {"DATA_DIR": str(place / "data"), "USER_FOLDER": str(place / "own"), "GENERATION__RECIPE": "sketch"}
    return subprocess.run(
        [sys.executable, "-m", "doctor_image_gen.cli", *words],
        cwd=place / "cwd",
        env={
            **os.environ,
            **{f"DOCTORGEN_{name}": value for name, value in settings.items()},
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(place / "tmp"),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_json_is_all_that_is_printed_and_the_picture_all_that_is_left(place: Path, photo: Path) -> None:
    words = ("--scenario", "consultant", "--output", "out/result.png", "--set", "generate.light_wrap=0.2", "--json")
    ended = doctorgen(place, "generate", "--doctor-image", str(photo), *words)
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads(ended.stdout)
    assert (result["status"], result["output_path"]) == ("done", "out/result.png")
    assert result["metadata"]["resolution"] == "512x512"
    assert names(place / "cwd") == ["out", "out/result.png"]
    assert names(place / "tmp") == []


def test_people_see_bars_while_it_runs_and_the_scores_at_the_end(place: Path, photo: Path) -> None:
    words = ("--scenario", "consultant", "--output", "[bold]result.png", "--seed", "7")
    ended = doctorgen(place, "generate", "--doctor-image", str(photo), *words)
    assert ended.returncode == 0
    path, made, likeness, cost, *models = ended.stdout.splitlines()
    assert path == "[bold]result.png", "brackets are no markup"
    assert made == "  Medical Consultation, 512x512, engine portable, seed 7"
    assert likeness.startswith("  likeness 0.")
    assert "verdict passed" in likeness
    assert cost.endswith(" USD")
    assert [line.partition(":")[0] for line in models] == ["  models under Apache-2.0", "  models under CC0-1.0"]
    assert [line.split()[0] for line in ended.stderr.splitlines()] == [
        "identity",
        "generate",
        "qa",
    ], "nothing but the bars: no log line, no library's chatter"


def test_a_photo_that_cannot_be_used_ends_with_one_sentence(place: Path) -> None:
    (place / "cwd" / "cup.png").write_bytes(png(scaled(coffee(), 1.5)))
    words = ("--scenario", "consultant", "--output", "result.png", "--json")
    ended = doctorgen(place, "generate", "--doctor-image", "cup.png", *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "doctorgen: photos[1]: no face was found. "
        "Use a photo in which the face is seen from the front, whole, lit and in focus.\n"
    )
    assert names(place / "cwd") == ["cup.png"]


def test_a_batch_with_an_unknown_scenario_ends_with_one_sentence_before_any_is_made(place: Path, photo: Path) -> None:
    words = ("--batch", "speaker", "nonsense", "--output-dir", "out", "--json")
    ended = doctorgen(place, "generate", "--doctor-image", str(photo), *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("doctorgen: scenario: 'nonsense' is not known. ")
    assert names(place / "cwd") == []


def test_a_finished_job_can_be_looked_up_and_fetched_again(place: Path, photo: Path) -> None:
    words = ("--scenario", "consultant", "--output", "result.png", "--json")
    made = json.loads(doctorgen(place, "generate", "--doctor-image", str(photo), *words).stdout)
    job_id = made["metadata"]["job_id"]
    (listed,) = json.loads(doctorgen(place, "status", "--json").stdout)
    assert (listed["job_id"], listed["state"]) == (job_id, "done")
    fetched = doctorgen(place, "result", job_id, "--output", "again.png")
    assert json.loads(fetched.stdout) == made["metadata"]
    assert (place / "cwd" / "again.png").read_bytes() == (place / "cwd" / "result.png").read_bytes()
    assert doctorgen(place, "watch", job_id).stdout == f"{job_id} is done\n"
