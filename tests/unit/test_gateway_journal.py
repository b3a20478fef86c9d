"""The journal's reader: events to the job store, beats beside them, and what each of them sets going."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shared.broker.port import Outgoing, Subscription
from shared.broker.topology import CONTROL, EVENTS, JOURNAL, queue_name
from shared.contracts.base import now
from shared.contracts.batch import BatchEvent, BatchSummary
from shared.contracts.beat import Beat
from shared.contracts.control import Control
from tests.contract.jobs_samples import DAWN, event, job
from tests.unit.gateway_door import PATIENCE_S, Door, opened

BEAT = Beat(worker="node7.qa.1", stage="qa", at=now(), started_at=DAWN, state="idle")
SUMMARY = BatchSummary(batch_id="autumn", caller="acme", jobs=1, by_state={}, fraction=0.0)
TOLD = BatchEvent(event_id="e", kind="filed", batch_id="autumn", caller="acme", at=now(), summary=SUMMARY)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with opened(tmp_path, ("journal",)) as door:
        yield door


@pytest.fixture
def control(door: Door) -> Iterator[Subscription]:
    with closing(door.broker.listen(CONTROL, ("",))) as subscription:
        yield subscription


def heard(control: Subscription) -> Control:
    delivery = control.receive(PATIENCE_S)
    assert delivery is not None, "no order came"
    return Control.from_json(delivery.body)


def catch_up(door: Door) -> None:
    """Return once the journal has worked off all that was told before."""
    door.broker.publish(Outgoing(EVENTS, "job.x.y", b"nonsense", "last"))
    assert door.dead_letter(JOURNAL).body == "nonsense"


def test_beats_are_kept_and_batches_events_are_not_the_journal_s_concern(door: Door) -> None:
    door.broker.publish(Outgoing(EVENTS, BEAT.routing_key, BEAT.to_json(), "1"))
    door.broker.publish(Outgoing(EVENTS, TOLD.routing_key, TOLD.to_json(), "2"))
    catch_up(door)
    assert door.jobs.workers() == (BEAT,)
    assert door.broker.depth(queue_name(JOURNAL)) == 0


def test_what_was_put_back_is_read_without_its_routing_key(door: Door) -> None:
    """Messages that were swept or held for long come back under their queue's name."""
    door.jobs.add(job("job-1"))
    for body in (BEAT.to_json(), TOLD.to_json(), event("started", "encode").to_json()):
        door.broker.publish(Outgoing("", queue_name(JOURNAL), body, "x"))
    catch_up(door)
    assert door.jobs.workers() == (BEAT,)
    assert door.job("job-1").state == "running"


def test_a_worker_at_a_cancelled_job_is_told_again(door: Door, control: Subscription) -> None:
    """It may have started after the cancellation was told."""
    door.jobs.add(job("job-1"))
    door.tell(event("cancelled"))
    door.tell(event("started", "encode"))
    assert heard(control) == Control(kind="cancel", job_id="job-1")
    catch_up(door)
    assert control.receive(0) is None, "once for each sign of work"


def test_jobs_that_ended_otherwise_are_not_cancelled(door: Door, control: Subscription) -> None:
    door.jobs.add(job("job-1"))
    door.tell(event("done"))
    door.tell(event("finished", "encode"))
    catch_up(door)
    assert control.receive(0) is None


def test_what_a_late_worker_leaves_of_an_erased_subject_is_removed(door: Door, control: Subscription) -> None:
    door.jobs.entomb("doctor-1")
    door.store.put("subjects/doctor-1/result/a.png", b"late", "image/png")
    door.store.put("subjects/doctor-10/result/a.png", b"another's", "image/png")
    door.tell(event("finished", "encode"))
    assert heard(control) == Control(kind="erase", subject="doctor-1")
    catch_up(door)
    assert [key for key in door.store.blobs if key.startswith("subjects/")] == ["subjects/doctor-10/result/a.png"]


def test_an_event_of_a_job_that_nobody_knows_changes_nothing(door: Door, control: Subscription) -> None:
    door.store.put("subjects/doctor-1/result/a.png", b"kept", "image/png")
    door.tell(event("finished", "encode", job_id="unknown"))
    catch_up(door)
    assert "subjects/doctor-1/result/a.png" in door.store.blobs
    assert control.receive(0) is None
