"""Keeps the journal: every event into the job store, every worker's beat beside it."""

import logging

from services.gateway.answers import NO_JOB_HEADER
from services.gateway.batches import BatchTeller
from services.gateway.bell import Bell
from services.gateway.consumer import Consumer
from services.gateway.tombs import Tombs
from shared.broker.port import Broker, Delivery, Outgoing
from shared.broker.topology import CONTROL, JOURNAL, queue_name
from shared.contracts.base import Contract, now
from shared.contracts.batch import BatchEvent
from shared.contracts.beat import Beat
from shared.contracts.control import Control
from shared.contracts.errors import InvalidInput
from shared.contracts.event import TERMINAL, Event
from shared.jobs.port import Job, JobStore
from shared.worker.dispatch import unreadable, wire

log = logging.getLogger(__name__)

BY_KEY: dict[str, type[Contract]] = {"job": Event, "worker": Beat, "batch": BatchEvent}
WORKS_ON = frozenset({"started", "retrying", "finished"})


def read(delivery: Delivery) -> Contract:
    """What came to the journal: an Event, a Beat or a BatchEvent.

    The routing key's first word says which. A message that was put back has lost it, and is read as what it is.

    Raises:
        InvalidInput: it is none of them.
    """
    named = BY_KEY.get(delivery.routing_key.split(".")[0])
    if named is not None:
        return named.from_json(delivery.body)
    for kind in (Beat, BatchEvent):
        try:
            return kind.from_json(delivery.body)
        except InvalidInput:
            continue
    return Event.from_json(delivery.body)


class Journal:
    """Works off the journal queue in the thread that calls `run`, until `stop`."""

    def __init__(
        self, broker: Broker, jobs: JobStore, batches: BatchTeller, tombs: Tombs, bell: Bell, worker: str
    ) -> None:
        self._broker = broker
        self._jobs = jobs
        self._batches = batches
        self._tombs = tombs
        self._bell = bell
        self._worker = worker
        self._consumer = Consumer(broker, (queue_name(JOURNAL),), self._work)

    def run(self) -> None:
        """Consume until `stop`."""
        self._consumer.run()

    def stop(self) -> None:
        """Take no further event; `run` returns after the current one."""
        self._consumer.stop()

    def _work(self, delivery: Delivery) -> None:
        try:
            document = read(delivery)
        except InvalidInput as error:
            self._broker.publish(unreadable(JOURNAL, delivery, error, self._worker).first)
            return
        match document:
            case Beat():
                self._jobs.beat(document, now())
            case Event() if NO_JOB_HEADER not in delivery.headers:
                self._record(document)

    def _record(self, event: Event) -> None:
        job = self._jobs.record(event)
        if job is None:
            self._unknown(event)
            return
        if event.kind in TERMINAL:
            self._bell.ring()
            if job.batch_id is not None:
                self._batches.moved(job.batch_id)
        if event.kind in WORKS_ON and job.state == "cancelled":
            self._remind(job)

    def _unknown(self, event: Event) -> None:
        if event.subject is not None and self._tombs.holds(event.subject):
            self._tombs.clear(event.subject)
            return
        log.warning("event %s speaks of job %s, which the journal does not know", event.kind, event.job_id)

    def _remind(self, job: Job) -> None:
        """A worker is at a cancelled job: it may have started after the cancellation was told."""
        control = Control(kind="cancel", job_id=job.job_id)
        self._broker.send(Outgoing(CONTROL, "", wire(control), f"cancel.{job.job_id}", mandatory=False))
