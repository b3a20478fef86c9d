"""Takes batches in, subject by subject: pictures taken in once, each scenario a job that goes the way of all others."""

import logging
from random import Random
from time import monotonic

from services.gateway import again
from services.gateway.batches import BatchTeller, jobs_of
from services.gateway.consumer import publish_all
from services.gateway.desk import Desk
from services.gateway.reception import Reception
from shared.broker.port import Broker, Delivery, Outgoing
from shared.broker.topology import BATCH_KEY, INTAKE
from shared.contracts.batch import BatchRequest
from shared.contracts.errors import QueueFull, StoreAway
from shared.contracts.request import JobRequest
from shared.jobs.port import Job
from shared.worker.retry import RetryPolicy

log = logging.getLogger(__name__)

DONE_HEADER = "x-subjects-done"
"""Of a batch whose first so many subjects were taken in."""

SLICE_S = 1.0
"""How long intake works on one batch before other requests have their turn."""


class FanOut:
    """For one thread. What `take` raises of ours means: later."""

    def __init__(
        self, broker: Broker, reception: Reception, desk: Desk, teller: BatchTeller, policy: RetryPolicy
    ) -> None:
        self._broker = broker
        self._reception = reception
        self._desk = desk
        self._teller = teller
        self._policy = policy
        self._rng = Random()

    def take(self, batch: BatchRequest, delivery: Delivery) -> Exception | None:
        """Take in what a second allows and send the rest to the end of the queue, or to wait while there is no room.

        Returns why the batch cannot be taken in, once it has been tried as often as the policy says.
        """
        until, first = monotonic() + SLICE_S, int(delivery.headers.get(DONE_HEADER, "0"))
        for number in range(first, len(batch.subjects)):
            wait_s = self._desk.wait_s(batch.caller, len(batch.scenarios))
            if wait_s is not None or (number > first and monotonic() > until):
                self._hand_on(delivery, number, wait_s)
                return None
            try:
                jobs = self._new_jobs(batch, number)
            except StoreAway:
                raise
            except Exception as error:
                log.warning("batch %s could not be taken in", batch.batch_id, exc_info=error)
                later = again.after_failure(delivery, error, self._policy, self._rng)
                if later is None:
                    return error
                self._broker.publish(later)
                return None
            for request, job in jobs:
                publish_all(self._broker, self._desk.note(request, job))
        self._teller.filed(batch)
        return None

    def _new_jobs(self, batch: BatchRequest, number: int) -> list[tuple[JobRequest, Job]]:
        pictures = self._reception.pictures()
        return [
            (request, self._reception.job(request, job_id, pictures))
            for job_id, request in jobs_of(batch, number).items()
            if self._desk.known(job_id) is None
        ]

    def _hand_on(self, delivery: Delivery, number: int, wait_s: int | None) -> None:
        done = {DONE_HEADER: str(number)}
        if wait_s is None:
            try:
                name = f"{delivery.message_id or 'batch'}.{number}"
                self._broker.publish(Outgoing(INTAKE, BATCH_KEY, delivery.body, name, {**delivery.headers, **done}))
            except QueueFull:
                wait_s = 0
            else:
                return
        self._broker.publish(again.in_a_while(delivery, wait_s, self._policy, done))
