"""Files what died: every dead letter from the queues into the job store, where operators find it."""

import logging

from services.gateway.consumer import Consumer
from services.gateway.planner import job_id_of
from services.gateway.tombs import Tombs
from shared.broker.port import Broker, Delivery, Outgoing
from shared.broker.topology import dead_queue, queue_name
from shared.contracts.base import MESSAGE_LIMIT_BYTES, now
from shared.contracts.dead_letter import LINEAGE_HEADER, DeadLetter
from shared.contracts.errors import InvalidInput, Permanent
from shared.contracts.request import JobRequest
from shared.contracts.step import ErrorAccount, StepMessage
from shared.jobs.port import JobStore
from shared.storage.port import ArtifactStore
from shared.worker.dispatch import Origin
from shared.worker.ending import best_so_far
from shared.worker.errors import fingerprint_of
from shared.worker.events import event_id, outgoing_event, step_event, tried_mark

log = logging.getLogger(__name__)

DELIVERY_LIMIT = ErrorAccount(
    kind=Permanent.__name__,
    type="DeliveryLimit",
    message="the broker gave the message up: consumer after consumer went away with it",
    hint="Look for a crash or an out-of-memory kill in the workers' logs, mend it, then replay.",
)


class Undertaker:
    """Works off the dead queues in the thread that calls `run`, until `stop`."""

    def __init__(
        self,
        broker: Broker,
        store: ArtifactStore,
        jobs: JobStore,
        tombs: Tombs,
        owners: tuple[str, ...],
        worker: str,
    ) -> None:
        self._broker = broker
        self._store = store
        self._jobs = jobs
        self._tombs = tombs
        self._worker = worker
        self._owners = {dead_queue(owner): owner for owner in owners}
        self._consumer = Consumer(broker, tuple(self._owners), self._work)

    def run(self) -> None:
        """Consume until `stop`."""
        self._consumer.run()

    def stop(self) -> None:
        """Take no further letter; `run` returns after the current one."""
        self._consumer.stop()

    def _work(self, delivery: Delivery) -> None:
        try:
            letter = DeadLetter.from_json(delivery.body)
        except InvalidInput:
            letter = wrapped(delivery, self._owners.get(delivery.routing_key, ""), self._worker)
            log.warning("the broker gave up a message of %s: job %s", letter.queue, letter.job_id)
        if self._tombs.holds(letter.subject):
            return
        self._jobs.file_letter(letter)
        if letter.subject is not None and self._tombs.holds(letter.subject):
            self._tombs.clear(letter.subject)
            return
        if letter.error.type == DELIVERY_LIMIT.type and letter.message is not None:
            self._broker.publish(self._end(letter.message, letter.error))

    def _end(self, message: StepMessage, error: ErrorAccount) -> Outgoing:
        """What is told of a job whose step the broker gave up: that it died, unless a picture of it stands."""
        best = best_so_far(message, self._store, Origin(self._worker), error)
        return best.first if best else outgoing_event(step_event(message, "dead", self._worker, error=error))


def wrapped(delivery: Delivery, owner: str, worker: str) -> DeadLetter:
    """The letter for a message that the broker dead-lettered by itself.

    Args:
        delivery: what lay in the dead queue.
        owner: the stage, `intake` or `journal` that the dead queue belongs to; empty where that is not known.
        worker: who wraps it.
    """
    letter = DeadLetter(
        letter_id=event_id(owner, "delivery limit", delivery.body.hex(), delivery.headers.get(LINEAGE_HEADER, "")),
        fingerprint=fingerprint_of(owner, DELIVERY_LIMIT),
        queue=queue_name(owner),
        died_at=now(),
        worker=worker,
        attempts=1,
        error=DELIVERY_LIMIT,
    )
    try:
        return letter.model_copy(update=_of_step(StepMessage.from_json(delivery.body)))
    except InvalidInput:
        body = {"body": delivery.body[:MESSAGE_LIMIT_BYTES].decode(errors="replace")}
        return letter.model_copy(update={**body, **_of_request(delivery.body)})


def _of_step(message: StepMessage) -> dict[str, object]:
    inputs = {name: message.artifacts.get(slot, ()) for name, slot in message.step.inputs.items()}
    return {
        "letter_id": event_id(
            message.job_id,
            message.step.name,
            "delivery limit",
            message.run,
            message.attempts,
            *tried_mark(message.tried),
        ),
        "queue": queue_name(message.step.stage, message.priority),
        "fingerprint": fingerprint_of(message.step.stage, DELIVERY_LIMIT),
        "job_id": message.job_id,
        "batch_id": message.batch_id,
        "caller": message.caller,
        "subject": message.subject,
        "run": message.run,
        "step": message.step.name,
        "input_digests": {name: tuple(ref.sha256 for ref in refs) for name, refs in inputs.items()},
        "attempts": message.attempts + 1,
        "message": message,
    }


def _of_request(body: bytes) -> dict[str, object]:
    try:
        request = JobRequest.from_json(body)
    except InvalidInput:
        return {}
    return {
        "job_id": job_id_of(request, body),
        "batch_id": request.batch_id,
        "caller": request.caller,
        "subject": request.subject,
    }
