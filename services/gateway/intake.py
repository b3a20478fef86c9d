"""Takes jobs in: checks each request, notes the job, tells its caller. The releaser publishes what was noted."""

import logging
from random import Random

from services.gateway import again, answers
from services.gateway.consumer import Consumer, publish_all
from services.gateway.desk import Desk
from services.gateway.fan_out import FanOut
from services.gateway.planner import job_id_of
from services.gateway.reception import Reception
from shared.broker.port import Broker, Delivery, Outgoing
from shared.broker.topology import BATCH_KEY, INTAKE_KEY, queue_name
from shared.contracts.base import Contract
from shared.contracts.batch import BatchRequest
from shared.contracts.control import Control
from shared.contracts.errors import InvalidInput, StoreAway
from shared.contracts.request import JobRequest
from shared.jobs.port import Job
from shared.worker.errors import account_of
from shared.worker.retry import RetryPolicy

log = logging.getLogger(__name__)

CONTROL_KEY = ""
BY_KEY: dict[str, type[Contract]] = {BATCH_KEY: BatchRequest, CONTROL_KEY: Control}


def read(delivery: Delivery) -> Contract:
    """What came to intake: a JobRequest, a BatchRequest or a Control.

    The routing key says which. A message that has been through a retry queue has lost it, and is read as what it is.

    Raises:
        InvalidInput: it is none of them.
    """
    named = BY_KEY.get(delivery.routing_key)
    if named is not None:
        return named.from_json(delivery.body)
    try:
        return JobRequest.from_json(delivery.body)
    except InvalidInput as error:
        for other in BY_KEY.values():
            try:
                return other.from_json(delivery.body)
            except InvalidInput:
                continue
        raise error from None


class Intake:
    """Works off the intake queue in the thread that calls `run`, until `stop`.

    Requests, batches and cancellations come by one queue, so that a cancellation is behind the request it means.
    """

    def __init__(
        self, broker: Broker, reception: Reception, desk: Desk, fan_out: FanOut, policy: RetryPolicy, worker: str
    ) -> None:
        self._broker = broker
        self._reception = reception
        self._desk = desk
        self._fan_out = fan_out
        self._policy = policy
        self._worker = worker
        self._rng = Random()
        self._consumer = Consumer(broker, (queue_name(INTAKE_KEY),), self._work)

    def run(self) -> None:
        """Consume until `stop`."""
        self._consumer.run()

    def stop(self) -> None:
        """Take no further request; `run` returns after the current one."""
        self._consumer.stop()

    def _work(self, delivery: Delivery) -> None:
        try:
            document = read(delivery)
        except InvalidInput as error:
            publish_all(self._broker, answers.kept(delivery, account_of(error), self._worker, attempts=1))
            return
        match document:
            case JobRequest():
                publish_all(self._broker, self._take_in(document, delivery))
            case BatchRequest():
                trouble = self._fan_out.take(document, delivery)
                if trouble is not None:
                    publish_all(self._broker, self._given_up(delivery, trouble))
            case Control(kind="cancel", job_id=str(job_id)):
                publish_all(self._broker, self._desk.cancel(job_id))

    def _take_in(self, request: JobRequest, delivery: Delivery) -> tuple[Outgoing, ...]:
        job_id = job_id_of(request, delivery.body)
        known = self._desk.known(job_id)
        if known is not None:
            return self._same(known, request, delivery)
        refusal = self._desk.refuse_erased(request, job_id) or self._desk.refuse_crowded(request, job_id)
        if refusal:
            return refusal
        try:
            job = self._reception.job(request, job_id, self._reception.pictures())
        except StoreAway:
            raise
        except Exception as error:
            log.warning("the request for job %s could not be taken in", job_id, exc_info=error)
            later = again.after_failure(delivery, error, self._policy, self._rng)
            return (later,) if later is not None else self._given_up(delivery, error, (request, job_id))
        return self._desk.note(request, job)

    def _same(self, known: Job, request: JobRequest, delivery: Delivery) -> tuple[Outgoing, ...]:
        """The answer about a job that stands already: what was told before, to whom it belongs."""
        if known.caller == request.caller:
            return answers.standing(known, self._worker)
        error = InvalidInput("job_id", f"'{known.job_id}' is another caller's job", "Choose another id.")
        return answers.kept(delivery, answers.account(error), self._worker, attempts=1)

    def _given_up(
        self, delivery: Delivery, error: Exception, known: tuple[JobRequest, str] | None = None
    ) -> tuple[Outgoing, ...]:
        attempts = again.attempts_of(delivery) + 1
        return answers.kept(delivery, account_of(error), self._worker, attempts, known)
