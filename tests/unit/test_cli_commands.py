"""The commands that make no picture, typed as a user types them: what they print where, and their exit status."""

import json
import os
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from doctor_image_gen.cli import main
from doctor_image_gen.cli.progress import Progress
from doctor_image_gen.recipes import find_recipe
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from doctor_image_gen.stages import OPERATIONS
from shared.contracts.base import now
from shared.contracts.event import Event, EventKind
from shared.contracts.request import JobRequest, PhotoRef
from shared.contracts.step import ErrorAccount
from shared.jobs.port import Job, JobState
from tests.unit.typed import Said, Type

ROOT = Path(__file__).parents[2]
SECRET = "correct-horse-battery"
LONG_ID = "job-" + "0123456789abcdef" * 2


def in_a_process(*words: str, **environment: str) -> Said:
    """The same in a process of its own, for commands that set up logging."""
    ended = subprocess.run(
        [sys.executable, "-m", "doctor_image_gen.cli", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return Said(ended.returncode, ended.stdout, ended.stderr)


def put_job(folder: Path, job_id: str, state: JobState) -> None:
    """A job into the journal of the embedded pipeline, as an earlier process has left it."""
    photo = PhotoRef(key="inbox/nothing.png", sha256="0" * 64)
    request = JobRequest(job_id=job_id, subject="dr-x", photos=(photo,), scenario="consultant")
    error = ErrorAccount(kind="InvalidInput", type="InvalidInput", field="photos[1]", message="no face", hint="Mend.")
    at = now()
    job = Job(
        job_id=job_id,
        caller="tester",
        subject="dr-x",
        state=state,
        request=request,
        first_message=None,
        steps=(),
        error=error if state == "refused" else None,
        created_at=at,
        updated_at=at,
    )
    with closing(Connections.open(Settings(data_dir=folder / "data"))) as connections:
        connections.jobs.add(job)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate"], "--doctor-image: no photo is named. Name one to five photos of one person."),
        (
            ["generate", "--doctor-image", "me.png"],
            "--scenario: exactly one of --scenario and --batch is needed. Name one scenario, or several after --batch.",
        ),
        (
            ["generate", "--doctor-image", "me.png", "--scenario", "a", "--batch", "b"],
            "--scenario: exactly one of --scenario and --batch is needed. Name one scenario, or several after --batch.",
        ),
        (
            ["generate", "--doctor-image", "me.png", "--batch", "b", "--output", "x.png"],
            "--output: a batch makes several pictures. Name a folder with --output-dir.",
        ),
        (
            ["generate", "--doctor-image", "me.png", "--scenario", "a", "--output-dir", "x"],
            "--output-dir: it is for the pictures of --batch. Name the picture with --output.",
        ),
        (
            ["generate", "--doctor-image", "me.png", "--batch", "a", "a"],
            "scenarios: the list names a scenario twice. Name each wanted scenario once.",
        ),
        (
            ["generate", "--doctor-image", "me.png", "--scenario", "consultant", "--json"],
            "photos[1]: there is no file 'me.png'. Check the path for typing errors.",
        ),
        (
            ["generate", "--doctor-image", "me.png", "--scenario", "consultant", "--set", "sead=1"],
            (
                "--set sead: there is no such field. Did you mean seed? "
                "A step's parameter is written with its step, as refine.grain is."
            ),
        ),
        (["status", "nope"], "job_id: there is no job 'nope'. `doctorgen status` lists the newest jobs."),
        (["result", "nope"], "job_id: there is no job 'nope'. `doctorgen status` lists the newest jobs."),
        (["watch", "nope"], "job_id: there is no job 'nope'. `doctorgen status` lists the newest jobs."),
        (["cancel", "nope"], "job_id: there is no job 'nope'. `doctorgen status` lists the newest jobs."),
        (["status", "--limit", "0"], "limit: 0 jobs were asked for. Ask for at least one."),
        (
            ["submit", "--doctor-image", "me.png", "--scenario", "consultant"],
            (
                "broker_url: the embedded pipeline ends with its process, so nobody would work the job off. "
                "Use `doctorgen generate`, or set DOCTORGEN_BROKER_URL=amqp://… and run workers."
            ),
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence_on_standard_error(type_in: Type, words: list[str], message: str) -> None:
    assert type_in(*words) == Said(2, "", f"doctorgen: {message}\n")
    assert list(Path().iterdir()) == [], "nothing is left where the user is"


@pytest.mark.parametrize("words", [("gateway",), ("worker", "swap")])
def test_a_process_alone_with_the_embedded_broker_refuses_to_run(words: tuple[str, ...]) -> None:
    said = in_a_process(*words, DOCTORGEN_BROKER_URL="memory://")
    assert (said.status, said.out) == (2, "")
    assert "broker_url: memory:// lives within one process" in said.err
    assert "Set DOCTORGEN_BROKER_URL=amqp://…" in said.err
    assert "Traceback" not in said.err


def test_scenarios_are_listed_for_people(type_in: Type) -> None:
    said = type_in("scenarios")
    assert (said.status, said.err) == (0, "")
    assert "consultant" in said.out
    assert "Medical Consultation" in said.out
    assert "cinematic" in said.out
    assert type_in("generate", "--list-scenarios") == said


def test_scenarios_are_listed_for_machines(type_in: Type) -> None:
    said = type_in("scenarios", "--json")
    assert (said.status, said.err) == (0, "")
    listed = json.loads(said.out)
    assert len(listed["scenarios"]) >= 12
    assert listed["scenarios"]["consultant"] == {"title": "Medical Consultation", "focus": "warmth, interaction"}
    assert len(listed["styles"]) >= 8
    assert type_in("generate", "--list-scenarios", "--json") == said


def test_recipes_are_listed(type_in: Type) -> None:
    said = type_in("recipes")
    assert "portrait 2: The seven-stage portrait" in said.out
    assert "swap.hands → swap.face → swap.face_detail" in said.out
    listed = type_in("recipes", "--json")
    assert (listed.status, listed.err) == (0, "")
    assert [step["name"] for step in json.loads(listed.out)["portrait"]["steps"]][-1] == "qa"


def test_a_user_s_folder_shows_in_the_lists(type_in: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own" / "scenarios").mkdir(parents=True)
    scenario = "name: Rooftop [bold]\nfocus: ease\nprompt: '{subject} on a roof, {photography_keywords}'\n"
    (tmp_path / "own" / "scenarios" / "rooftop.yaml").write_text(scenario)
    monkeypatch.setenv("DOCTORGEN_USER_FOLDER", str(tmp_path / "own"))
    said = type_in("scenarios")
    assert "rooftop" in said.out
    assert "Rooftop [bold]" in said.out, "brackets are no markup"


def test_a_broken_user_s_file_is_named(type_in: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own" / "recipes").mkdir(parents=True)
    (tmp_path / "own" / "recipes" / "mine.yaml").write_text("- 1")
    monkeypatch.setenv("DOCTORGEN_USER_FOLDER", str(tmp_path / "own"))
    said = type_in("recipes")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("doctorgen: recipes/mine.yaml: Recipe: Input should be an object")


def test_a_new_user_s_status_is_empty(type_in: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCTORGEN_DATA_DIR", str(tmp_path / "not" / "yet"))
    said = type_in("status", "--json")
    assert (said.status, json.loads(said.out), said.err) == (0, [], "")


def test_status_never_cuts_an_id_short(type_in: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    put_job(tmp_path, LONG_ID, "running")
    said = type_in("status")
    assert LONG_ID in said.out
    assert "running" in said.out


def test_status_of_a_refused_job_says_why(type_in: Type, tmp_path: Path) -> None:
    put_job(tmp_path, "mine", "refused")
    assert "photos[1]: no face. Mend." in type_in("status", "mine").out
    (listed,) = json.loads(type_in("status", "mine", "--json").out)
    assert (listed["state"], listed["error"]["field"]) == ("refused", "photos[1]")
    assert "request" not in listed, "photos' keys and the subject's attributes are nobody's business here"


def test_result_of_a_job_without_a_picture_says_why(type_in: Type, tmp_path: Path) -> None:
    put_job(tmp_path, "bad", "refused")
    put_job(tmp_path, "open", "running")
    assert type_in("result", "bad") == Said(2, "", "doctorgen: photos[1]: no face. Mend.\n")
    assert type_in("result", "open").err == (
        "doctorgen: job_id: job 'open' is still running. `doctorgen watch` waits for its end.\n"
    )


@pytest.mark.parametrize("command", ["watch", "cancel"])
def test_nobody_waits_for_a_job_that_ran_in_another_process(type_in: Type, tmp_path: Path, command: str) -> None:
    put_job(tmp_path, "open", "running")
    said = type_in(command, "open")
    assert (said.status, said.out) == (2, "")
    assert "job 'open' is running in the process that was asked for it, out of reach from here" in said.err


def test_watching_a_job_that_has_ended_tells_its_end(type_in: Type, tmp_path: Path) -> None:
    put_job(tmp_path, "bad", "refused")
    assert type_in("watch", "bad") == Said(1, "bad is refused\n", "")


def test_a_job_that_has_ended_cannot_be_cancelled(type_in: Type, tmp_path: Path) -> None:
    put_job(tmp_path, "bad", "refused")
    assert type_in("cancel", "bad").err == (
        "doctorgen: job_id: job 'bad' is refused already. There is nothing to cancel.\n"
    )


def test_check_finds_everything_well(type_in: Type) -> None:
    said = type_in("check")
    lines = said.out.splitlines()
    assert (said.status, said.err) == (0, "")
    assert [line for line in lines if not line.startswith("ok    ")] == []
    assert [line.split(":")[0].removeprefix("ok    ") for line in lines[:5]] == [
        "broker",
        "storage",
        "journal",
        "recipes",
        "scenarios",
    ]
    assert "ok    identity.encode, portable: face_detection_short_range.tflite" in said.out
    assert "ok    upscale.image, portable: needs no weights" in said.out
    assert "flux" not in said.out, "a deployment needs the libraries and weights of the engine it uses alone"


def test_check_knows_which_engines_there_are(type_in: Type) -> None:
    said = type_in("check", "--engine", "fluks")
    assert (said.status, said.out) == (2, "")
    assert "--engine: there is no engine 'fluks'. Did you mean flux?" in said.err


def test_check_names_what_fails_goes_on_and_shows_no_secret(
    type_in: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own" / "recipes").mkdir(parents=True)
    (tmp_path / "own" / "recipes" / "mine.yaml").write_text("a: [")
    monkeypatch.setenv("DOCTORGEN_USER_FOLDER", str(tmp_path / "own"))
    monkeypatch.setenv("DOCTORGEN_BROKER_URL", f"http://user:{SECRET}@host")
    monkeypatch.setenv("DOCTORGEN_STORAGE__URL", "s3://bucket?endpoint=localhost:1&secure=false")
    monkeypatch.setenv("DOCTORGEN_STORAGE__ACCESS_KEY", SECRET)
    monkeypatch.setenv("DOCTORGEN_STORAGE__RETRIES", "0")
    monkeypatch.setenv("DOCTORGEN_JOBS_URL", f"mysql://user:{SECRET}@host/db")
    one = "upscale.image"  # that all of them are built, the check that finds everything well shows
    monkeypatch.setattr("doctor_image_gen.cli.check.OPERATIONS", {one: OPERATIONS[one]})
    said = type_in("check")
    assert said.status == 1
    failing = [line for line in said.out.splitlines() if line.startswith("fails ")]
    assert [line.split(":")[0] for line in failing] == [
        f"fails {part}" for part in ("broker", "storage", "journal", "recipes")
    ]
    assert "broker_url: the scheme is 'http'" in said.out
    assert "storage.secret_key: it is not set" in said.out
    assert "jobs_url: 'mysql' is no database" in said.out
    assert "recipes/mine.yaml: it cannot be read as YAML" in said.out
    assert "ok    upscale.image, portable" in said.out, "the rest is looked at too"
    assert SECRET not in said.out + said.err


def test_a_slip_in_the_settings_ends_any_command(type_in: Type) -> None:
    Path("doctorgen.yaml").write_text("brokr_url: x")
    for words in (["check"], ["scenarios"], ["status"], ["generate", "--doctor-image", "a", "--scenario", "b"]):
        said = type_in(*words)
        assert (said.status, said.out) == (2, "")
        assert said.err.startswith("doctorgen: settings.brokr_url: there is no such field. Did you mean broker_url")


def test_a_reader_that_goes_away_early_is_no_error(tmp_path: Path) -> None:
    """`doctorgen recipes --json | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "DOCTORGEN_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "doctor_image_gen.cli", "recipes", "--json"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


def event(kind: EventKind, step: str | None = None, stage: str | None = None, fraction: float | None = None) -> Event:
    return Event(
        event_id="e",
        kind=kind,
        job_id="job-1",
        caller="tester",
        at=now(),
        worker="w",
        step=step,
        stage=stage,
        fraction=fraction,
    )


def test_progress_is_shown_stage_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(find_recipe(None, "portrait"), quiet=False) as progress:
        progress.tell(event("accepted"))
        progress.tell(event("started", "hands", "swap"))
        progress.tell(event("finished", "hands", "swap"))
        progress.tell(event("progress", "face", "swap", 0.5))
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = [line for line in shown.err.splitlines() if "swap" in line]
    assert "1.5/3 steps" in line


@pytest.mark.parametrize("quiet", [False, True])
def test_why_a_step_is_tried_again_is_told_while_it_is(capsys: pytest.CaptureFixture[str], *, quiet: bool) -> None:
    """A full disk can be mended meanwhile, by whoever knows of it; also where no bars are drawn.

    Once, though it is told again where the step is delivered again.
    """
    error = ErrorAccount(kind="ResourceExhausted", type="ResourceExhausted", message="[disk] full", hint="Free some.")
    with Progress(find_recipe(None, "portrait"), quiet=quiet) as progress:
        told = event("retrying", "upscale", "upscale").model_copy(update={"retry_in_s": 15.0, "error": error})
        progress.tell(told)
        progress.tell(told)
        progress.tell(told.model_copy(update={"event_id": "of the second try"}))
        assert capsys.readouterr().err.count("upscale is tried again: [disk] full\n") == 2


def test_a_refusal_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(find_recipe(None, "portrait"), quiet=False) as progress:
        progress.tell(event("refused"))
    assert capsys.readouterr() == ("", "")


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(find_recipe(None, "portrait"), quiet=True) as progress:
        progress.tell(event("finished", "hands", "swap"))
    assert capsys.readouterr() == ("", "")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"doctorgen {version('doctor-image-gen')}\n"
