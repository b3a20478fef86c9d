"""Keeps the journal: every event into the job store, in the thread that calls `run`."""

import logging
import threading

from shared.broker.port import Broker, Delivery
from shared.broker.topology import JOURNAL, queue_name
from shared.contracts.errors import DoctorGenError, InvalidInput
from shared.contracts.event import Event
from shared.jobs.port import JobStore
from shared.worker.dispatch import unreadable

log = logging.getLogger(__name__)

STORE_PAUSE_S = 1.0


class Journal:
    """Works off the journal queue until `stop`. An event is acknowledged once it is recorded."""

    def __init__(self, broker: Broker, jobs: JobStore, worker: str) -> None:
        self._broker = broker
        self._jobs = jobs
        self._worker = worker
        self._stopping = threading.Event()
        self._subscription = broker.subscribe(queue_name(JOURNAL))

    def run(self) -> None:
        """Consume until `stop`."""
        while not self._stopping.is_set():
            delivery = self._subscription.receive()
            if delivery is not None:
                self._handle(delivery)

    def stop(self) -> None:
        """Take no further event; `run` returns after the current one."""
        self._stopping.set()
        self._subscription.close()

    def _handle(self, delivery: Delivery) -> None:
        try:
            self._record(delivery)
        except DoctorGenError:
            log.warning("an event could not be recorded; it is delivered again", exc_info=True)
            delivery.requeue()
            self._stopping.wait(STORE_PAUSE_S)
            return
        delivery.ack()

    def _record(self, delivery: Delivery) -> None:
        try:
            event = Event.from_json(delivery.body)
        except InvalidInput as error:
            dead = unreadable(JOURNAL, delivery, error, self._worker)
            self._broker.publish(dead.first)
            return
        if self._jobs.record(event) is None:
            log.warning("event %s speaks of job %s, which the journal does not know", event.kind, event.job_id)
