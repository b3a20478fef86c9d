"""The SDK: photos and a scenario's name in, a finished picture and its scores out."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from doctor_image_gen.arguments import path_of, photos_of, scenarios_of, settings_of
from doctor_image_gen.batch import BatchFile
from doctor_image_gen.batch_client import BatchClient
from doctor_image_gen.client import Client, id_of, named
from doctor_image_gen.dead import DeadLetters
from doctor_image_gen.options import GenerationOptions
from doctor_image_gen.picture_file import make_room
from doctor_image_gen.result import Generated, failure_of, generated
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Stack
from shared.contracts.base import invalid_input, now
from shared.contracts.batch import BatchSummary
from shared.contracts.errors import DoctorGenError, InvalidInput
from shared.contracts.event import Event
from shared.contracts.nearest import nearest
from shared.contracts.request import JobRequest
from shared.jobs.port import Job

PathLike = str | Path
Listener = Callable[[Event], None]
CALL_OFF_S = 10.0
KEYWORDS = ("subject", "attributes", "consent", "caller", "batch_id", "job_id", "idempotency_key")
"""Fields of a JobRequest that `generate` takes as keywords."""


class DoctorImageGenerator:
    """Makes portraits. Opens the pipeline when first used and keeps it warm until `close`.

    With the default settings everything runs in this process; with a broker's URL in the settings the jobs are
    filed there and worked off by whoever serves it.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings.load()
        self._stack: Stack | None = None

    def generate(
        self,
        doctor_image_path: PathLike | Sequence[PathLike],
        scenario: str,
        photography_style: str | None = None,
        custom_prompt: str = "",
        settings: dict[str, Any] | None = None,
        *,
        images: Mapping[str, PathLike] | None = None,
        output_path: PathLike | None = None,
        on_event: Listener | None = None,
        **request: Any,
    ) -> Generated:
        """One picture from one to five photos of one person.

        `images` are pictures that the recipe reads beside the photos, by the names it has for them: a drawn pose to
        follow, for instance, with `images={"pose": "standing.png"}` and the recipe `portrait-posed`.

        Without `output_path` the picture goes to `results/` in the settings' data folder. Further keywords are
        fields of JobRequest: `subject` (named after the first photo's digest where absent), `attributes`,
        `consent`, `caller`, `batch_id`, `job_id` or `idempotency_key`.

        Raises:
            InvalidInput: photos, images, scenario or settings cannot be used; names the field and the mend.
            Permanent: the pipeline gave the job up; the message says at which step and why.
        """
        options = GenerationOptions.parse(settings_of(settings))
        wish = {"photography_style": photography_style, "custom_prompt": custom_prompt, "images": images, **request}
        path = None if output_path is None else path_of(output_path, "output_path")
        ((job, path),) = self._run(photos_of(doctor_image_path), [(scenario, path)], wish, options, on_event)
        if job.state != "done":
            raise failure_of(job)
        return generated(self._opened().connections, job, path, include_base64=options.include_base64)

    def batch_generate(
        self,
        doctor_image_path: PathLike | Sequence[PathLike],
        scenarios: Sequence[str],
        photography_style: str | None = None,
        custom_prompt: str = "",
        settings: dict[str, Any] | None = None,
        *,
        images: Mapping[str, PathLike] | None = None,
        output_dir: PathLike | None = None,
        on_event: Listener | None = None,
        **request: Any,
    ) -> list[Generated]:
        """One picture a scenario, in the scenarios' order, `<scenario>.png` each.

        A job that fails is reported in its place, with its state and `error`. Keywords as of `generate`, but for
        `job_id`; an `idempotency_key` holds for each scenario apart, and `images` are those of every scenario.

        Raises:
            InvalidInput: photos, images or settings cannot be used, or a scenario is named twice; in the embedded
                pipeline also where a scenario is not known, or its job would be refused for another reason. No job is
                filed then. A gateway elsewhere refuses such a job alone.
        """
        names = scenarios_of(scenarios)
        if "job_id" in request:
            raise InvalidInput("job_id", "a batch is several jobs", "Give an idempotency_key, or name the batch_id.")
        options = GenerationOptions.parse(settings_of(settings))
        wish = {"photography_style": photography_style, "custom_prompt": custom_prompt, "images": images, **request}
        folder = None if output_dir is None else path_of(output_dir, "output_dir")
        wanted = [(name, None if folder is None else folder / f"{name}.png") for name in names]
        ended = self._run(photos_of(doctor_image_path), wanted, wish, options, on_event, key_per_scenario=True)
        connections = self._opened().connections
        return [generated(connections, job, path, include_base64=options.include_base64) for job, path in ended]

    def submit_batch(self, batch: PathLike | Mapping[str, Any], *, batch_id: str | None = None) -> str:
        """File every doctor of a batch in every scenario, without waiting; the batch's id.

        `batch` is a batch file (docs/batches.md), or what would stand in one as a mapping; then photos are named
        relative to the working folder. Filed again under its id it is the same batch. The embedded pipeline works it
        off until `close`.

        Raises:
            InvalidInput: the batch or one of its photos cannot be used; nothing is filed then.
        """
        file = None if isinstance(batch, Mapping) else path_of(batch, "batch")
        folder = Path() if file is None else file.parent
        wanted = BatchFile.parse(batch) if file is None else BatchFile.read(file)
        if batch_id is not None:
            wanted = BatchFile.parse({**wanted.model_dump(mode="json"), "batch_id": batch_id})
        return self._batches().submit(wanted, folder)

    def batch_summary(self, batch_id: str) -> BatchSummary:
        """How a batch stands. Raises InvalidInput where none of that id is known (yet)."""
        return self._batches().summary(batch_id)

    def wait_for_batch(
        self,
        batch_id: str,
        on_summary: Callable[[BatchSummary], None] | None = None,
        timeout_s: float | None = None,
    ) -> BatchSummary:
        """Wait until a batch has ended. Raises Transient when the time is up."""
        return self._batches().follow(batch_id, on_summary or (lambda _: None), timeout_s)

    @property
    def dead(self) -> DeadLetters:
        """What could not be worked off: to be listed, shown, replayed, discarded, exported, imported."""
        return DeadLetters(self._opened().connections, licence_policy=self._settings.generation.licence_policy)

    def close(self) -> None:
        """End the pipeline's threads and connections. The next call opens them again."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(
        self,
        photos: Sequence[Path],
        wanted: Sequence[tuple[str, Path | None]],
        wish: dict[str, Any],
        options: GenerationOptions,
        on_event: Listener | None,
        *,
        key_per_scenario: bool = False,
    ) -> list[tuple[Job, Path]]:
        stack = self._opened()
        client = Client(stack.connections, self._settings.photo_limits, stack.check)
        scenarios = [scenario for scenario, _ in wanted]
        requests = requests_for(client, photos, scenarios, wish, options, key_per_scenario=key_per_scenario)
        if len(requests) > 1:  # one alone is refused by intake, before anything is computed
            stack.check_requests(requests)
        results = self._settings.data_dir / "results"
        pictures = [
            path if path is not None else results / f"{request.scenario}-{id_of(request)}.png"
            for request, (_, path) in zip(requests, wanted, strict=True)
        ]
        for picture in pictures:
            make_room(picture)
        try:
            jobs = client.submit_and_follow(requests, on_event or (lambda _: None), options.timeout_s)
        except KeyboardInterrupt as interruption:
            if self._settings.embedded:  # elsewhere others may wait for the job, and it goes on without us
                _call_off(client, requests, interruption)
            raise
        return list(zip(jobs, pictures, strict=True))

    def _batches(self) -> BatchClient:
        stack = self._opened()
        client = Client(stack.connections, self._settings.photo_limits, stack.check)
        return BatchClient(stack.connections, client, stack.check)

    def _opened(self) -> Stack:
        if self._stack is None:
            self._stack = Stack(self._settings)
        return self._stack


def _call_off(client: Client, requests: Sequence[JobRequest], interruption: KeyboardInterrupt) -> None:
    """Cancel jobs that nobody waits for any more, and see them end, so that the next process need not finish them.

    Where that cannot be seen, the interruption is given a note that says so.
    """
    try:
        for request in requests:
            client.cancel(id_of(request))
        client.follow_runs({id_of(request): 0 for request in requests}, lambda _: None, CALL_OFF_S)
    except DoctorGenError as error:
        goes_on = "The next command that runs the pipeline on this data folder may go on with what was filed."
        interruption.add_note(f"it could not be called off ({str(error).rstrip('.')}). {goes_on}")


def requests_for(
    client: Client,
    photos: Sequence[Path],
    scenarios: Sequence[str],
    wish: dict[str, Any],
    options: GenerationOptions,
    *,
    key_per_scenario: bool = False,
) -> list[JobRequest]:
    """Check and upload the photos; one request a scenario.

    Args:
        client: files the photos.
        photos: one to five of one person.
        scenarios: one or more names.
        wish: further fields of JobRequest, with files as `images`; None stands for an absent one.
        options: the settings of `generate`.
        key_per_scenario: make an idempotency key for each scenario out of the one in `wish`.

    Raises:
        InvalidInput: a photo, an image, or a field of the request. No picture is put anywhere if one cannot be used.
    """
    given = {keyword: value for keyword, value in wish.items() if value is not None}
    _check_keywords(given)
    images = client.read_images(_files(given.pop("images", {})))
    uploaded = client.upload(photos, options.faces)
    fields = {
        "subject": f"person-{uploaded[0].sha256[:16]}",
        **given,
        **options.of_request(),
        "photos": uploaded,
        "images": client.put_images(images),
        "deadline": None if options.deadline_s is None else now() + timedelta(seconds=options.deadline_s),
    }
    key = given.get("idempotency_key")
    requests = []
    for scenario in scenarios:
        own = {"idempotency_key": f"{key}/{scenario}"} if key and key_per_scenario else {}
        try:
            requests.append(named(JobRequest.model_validate({**fields, "scenario": scenario, **own})))
        except ValidationError as error:
            raise invalid_input(error, "", JobRequest) from error
    return requests


def _files(images: object) -> dict[str, Path]:
    mend = "Give files by name, as {'pose': 'standing.png'}."
    if not isinstance(images, Mapping):
        raise InvalidInput("images", f"found {images!r:.80}", mend)
    for name, file in images.items():
        if not isinstance(file, str | Path):
            raise InvalidInput(f"images.{name}", f"found {file!r:.80}", mend)
    return {name: Path(file) for name, file in images.items()}


def _check_keywords(given: dict[str, Any]) -> None:
    for keyword in given:
        if keyword not in {"photography_style", "custom_prompt", "images", *KEYWORDS}:
            setting = keyword in GenerationOptions.model_fields
            mend = f"Write settings={{'{keyword}': …}}." if setting else nearest(keyword, KEYWORDS)
            raise InvalidInput(keyword, "there is no such keyword", mend)
