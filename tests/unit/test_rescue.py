"""Rescue: a job is lost when every place it could be at was looked into, and never because time has passed."""

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from services.gateway.evidence import Scene, Sightings, Suspicion, current_step, is_lost, suspects
from services.gateway.rescue import Rescue
from shared.broker.embedded import EmbeddedBroker
from shared.broker.port import Outgoing
from shared.broker.topology import EVENTS, queue_name, retry_queue, work_queues
from shared.contracts.base import now
from shared.contracts.beat import Beat, InHand, WorkerState
from shared.contracts.step import StepMessage
from shared.jobs.port import Job, JobStore
from shared.worker.retry import RetryPolicy
from tests.contract.jobs_samples import DAWN, TROUBLE, at, event, first_message, job, record_of
from tests.unit.job_files import open_jobs

HERE = ("qa", "interactive")
PATIENCE_S = 10.0
POLICY = RetryPolicy(ladder_ms=(60_000, 300_000))
NATIVE = RetryPolicy(ladder_ms=(60_000, 300_000), delayed_retry="native")


def beat(
    worker: str, minute: float, *, holds: str | None = None, stage: str = "qa", state: WorkerState = "idle"
) -> Beat:
    held = (InHand(job_id=holds, step="encode", since=DAWN),) if holds else ()
    return Beat(worker=worker, stage=stage, at=at(minute), started_at=DAWN, state=state, in_hand=held)


def scene(*beats: Beat, job: Job | None = None, empty: bool = True, journal: bool = True) -> Scene:
    return Scene((job or LOST,), beats, frozenset({HERE} if empty else ()), journal)


LOST = job("job-1", released_at=DAWN)


def looks(*scenes: Scene) -> list[bool]:
    """After each look: is the job held to be lost?"""
    before: dict[str, Suspicion] = {}
    verdicts = []
    for seen in scenes:
        found = suspects(seen, before)
        verdicts.append("job-1" in found and is_lost(found["job-1"], "job-1" in before))
        before = found
    return verdicts


def test_a_job_is_lost_once_all_workers_of_its_stage_have_beaten_twice_without_it() -> None:
    assert looks(*[scene(beat("a", minute), beat("b", minute)) for minute in range(4)]) == [False, False, True, True]


def test_a_worker_that_has_not_beaten_twice_may_still_have_it() -> None:
    """`b` is slow: one beat may have been on its way before the queues were looked into."""
    minutes = [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]
    assert looks(*[scene(beat("a", first), beat("b", second)) for first, second in minutes]) == [
        False,
        False,
        False,
        False,
        True,
    ]


def test_where_no_worker_is_left_a_second_look_is_enough() -> None:
    assert looks(scene(), scene()) == [False, True]


def test_a_worker_that_goes_away_need_not_beat() -> None:
    assert looks(scene(beat("a", 0)), scene(beat("a", 1)), scene()) == [False, False, True]


def test_workers_of_other_stages_need_not_beat() -> None:
    stuck = beat("far", 0, stage="swap")
    assert looks(*[scene(stuck, beat("a", minute)) for minute in range(3)]) == [False, False, True]


@pytest.mark.parametrize("stage", ["qa", "swap"])
def test_what_a_live_worker_has_in_hand_is_not_lost_whatever_its_stage(stage: str) -> None:
    assert looks(*[scene(beat("a", minute, holds="job-1", stage=stage)) for minute in range(9)]) == [False] * 9


def test_what_may_be_in_a_queue_is_not_lost() -> None:
    assert looks(*[scene(beat("a", minute), empty=False) for minute in range(9)]) == [False] * 9


def test_a_message_in_a_queue_in_between_begins_the_suspicion_anew() -> None:
    seen = [scene(beat("a", minute), empty=minute != 2) for minute in range(6)]
    assert looks(*seen) == [False, False, False, False, False, True]


def test_no_suspicion_arises_while_the_journal_lags() -> None:
    lagging = [scene(beat("a", minute), journal=False) for minute in range(3)]
    assert looks(*lagging, scene(beat("a", 3)), scene(beat("a", 4)), scene(beat("a", 5))) == [False] * 5 + [True]


def test_anything_that_is_told_of_the_job_begins_the_suspicion_anew() -> None:
    """An event with an instant of the past, as a clock that was set back gives, counts as well."""
    running = LOST.model_copy(
        update={"steps": (LOST.steps[0].model_copy(update={"state": "running"}), *LOST.steps[1:])}
    )
    seen = [scene(beat("a", minute), job=LOST if minute < 2 else running) for minute in range(5)]
    assert looks(*seen) == [False, False, False, False, True]


def test_a_job_is_looked_for_where_its_run_has_come_to() -> None:
    """After a replay the route begins in the middle, and steps before it do not count."""
    steps = (LOST.steps[0].model_copy(update={"state": "finished"}), *LOST.steps[1:])
    step = current_step(LOST.model_copy(update={"steps": steps}))
    assert step is not None
    assert step.name == "base"
    replayed = LOST.model_copy(update={"first_message": first_message().model_copy(update={"cursor": 2})})
    step = current_step(replayed)
    assert step is not None
    assert step.name == "score"


def test_a_worker_is_alive_while_its_beats_change_by_our_own_clock() -> None:
    """Its own clock may be hours off."""
    seconds = [0.0]
    sightings = Sightings(30.0, lambda: seconds[0])
    assert len(sightings.alive([beat("a", 600)])) == 1
    seconds[0] = 29.0
    assert len(sightings.alive([beat("a", -600)])) == 1
    seconds[0] = 58.0
    assert len(sightings.alive([beat("a", -600)])) == 1
    seconds[0] = 60.0
    assert sightings.alive([beat("a", -600)]) == ()
    assert len(sightings.alive([beat("a", -599)])) == 1


class Scenery:
    """A real broker and job store with one released job; beats are told by hand."""

    def __init__(self, jobs: JobStore, policy: RetryPolicy = POLICY) -> None:
        self.broker = EmbeddedBroker()
        self.broker.declare(POLICY.topology)
        self.jobs = jobs
        self.seconds = 0.0
        self.rescue = Rescue(self.broker, jobs, policy, 0.01, 30.0, lambda: None, lambda: self.seconds)
        self.minute = 0.0
        jobs.add(job("job-1"))
        jobs.release("interactive", 8, lambda _: None)

    def look(self, *holding: str | None) -> tuple[str, ...]:
        """Every worker beats, then one look."""
        self.minute += 1
        for number, holds in enumerate(holding):
            self.jobs.beat(beat(f"w{number}", self.minute, holds=holds), now())
        return self.rescue.look()

    def messages(self) -> list[StepMessage]:
        subscription = self.broker.subscribe(*work_queues("qa"))
        found = []
        while (delivery := subscription.receive(0)) is not None:
            found.append(StepMessage.from_json(delivery.body))
            delivery.ack()
        subscription.close()
        return found


@pytest.fixture
def scenery(tmp_path: Path) -> Iterator[Scenery]:
    with closing(open_jobs(tmp_path / "jobs.sqlite")) as jobs:
        scenery = Scenery(jobs)
        yield scenery
        scenery.broker.close()


def test_a_lost_job_is_published_again_once(scenery: Scenery) -> None:
    """Its message is then in the queue, and the job under no suspicion."""
    assert [scenery.look(None) for _ in range(5)] == [(), (), ("job-1",), (), ()]
    assert scenery.messages() == [first_message("job-1")]


def test_a_job_that_is_lost_again_is_found_again(scenery: Scenery) -> None:
    for _ in range(2):
        assert [scenery.look(None) for _ in range(3)] == [(), (), ("job-1",)]
        assert len(scenery.messages()) == 1


def test_a_job_that_waits_for_its_next_attempt_is_not_lost(scenery: Scenery) -> None:
    queue = retry_queue("qa", "interactive", 300_000)
    scenery.broker.publish(Outgoing("", queue, first_message("job-1").to_json(), "1"))
    assert [scenery.look(None) for _ in range(5)] == [()] * 5


def test_a_job_that_the_broker_may_hold_back_is_not_lost_before_its_longest_delay(tmp_path: Path) -> None:
    """A broker that delays retries by itself does not count them among those that wait: 60 + 120 + 180 s at most."""
    with closing(open_jobs(tmp_path / "jobs.sqlite")) as jobs:
        scenery = Scenery(jobs, NATIVE)
        jobs.record(event("retrying", "encode", attempt=1, error=TROUBLE, retry_in_s=60.0))
        for scenery.seconds in (0.0, 100.0, 200.0, 359.0):
            assert scenery.look(None) == ()
        scenery.seconds = 360.0
        assert [scenery.look(None) for _ in range(3)] == [(), (), ("job-1",)]
        scenery.broker.close()


def test_a_job_whose_events_wait_for_the_journal_is_not_lost(scenery: Scenery) -> None:
    scenery.broker.publish(Outgoing(EVENTS, "job.job-1.started", b"{}", "1"))
    assert scenery.broker.depth(queue_name("journal")) == 1
    assert [scenery.look(None) for _ in range(5)] == [()] * 5


def test_a_job_that_has_ended_or_was_not_released_is_nobody_s_concern(scenery: Scenery) -> None:
    scenery.jobs.record(event("done"))
    scenery.jobs.add(job("job-2"))
    assert [scenery.look(None) for _ in range(5)] == [()] * 5


def test_a_job_that_moves_between_the_looks_is_not_published_again(scenery: Scenery) -> None:
    for minute in range(4):
        assert scenery.look(None) == ()
        scenery.jobs.record(event("finished", "encode", attempt=minute + 1, record=record_of("encode")))


def test_workers_that_were_silent_for_a_day_are_forgotten(scenery: Scenery) -> None:
    scenery.jobs.beat(beat("old", 0), now() - timedelta(days=2))
    scenery.look()
    assert scenery.jobs.workers() == ()


def test_a_worker_whose_clock_is_days_off_is_not_forgotten(scenery: Scenery) -> None:
    """It may have the job in hand; only what was heard of it, and when by our own clock, counts."""
    for minute in range(-9999, -9990):
        scenery.jobs.beat(beat("lost in time", minute, holds="job-1"), now())
        assert scenery.look() == ()


def test_a_broker_that_has_lost_its_disk_gets_its_queues_back(tmp_path: Path) -> None:
    """And then the jobs that were in them: here no worker is left that might have one."""
    with (
        closing(open_jobs(tmp_path / "jobs.sqlite")) as jobs,
        closing(EmbeddedBroker()) as bare,
    ):
        jobs.add(job("job-1"))
        jobs.release("interactive", 8, lambda _: None)
        rescue = Rescue(bare, jobs, POLICY, 0.01, 30.0, lambda: bare.declare(POLICY.topology))
        thread = threading.Thread(target=rescue.run)
        thread.start()
        delivery = bare.subscribe(*work_queues("qa")).receive(PATIENCE_S)
        rescue.stop()
        thread.join(PATIENCE_S)
        assert delivery is not None
        assert StepMessage.from_json(delivery.body).job_id == "job-1"
