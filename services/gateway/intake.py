"""Takes jobs in: checks the request and its photos, pins the recipe, notes the job, publishes the first step."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from services.gateway.defaults import GenerationDefaults
from services.gateway.planner import job_id_of, plan
from shared.broker.port import Broker, Delivery, Outgoing
from shared.broker.topology import INTAKE_KEY, queue_name, retry_queue
from shared.contracts.artifacts import ArtifactRef
from shared.contracts.base import now
from shared.contracts.brief import Brief
from shared.contracts.errors import DoctorGenError, InvalidInput, Transient
from shared.contracts.event import Event, EventKind
from shared.contracts.recipe import Recipe
from shared.contracts.request import JobRequest, PhotoRef
from shared.contracts.step import ErrorAccount, StepMessage
from shared.jobs.port import Job, JobStore, StepState
from shared.prompts.catalogue import Catalogue
from shared.prompts.compiler import compile_brief
from shared.storage.artifacts import store_artifact
from shared.storage.digest import sha256
from shared.storage.port import ArtifactStore
from shared.vision.photos import PhotoLimits, normalise_photo
from shared.worker.dispatch import Dispatch, step_outgoing, unreadable
from shared.worker.errors import account_of, classify
from shared.worker.events import event_id, outgoing_event
from shared.worker.operation import Operation
from shared.worker.retry import RetryPolicy

log = logging.getLogger(__name__)

ATTEMPTS_HEADER = "x-attempts"
BROKER_PAUSE_S = 1.0


@dataclass(frozen=True)
class House:
    """What a deployment offers: recipes, operations, scenarios; and its defaults, asked for at each job."""

    operations: Mapping[str, Operation]
    recipe: Callable[[str], Recipe]
    catalogue: Callable[[], Catalogue]
    defaults: Callable[[], GenerationDefaults]
    photo_limits: PhotoLimits


class Intake:
    """Works off the intake queue in the thread that calls `run`, until `stop`."""

    def __init__(
        self, broker: Broker, store: ArtifactStore, jobs: JobStore, house: House, policy: RetryPolicy, worker: str
    ) -> None:
        self._broker = broker
        self._store = store
        self._jobs = jobs
        self._house = house
        self._policy = policy
        self._worker = worker
        self._rng = Random()
        self._stopping = threading.Event()
        self._subscription = broker.subscribe(queue_name(INTAKE_KEY))

    def run(self) -> None:
        """Consume until `stop`."""
        while not self._stopping.is_set():
            delivery = self._subscription.receive()
            if delivery is not None:
                self._handle(delivery)

    def stop(self) -> None:
        """Take no further request; `run` returns after the current one."""
        self._stopping.set()
        self._subscription.close()

    def _handle(self, delivery: Delivery) -> None:
        try:
            for outgoing in self._answers(delivery):
                self._broker.publish(outgoing)
        except Transient:
            log.warning("the broker took no message; the request is delivered again", exc_info=True)
            delivery.requeue()
            self._stopping.wait(BROKER_PAUSE_S)
            return
        delivery.ack()

    def _answers(self, delivery: Delivery) -> tuple[Outgoing, ...]:
        try:
            request = JobRequest.from_json(delivery.body)
        except InvalidInput as error:
            return _flat(self._unreadable(delivery, error))
        job_id = job_id_of(request, delivery.body)
        try:
            return self._take_in(request, job_id)
        except InvalidInput as error:
            return self._refuse(request, job_id, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request is kept and the consumer lives on
            return self._try_again(delivery, error)

    def _take_in(self, request: JobRequest, job_id: str) -> tuple[Outgoing, ...]:
        defaults = self._house.defaults()
        if defaults.consent_required and request.consent is None:
            raise InvalidInput("consent", "the request states none", "State the consent that the photos rest on.")
        catalogue = self._house.catalogue()
        recipe = self._house.recipe(request.recipe or defaults.recipe)
        brief = compile_brief(
            catalogue,
            request.scenario,
            request.photography_style or defaults.photography_style,
            request.attributes,
            request.custom_prompt,
        )
        photos = tuple(
            self._take_photo(request.subject, photo, f"photos[{number}]")
            for number, photo in enumerate(request.photos, start=1)
        )
        first = plan(request, job_id, photos, recipe, brief, self._house.operations, defaults)
        standing = self._jobs.add(_new_job(request, job_id, first, brief))
        if standing.first_message is None or standing.state != "accepted":
            return ()
        return step_outgoing(standing.first_message), outgoing_event(self._event(request, standing.job_id, "accepted"))

    def _take_photo(self, subject: str, photo: PhotoRef, field: str) -> ArtifactRef:
        data = self._store.get(photo.key)
        if data is None:
            raise InvalidInput(field, f"there is nothing at {photo.key}", "Put the photo there before the request.")
        if sha256(data) != photo.sha256:
            raise InvalidInput(
                field, f"the bytes at {photo.key} do not have the digest stated", "Put the photo there again."
            )
        normal = normalise_photo(data, field=field, name=photo.key, limits=self._house.photo_limits)
        return store_artifact(self._store, subject, "photo", normal, "image/png")

    def _refuse(self, request: JobRequest, job_id: str, error: InvalidInput) -> tuple[Outgoing, ...]:
        account = account_of(error)
        standing = self._jobs.add(_new_job(request, job_id, None, None, account))
        if standing.state != "refused":
            return ()
        return (outgoing_event(self._event(request, job_id, "refused", account)),)

    def _unreadable(self, delivery: Delivery, error: Exception) -> Dispatch:
        return unreadable(INTAKE_KEY, delivery, error, self._worker)

    def _try_again(self, delivery: Delivery, error: Exception) -> tuple[Outgoing, ...]:
        log.warning("a request could not be taken in", exc_info=error)
        attempts = int(delivery.headers.get(ATTEMPTS_HEADER, "0")) + 1
        kind: type[DoctorGenError] = classify(error)
        delay_ms = self._policy.delay_ms(kind.__name__, attempts, self._rng)
        if delay_ms is None:
            return _flat(self._unreadable(delivery, error))
        headers = {**delivery.headers, ATTEMPTS_HEADER: str(attempts)}
        queue = retry_queue(INTAKE_KEY, delay_ms)
        return (Outgoing("", queue, delivery.body, event_id(delivery.body.hex(), attempts), headers),)

    def _event(self, request: JobRequest, job_id: str, kind: EventKind, error: ErrorAccount | None = None) -> Event:
        return Event(
            event_id=event_id(job_id, kind),
            kind=kind,
            job_id=job_id,
            batch_id=request.batch_id,
            caller=request.caller,
            subject=request.subject,
            at=now(),
            worker=self._worker,
            error=error,
        )


def _flat(dispatch: Dispatch) -> tuple[Outgoing, ...]:
    return (dispatch.first, *dispatch.then)


def _new_job(
    request: JobRequest,
    job_id: str,
    first: StepMessage | None,
    brief: Brief | None,
    error: ErrorAccount | None = None,
) -> Job:
    at = now()
    return Job(
        job_id=job_id,
        batch_id=request.batch_id,
        caller=request.caller,
        subject=request.subject,
        state="refused" if error else "accepted",
        request=request,
        brief=brief,
        first_message=first,
        steps=tuple(StepState(step=step.name, state="waiting") for step in first.steps) if first else (),
        error=error,
        created_at=at,
        updated_at=at,
    )
