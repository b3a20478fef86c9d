"""Files jobs and follows them, over whatever broker, store and journal the settings name."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import NamedTuple
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from doctor_image_gen.stack import Connections
from services.gateway.planner import job_id_of
from shared.broker.port import Outgoing, Subscription
from shared.broker.topology import CONTROL, EVENTS, INTAKE, INTAKE_KEY
from shared.contracts.control import Control
from shared.contracts.errors import InvalidInput, Transient
from shared.contracts.event import TERMINAL, Event
from shared.contracts.request import MOST_IMAGES, ImageName, ImageRef, JobRequest, PhotoRef
from shared.jobs.journal import ENDS
from shared.jobs.port import Job
from shared.storage.digest import sha256
from shared.storage.layout import inbox_key
from shared.vision.photos import PhotoLimits, check_count, check_photo, read_photo_file
from shared.worker.dispatch import wire

POLL_S = 1.0
"""How often the journal is asked about a job of which no event comes."""

PATTERNS = 100
"""So many jobs are listened to one by one; beyond it, to all."""

JOURNAL_POLL_S = 0.01
"""The same once an event has said that the job ended: the journal hears it at the same time as we do."""

IMAGE_NAME: TypeAdapter[str] = TypeAdapter(ImageName)


class Checked(NamedTuple):
    """A picture that may be used."""

    data: bytes
    media_type: str


def named(request: JobRequest) -> JobRequest:
    """The request with a job id of its own, unless its caller has named it."""
    if request.job_id is not None or request.idempotency_key is not None:
        return request
    return request.model_copy(update={"job_id": f"job-{uuid4().hex}"})


def id_of(request: JobRequest) -> str:
    """The id of the job that a named request becomes."""
    return job_id_of(request, wire(request))


class Client:
    """For one thread at a time. `still_alive` raises when waiting has become pointless."""

    def __init__(
        self, connections: Connections, limits: PhotoLimits, still_alive: Callable[[], None] = lambda: None
    ) -> None:
        self._connections = connections
        self._limits = limits
        self._still_alive = still_alive

    def upload(self, paths: Sequence[Path], faces: Sequence[int | None] = ()) -> tuple[PhotoRef, ...]:
        """Check photos and put them into the inbox. `faces` says which face is meant, photo by photo.

        Raises:
            InvalidInput: a file cannot be used; names it as `photos[n]`, n from 1.
        """
        check_count(len(paths))
        if len(faces) > len(paths):
            raise InvalidInput("faces", f"{len(faces)} for {len(paths)} photos", "Name at most one face a photo.")
        checked = [self._checked(path, f"photos[{number}]") for number, path in enumerate(paths, start=1)]
        chosen = [*faces, *[None] * (len(paths) - len(faces))]
        return tuple(
            PhotoRef(key=self._put(photo), sha256=sha256(photo.data), face=face)
            for photo, face in zip(checked, chosen, strict=True)
        )

    def read_images(self, files: Mapping[str, Path], field: str = "images") -> dict[str, Checked]:
        """Check the pictures beside the photos, by name. `put_images` puts them into the inbox.

        Raises:
            InvalidInput: there are too many, a name cannot be one, or a file cannot be used; names it as
                `<field>.<name>`.
        """
        if len(files) > MOST_IMAGES:
            raise InvalidInput(field, f"{len(files)} images are given", f"Give at most {MOST_IMAGES}.")
        for name in files:
            _check_image_name(name, f"{field}.{name}")
        return {name: self._checked(path, f"{field}.{name}") for name, path in files.items()}

    def put_images(self, images: Mapping[str, Checked]) -> dict[str, ImageRef]:
        """Put checked pictures into the inbox."""
        return {name: ImageRef(key=self._put(one), sha256=sha256(one.data)) for name, one in images.items()}

    def submit(self, request: JobRequest) -> str:
        """Publish a request to `doctorgen.intake`; the job's id."""
        request = named(request)
        job_id = id_of(request)
        self._connections.broker.publish(Outgoing(INTAKE, INTAKE_KEY, wire(request), job_id))
        return job_id

    def submit_and_follow(
        self, requests: Sequence[JobRequest], on_event: Callable[[Event], None], timeout_s: float | None = None
    ) -> tuple[Job, ...]:
        """File jobs and wait until each has ended; the jobs in the order of the requests."""
        requests = [named(request) for request in requests]
        job_ids = [id_of(request) for request in requests]
        runs = dict.fromkeys(job_ids, 0)
        ended = self._follow(runs, on_event, timeout_s, lambda: [self.submit(request) for request in requests])
        return tuple(ended[job_id] for job_id in job_ids)

    def follow(self, job_id: str, on_event: Callable[[Event], None], timeout_s: float | None = None) -> Job:
        """Wait until a job has ended."""
        (job,) = self.follow_runs({job_id: 0}, on_event, timeout_s)
        return job

    def follow_runs(
        self, runs: Mapping[str, int], on_event: Callable[[Event], None], timeout_s: float | None = None
    ) -> tuple[Job, ...]:
        """Wait until each job has ended, in its given run or a later one: a replay opens an ended job again."""
        return tuple(self._follow(runs, on_event, timeout_s, lambda: None).values())

    def job(self, job_id: str) -> Job:
        """The job as the journal knows it.

        Raises:
            InvalidInput: it does not know the job.
        """
        job = self._connections.jobs.get(job_id)
        if job is None:
            raise InvalidInput("job_id", f"there is no job '{job_id}'", "`doctorgen status` lists the newest jobs.")
        return job

    def cancel(self, job_id: str) -> None:
        """Tell all workers that a job is no longer wanted."""
        control = Control(kind="cancel", job_id=job_id)
        self._connections.broker.publish(Outgoing(CONTROL, "", wire(control), f"cancel.{job_id}", mandatory=False))

    def _checked(self, path: Path, field: str) -> Checked:
        data = read_photo_file(path, field=field, limits=self._limits)
        return Checked(data, check_photo(data, field=field, name=path.name, limits=self._limits).media_type)

    def _put(self, picture: Checked) -> str:
        key = inbox_key(sha256(picture.data), picture.media_type)
        self._connections.store.put(key, picture.data, picture.media_type)
        return key

    def _follow(
        self,
        runs: Mapping[str, int],
        on_event: Callable[[Event], None],
        timeout_s: float | None,
        once_listening: Callable[[], object],
    ) -> dict[str, Job]:
        patterns = tuple(f"job.{job_id.replace('.', '_')}.*" for job_id in runs)
        wide = patterns if len(patterns) <= PATTERNS else ("job.#",)
        with closing(self._connections.broker.listen(EVENTS, wide)) as events:
            once_listening()
            return self._until_ended(events, runs, on_event, timeout_s)

    def _until_ended(
        self,
        events: Subscription,
        runs: Mapping[str, int],
        on_event: Callable[[Event], None],
        timeout_s: float | None,
    ) -> dict[str, Job]:
        """Tell events until the journal has the end of each job: a listener may miss one, the journal does not."""
        ended = {job_id: job for job_id, run in runs.items() if (job := self._ended(job_id, run, None))}
        ends: dict[str, Event] = {}
        look_at = monotonic() + POLL_S
        give_up = None if timeout_s is None else monotonic() + timeout_s
        while len(ended) < len(runs):
            delivery = events.receive(JOURNAL_POLL_S if ends else POLL_S)
            if delivery is not None:
                event = Event.from_json(delivery.body)
                if event.job_id in runs:
                    on_event(event)
                    if event.kind in TERMINAL and event.job_id not in ended and event.run >= runs[event.job_id]:
                        ends[event.job_id] = event
            look = monotonic() >= look_at
            look_at = monotonic() + POLL_S if look else look_at
            for job_id in runs.keys() - ended.keys() if look else tuple(ends):
                job = self._ended(job_id, runs[job_id], ends.get(job_id))
                if job is not None:
                    ended[job_id] = job
                    ends.pop(job_id, None)
            self._still_alive()
            if give_up is not None and monotonic() > give_up:
                raise Transient(f"{len(runs) - len(ended)} of {len(runs)} jobs did not end within {timeout_s} seconds")
        return {job_id: ended[job_id] for job_id in runs}

    def _ended(self, job_id: str, run: int, end: Event | None) -> Job | None:
        """The job if it has ended; as its last event tells it, where the journal keeps no such job."""
        job = self._connections.jobs.get(job_id)
        if job is None:
            return None if end is None else _told(end)
        return job if job.run >= run and job.state in TERMINAL else None


def _check_image_name(name: str, field: str) -> None:
    try:
        IMAGE_NAME.validate_python(name)
    except ValidationError as error:
        mend = "Use lower-case letters, digits and '_', at most 64; 'photos' is taken by the photos of the person."
        raise InvalidInput(field, "this is no name for an image", mend) from error


def _told(end: Event) -> Job:
    """A job of which nothing is kept: turned away by intake, or erased meanwhile."""
    return Job(
        job_id=end.job_id,
        batch_id=end.batch_id,
        caller=end.caller,
        subject=end.subject,
        state=ENDS[end.kind],
        run=end.run,
        steps=(),
        error=end.error,
        result=end.result,
        created_at=end.at,
        updated_at=end.at,
    )
