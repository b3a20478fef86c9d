"""The wiring: what is opened, what goes on in threads, and that all of it ends."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from doctor_image_gen.cached_catalogue import CachedCatalogue
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections, Pipeline, Stack
from doctor_image_gen.stages import STAGES
from shared.broker.port import Outgoing
from shared.broker.topology import EVENTS, INTAKE, INTAKE_KEY
from shared.contracts.errors import InvalidInput, Permanent
from shared.contracts.event import Event
from shared.contracts.request import JobRequest, PhotoRef
from shared.storage.settings import StorageSettings
from shared.worker.dispatch import wire
from tests.unit.job_files import put_jobs

PATIENCE_S = 10.0
SCENARIO = """
name: Dental Surgery
focus: ease
prompt: "{subject} in a bright dental surgery, {photography_keywords}"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    put_jobs(tmp_path / "data" / "jobs.sqlite")
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def stack(settings: Settings) -> Iterator[Stack]:
    with Stack(settings) as stack:
        yield stack


def request(job_id: str) -> JobRequest:
    photo = PhotoRef(key="inbox/nothing.png", sha256="0" * 64)
    return JobRequest(job_id=job_id, subject="somebody", photos=(photo,), scenario="consultant")


def test_the_embedded_pipeline_answers_and_leaves_only_its_data_folder(tmp_path: Path) -> None:
    """And where there was nothing it makes all that it needs, its job store's tables too."""
    settings = Settings(data_dir=tmp_path / "data")
    with Stack(settings) as stack, closing(stack.connections.broker.listen(EVENTS, ("job.#",))) as events:
        stack.connections.broker.publish(Outgoing(INTAKE, INTAKE_KEY, wire(request("job-1")), "job-1"))
        delivery = events.receive(PATIENCE_S)
        assert delivery is not None
        event = Event.from_json(delivery.body)
        assert (event.job_id, event.kind) == ("job-1", "refused")
        assert event.error is not None
        assert event.error.message == "there is nothing at inbox/nothing.png"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert {path.name for path in (tmp_path / "data").iterdir()} >= {"jobs.sqlite", "store"}


def test_the_intake_lives_on_after_a_malformed_request(stack: Stack) -> None:
    broker = stack.connections.broker
    with closing(broker.listen(EVENTS, ("job.#",))) as events:
        broker.publish(Outgoing(INTAKE, INTAKE_KEY, b'{"scenario": "consultant"}', "bad"))
        broker.publish(Outgoing(INTAKE, INTAKE_KEY, wire(request("job-2")), "job-2"))
        delivery = events.receive(PATIENCE_S)
    assert delivery is not None
    assert Event.from_json(delivery.body).job_id == "job-2"


def test_closing_ends_every_thread(settings: Settings) -> None:
    before = set(threading.enumerate())
    stack = Stack(settings)
    started = set(threading.enumerate()) - before
    assert len(started) >= 4 + len(STAGES), "intake, releaser, journal, undertaker, and one worker a stage"
    stack.close()
    assert [thread for thread in started if thread.is_alive()] == []


def test_a_stack_that_was_closed_can_be_opened_again_on_the_same_data(settings: Settings) -> None:
    for job_id in ("job-1", "job-2"):
        with Stack(settings) as stack, closing(stack.connections.broker.listen(EVENTS, ("job.#",))) as events:
            stack.connections.broker.publish(Outgoing(INTAKE, INTAKE_KEY, wire(request(job_id)), job_id))
            assert events.receive(PATIENCE_S) is not None
    with closing(Connections.open(settings)) as connections:
        assert {job.job_id for job in connections.jobs.recent()} == {"job-1", "job-2"}


def test_an_open_stack_is_well(stack: Stack) -> None:
    stack.check()


def test_whoever_waits_is_told_when_a_part_of_the_pipeline_has_broken(settings: Settings) -> None:
    pipeline = Pipeline(settings)

    class Breaking:
        def run(self) -> None:
            raise ZeroDivisionError("on purpose")

        def stop(self) -> None:
            pass

    pipeline.check()
    pipeline.run(Breaking())
    with pytest.raises(Permanent, match="the embedded pipeline broke: on purpose"):
        pipeline.check()
    pipeline.close()


def test_all_who_open_the_same_in_one_process_share_one_pipeline(settings: Settings) -> None:
    """It ends with the last of them."""
    first, second = Stack(settings), Stack(settings)
    assert first.connections is second.connections
    first.close()
    first.close()
    with closing(second.connections.broker.listen(EVENTS, ("job.#",))) as events:
        second.connections.broker.publish(Outgoing(INTAKE, INTAKE_KEY, wire(request("job-1")), "job-1"))
        assert events.receive(PATIENCE_S) is not None
    before = set(threading.enumerate())
    second.close()
    assert before - set(threading.enumerate()), "its threads have ended"
    with closing(Stack(settings)) as again:
        assert again.connections is not first.connections


def test_other_settings_for_the_same_folder_are_refused_while_a_pipeline_runs_there(settings: Settings) -> None:
    with closing(Stack(settings)):
        other = settings.model_copy(update={"worker_usd_per_hour": 1.0})
        with pytest.raises(InvalidInput, match="this process runs the pipeline") as refused:
            Stack(other)
        assert refused.value.field == "data_dir"
    Stack(other).close()


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    storage = StorageSettings(url=f"file://{tmp_path}/store")
    jobs_url = SecretStr(f"sqlite:///{tmp_path}/jobs.sqlite")
    with pytest.raises(InvalidInput, match="Not a directory") as refused:
        Stack(Settings(data_dir=tmp_path / "file" / "data", storage=storage, jobs_url=jobs_url))
    assert refused.value.field == "data_dir"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"broker_url": SecretStr("http://user:hidden@host")}, "broker_url"),
        ({"jobs_url": SecretStr("mysql://user:hidden@host/db")}, "jobs_url"),
        ({"storage": StorageSettings(url="s3://bucket")}, "storage.access_key"),
    ],
)
def test_what_cannot_be_opened_is_named_and_no_secret_is_told(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    given = {"data_dir": tmp_path, "storage": StorageSettings(url=f"file://{tmp_path}/store"), **changes}
    with pytest.raises(InvalidInput) as refused:
        Connections.open(Settings(**given))
    assert refused.value.field == field
    assert "hidden" not in str(refused.value)


def test_nothing_stays_open_when_one_of_the_connections_fails(tmp_path: Path) -> None:
    """An SQLite file in use would have its write-ahead log beside it."""

    class Refused(Connections):
        def declare(self, settings: Settings) -> None:
            raise InvalidInput("broker_url", f"{settings.broker_url} is refused", "Name another.")

    storage = StorageSettings(url=f"file://{tmp_path}/store")
    with pytest.raises(InvalidInput, match="is refused"):
        Refused.open(Settings(data_dir=tmp_path / "data", storage=storage))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["jobs.sqlite"]


def test_a_user_s_new_scenario_counts_without_a_restart(tmp_path: Path) -> None:
    catalogue = CachedCatalogue(tmp_path)
    assert "dental_surgery" not in catalogue().scenarios
    assert catalogue() is catalogue(), "nothing is read again while nothing changes"
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "dental_surgery.yaml").write_text(SCENARIO)
    assert catalogue().scenarios["dental_surgery"].name == "Dental Surgery"
    (tmp_path / "scenarios" / "dental_surgery.yaml").unlink()
    assert "dental_surgery" not in catalogue().scenarios
