"""Batches: filed as one, fanned out to jobs, followed as one, ended with one event."""

import threading
from collections.abc import Callable
from time import monotonic

from shared.broker.port import Broker, Outgoing
from shared.broker.topology import EVENTS
from shared.contracts.base import now
from shared.contracts.batch import BatchEvent, BatchRequest, BatchSubject, BatchSummary
from shared.contracts.request import ImageRef, JobRequest
from shared.jobs.port import JobStore
from shared.storage.digest import sha256
from shared.worker.events import event_id

BUSY_AT_MOST = 0.02
"""The share of its time that the journal may spend on counting batches."""

SHORTEST_PAUSE_S = 1.0
REMEMBERED = 10_000


def batch_job_id(batch_id: str, subject: str, scenario: str) -> str:
    """The id of the job of one subject in one scenario of a batch: always the same, at most 64 characters.

    The beginnings of batch and scenario are there for people; the digest (80 bits) tells jobs apart.
    """
    digest = sha256(f"{batch_id}/{subject}/{scenario}".encode())[:20]
    return f"{batch_id[:24]}-{scenario[:16]}-{digest}"


def jobs_of(batch: BatchRequest, number: int) -> dict[str, JobRequest]:
    """The requests of the batch's subject of that number (from 0), one a scenario, by job id."""
    subject = batch.subjects[number]
    shared = {
        "batch_id": batch.batch_id,
        "caller": batch.caller,
        "subject": subject.subject,
        "consent": subject.consent,
        "photos": subject.photos,
        "attributes": subject.attributes,
        "photography_style": batch.photography_style,
        "custom_prompt": batch.custom_prompt,
        "recipe": batch.recipe,
        "engine": batch.engine,
        "seed": batch.seed,
        "overrides": batch.overrides,
        "attempts": batch.attempts,
        "max_cost_usd": batch.max_cost_usd,
        "priority": batch.priority,
        "deadline": batch.deadline,
    }
    ids = {batch_job_id(batch.batch_id, subject.subject, scenario): scenario for scenario in batch.scenarios}
    return {
        job_id: JobRequest.model_validate(
            {**shared, "job_id": job_id, "scenario": scenario, "images": _images_of(batch, subject, scenario)}
        )
        for job_id, scenario in ids.items()
    }


def _images_of(batch: BatchRequest, subject: BatchSubject, scenario: str) -> dict[str, ImageRef]:
    """The nearest of each name. What was given for several people must outlive the erasure of any of them."""
    for_several = {**batch.images, **batch.scenario_images.get(scenario, {})}
    return {name: ref.model_copy(update={"shared": True}) for name, ref in for_several.items()} | subject.images


def jobs_in(batch: BatchRequest) -> int:
    """How many jobs a part makes: every subject in every scenario, those named twice counted once."""
    return len({subject.subject for subject in batch.subjects}) * len(set(batch.scenarios))


class Throttle:
    """Says when it is time to tell of a batch again: the more the telling costs, the more seldom. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}

    def is_due(self, name: str) -> bool:
        """Whether it is time."""
        with self._lock:
            return self._due.get(name, 0.0) <= self._clock()

    def told(self, name: str, cost_s: float) -> None:
        """It was told just now, and that took so long."""
        with self._lock:
            self._due.pop(name, None)
            self._due[name] = self._clock() + max(SHORTEST_PAUSE_S, cost_s / BUSY_AT_MOST)
            if len(self._due) > REMEMBERED:
                del self._due[next(iter(self._due))]


class BatchTeller:
    """Publishes the events of batches: `filed` a part, `progress` now and then, `done` once."""

    def __init__(self, broker: Broker, jobs: JobStore) -> None:
        self._broker = broker
        self._jobs = jobs
        self._throttle = Throttle()

    def filed(self, batch: BatchRequest) -> None:
        """All jobs of a part are noted. It is told before it is filed: from then on whoever ends a job may end it all.

        The batch may be over by now, if its jobs were quick or refused.
        """
        summary = self._jobs.batch(batch.batch_id)
        if summary is not None:
            self._broker.publish(_outgoing(summary, "filed", str(batch.part)))
        self._jobs.file_batch_part(batch, jobs_in(batch))
        self._close(batch.batch_id)

    def moved(self, batch_id: str) -> None:
        """A job of the batch has ended."""
        if self._close(batch_id) or not self._throttle.is_due(batch_id):
            return
        began = monotonic()
        summary = self._jobs.batch(batch_id)
        if summary is not None and not summary.closed:
            self._broker.publish(_outgoing(summary, "progress", now().isoformat()))
        self._throttle.told(batch_id, monotonic() - began)

    def _close(self, batch_id: str) -> bool:
        def publish(summary: BatchSummary) -> None:
            self._broker.publish(_outgoing(summary, "done", ""))

        return self._jobs.close_batch(batch_id, publish)


def _outgoing(summary: BatchSummary, kind: str, mark: str) -> Outgoing:
    event = BatchEvent.model_validate(
        {
            "event_id": event_id("batch", summary.batch_id, kind, mark),
            "kind": kind,
            "batch_id": summary.batch_id,
            "caller": summary.caller,
            "at": now(),
            "summary": summary,
        }
    )
    return Outgoing(EVENTS, event.routing_key, event.to_json(), event.event_id)
