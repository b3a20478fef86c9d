"""Finds jobs whose message is nowhere and publishes it again. Manifests let it skip what is done."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from time import monotonic

from services.gateway.evidence import (
    HoldBacks,
    Place,
    Scene,
    Sightings,
    Suspicion,
    is_lost,
    mark_of,
    place_of,
    suspects,
)
from shared.broker.holding import held_ms, holds_for
from shared.broker.port import Broker
from shared.broker.topology import JOURNAL, queue_name, retry_queue
from shared.contracts.base import now
from shared.contracts.errors import DoctorGenError
from shared.jobs.port import Job, JobStore
from shared.worker.dispatch import step_outgoing
from shared.worker.retry import RetryPolicy

log = logging.getLogger(__name__)

FORGOTTEN_AFTER = timedelta(days=1)
"""Unheard for this long, by the clock of whoever keeps the journal."""


def publish_again(broker: Broker, lost: Iterable[Job]) -> int:
    """Publish the first message of each job's newest run once more; of how many. Harmless where none is lost."""
    messages = [job.first_message for job in lost if job.first_message is not None]
    for message in messages:
        broker.publish(step_outgoing(message))
    return len(messages)


class Rescue:
    """Looks around every `period_s` in the thread that calls `run`, until `stop`.

    `declare` makes the queues exist; it is called when they cannot be looked into, for a broker that has lost its disk
    knows of none.
    """

    def __init__(
        self,
        broker: Broker,
        jobs: JobStore,
        policy: RetryPolicy,
        period_s: float,
        silent_after_s: float,
        declare: Callable[[], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._broker = broker
        self._jobs = jobs
        self._policy = policy
        self._period_s = period_s
        self._declare = declare
        self._sightings = Sightings(silent_after_s, clock)
        self._hold_backs = HoldBacks(_longest_hold_s(policy), clock)
        self._suspicions: Mapping[str, Suspicion] = {}
        self._stopping = threading.Event()

    def run(self) -> None:
        """Look around until `stop`."""
        while not self._stopping.wait(self._period_s):
            try:
                self.look()
            except DoctorGenError as error:
                log.warning("lost jobs cannot be looked for now: %s", error)
                self._make_queues_exist()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def look(self) -> tuple[str, ...]:
        """Look around once; the ids of the jobs whose message was published again.

        Raises:
            Transient: broker or job store are away; nothing that was known before is forgotten.
        """
        self._jobs.forget_workers(now() - FORGOTTEN_AFTER)
        before, found = self._suspicions, suspects(self._seen(), self._suspicions)
        certain = {job_id for job_id, why in found.items() if is_lost(why, job_id in before)}
        self._suspicions = {job_id: why for job_id, why in found.items() if job_id not in certain}
        standing = [job for job_id in certain if (job := self._jobs.get(job_id)) is not None]
        lost = [job for job in standing if mark_of(job) == found[job.job_id].mark]
        for job in lost:
            log.warning("job %s was lost at %s: its message is published again", job.job_id, place_of(job))
        publish_again(self._broker, lost)
        return tuple(job.job_id for job in lost)

    def _make_queues_exist(self) -> None:
        try:
            self._declare()
        except DoctorGenError as error:
            log.warning("the queues cannot be declared now: %s", error)

    def _seen(self) -> Scene:
        """The order is that of the evidence: who has what in hand is asked before the queues are looked into."""
        released = self._jobs.released()
        held_back = self._hold_backs.of(released)
        jobs = tuple(job for job in released if job.job_id not in held_back)
        beats = self._sightings.alive(self._jobs.workers())
        places = {place for job in jobs if (place := place_of(job)) is not None}
        empty = frozenset(place for place in places if self._is_empty(place))
        return Scene(jobs, beats, empty, self._broker.depth(queue_name(JOURNAL)) == 0)

    def _is_empty(self, place: Place) -> bool:
        stage, lane = place
        rungs_ms = () if self._policy.native_ms else self._policy.ladder_ms
        queues = (queue_name(stage, lane), *(retry_queue(stage, lane, delay) for delay in rungs_ms))
        return all(self._broker.depth(queue) == 0 for queue in queues)


def _longest_hold_s(policy: RetryPolicy) -> float:
    """How long the broker itself holds a message back at most; 0 where retry queues do."""
    if policy.native_ms is None:
        return 0.0
    return held_ms(holds_for(policy.ladder_ms[-1], policy.native_ms), policy.native_ms) / 1000
