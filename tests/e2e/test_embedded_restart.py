"""kill -9 of the embedded pipeline: the next process on its data folder takes its jobs up where they were."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from doctor_image_gen import DoctorImageGenerator
from doctor_image_gen.client import Client
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections, Stack
from shared.contracts.errors import InvalidInput
from shared.contracts.event import Event
from shared.storage.artifacts import fetch
from tests.e2e.deployment import LIMIT_S, ROOT
from tests.e2e.test_bad_input import SKETCH

SCENARIOS = ("research", "speaker")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "own" / "recipes").mkdir(parents=True)
    (home / "own" / "recipes" / "sketch.yaml").write_text(SKETCH)
    return home


@pytest.fixture(scope="module")
def undisturbed(home: Path, photo: Path) -> dict[str, bytes]:
    """The pictures by scenario, as a process makes them that nobody kills."""
    settings = Settings(data_dir=home / "undisturbed", user_folder=home / "own")
    with DoctorImageGenerator(settings) as generator:
        made = generator.batch_generate(photo, SCENARIOS, settings={"recipe": "sketch"})
    return {str(one["metadata"]["scenario"]): Path(str(one["output_path"])).read_bytes() for one in made}


@contextmanager
def running(settings: Settings, photo: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Iterator[Event]]]:
    """A process that makes the pictures, and its events as it prints them. Killed in the end if it has not ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.embedded", settings.data_dir, str(settings.user_folder), photo, *SCENARIOS],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield process, (Event.from_json(line) for line in process.stdout)
    finally:
        process.kill()
        process.wait(LIMIT_S)
        process.stdout.close()


@pytest.mark.parametrize("step", ["generate", "qa"])
def test_jobs_go_on_at_their_last_finished_step(
    home: Path, photo: Path, undisturbed: dict[str, bytes], step: str
) -> None:
    """Both jobs share the encoded identity, which no later process makes again; the pictures come out the same."""
    settings = Settings(data_dir=home / f"killed-at-{step}", user_folder=home / "own")
    with running(settings, photo) as (process, events):
        accepted = {event.job_id for event in until_started(events, step) if event.kind == "accepted"}
        process.send_signal(signal.SIGKILL)
        assert process.wait(LIMIT_S) == -signal.SIGKILL
    assert accepted

    with Stack(settings) as stack:
        client = Client(stack.connections, settings.photo_limits, stack.check)
        jobs = [client.follow(job_id, lambda _: None, LIMIT_S) for job_id in sorted(accepted)]
        journal = [event for job in jobs for event in stack.connections.jobs.events(job.job_id)]
        pictures = {
            job.request.scenario: fetch(stack.connections.store, job.result.image)
            for job in jobs
            if job.request and job.result
        }
    assert [job.state for job in jobs] == ["done"] * len(accepted)
    assert pictures == {scenario: undisturbed[scenario] for scenario in pictures}
    again = {event.step for event in journal if event.kind == "started" and event.worker.endswith(f".{os.getpid()}")}
    assert "identity" not in again
    for job in jobs:
        assert [event.kind for event in journal if event.job_id == job.job_id].count("done") == 1


def until_started(events: Iterator[Event], step: str) -> Iterator[Event]:
    for event in events:
        yield event
        if (event.step, event.kind) == (step, "started"):
            return
    raise AssertionError(f"the process ended before {step} was started")


def test_a_second_process_is_told_who_has_the_data_folder_and_may_look_at_it(home: Path, photo: Path) -> None:
    settings = Settings(data_dir=home / "shared", user_folder=home / "own")
    with running(settings, photo) as (process, events):
        assert next(events).kind == "accepted"
        with pytest.raises(InvalidInput) as refused:
            Stack(settings)
        assert refused.value.field == "data_dir"
        assert f"process {process.pid} runs the pipeline on '{settings.data_dir}'" in refused.value.found
        assert "DOCTORGEN_DATA_DIR" in refused.value.mend
        with closing(Connections.open(settings)) as connections:
            assert connections.jobs.recent()
    Stack(settings).close()


def test_whoever_interrupts_it_cancels_its_jobs(home: Path, photo: Path) -> None:
    """Nothing is left for the next process to finish."""
    settings = Settings(data_dir=home / "interrupted", user_folder=home / "own")
    with running(settings, photo) as (process, events):
        assert list(until_started(events, "identity"))
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == -signal.SIGINT
    with closing(Connections.open(settings)) as connections:
        assert [job.state for job in connections.jobs.recent()] == ["cancelled"] * len(SCENARIOS)
