"""What the SDK gives back of a job that has ended."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from PIL import Image

from doctor_image_gen.picture_file import write_whole
from doctor_image_gen.stack import Connections
from services.gateway.planner import seed_of
from shared.contracts.artifacts import Manifest
from shared.contracts.attempt import Attempt, AttemptError
from shared.contracts.errors import DoctorGenError, InvalidInput, Permanent
from shared.contracts.step import StepRecord
from shared.contracts.verdict import Verdict
from shared.jobs.port import Job
from shared.models.facts import licences
from shared.storage.artifacts import fetch
from shared.storage.manifests import read_manifest


class AttemptMade(TypedDict):
    """One attempt at a picture. `image` and `verdict` are keys in the object store, `failed` the checks not passed.

    One that an error broke off has neither; `error` says at which step, what, and what would help.
    """

    number: int
    kept: bool
    passed: bool
    identity_score: float | None
    failed: list[str]
    seed: int | None
    identity_weight: float | None
    image: str | None
    verdict: str | None
    seconds: float
    cost_usd: float
    error: str | None


class Metadata(TypedDict):
    """How a picture came to be and how good it is.

    `attempts` are all that were made, in their order, where the recipe has a gate and further ones were allowed. All
    else speaks of the one that was kept, but that `cost_usd` is of all; `seed` is the job's, of which theirs follow.
    """

    job_id: str
    subject: str
    scenario: str
    scenario_name: str
    photography_style: str
    resolution: str
    generation_time: float
    prompt_used: str
    negative_prompt: str
    model: str
    engines: dict[str, str]
    models: dict[str, str]
    licences: dict[str, str]
    identity_score: float | None
    identity_rating: str | None
    verdict: dict[str, Any]
    attempts: list[AttemptMade]
    seed: int
    recipe: str
    timings: dict[str, float]
    reused: list[str]
    cost_usd: float
    timestamp: str


class Generated(TypedDict):
    """One job's outcome. `status` is its final state: done, refused, dead, cancelled or expired."""

    status: str
    output_path: str | None
    output_base64: NotRequired[str]
    error: NotRequired[str]
    metadata: NotRequired[Metadata]


def failure_of(job: Job) -> DoctorGenError:
    """Why a job is not done, as the error to raise."""
    error = job.error
    if error is None:
        return Permanent(f"job {job.job_id} was {job.state}")
    if job.state == "refused" and error.field is not None:
        return InvalidInput(error.field, error.message, error.hint)
    return Permanent(f"job {job.job_id} is {job.state}: {error.message.rstrip('.')}. {error.hint}")


def generated(connections: Connections, job: Job, path: Path, *, include_base64: bool) -> Generated:
    """The outcome of a job; writes the picture of a finished one to the path."""
    if job.result is None:
        return Generated(status=job.state, output_path=None, error=str(failure_of(job)))
    picture = fetch(connections.store, job.result.image)
    write_whole(path, picture)
    outcome = Generated(status=job.state, output_path=str(path), metadata=metadata_of(connections, job, picture))
    if include_base64:
        outcome["output_base64"] = base64.b64encode(picture).decode()
    return outcome


def metadata_of(connections: Connections, job: Job, picture: bytes) -> Metadata:
    """How a finished job's picture came to be. `picture` is its file.

    Raises:
        Permanent: the job is not finished.
    """
    if job.result is None or job.request is None or job.brief is None or job.subject is None:
        raise Permanent(f"job {job.job_id} is {job.state}: it has no picture to speak of")
    manifests = {record.step: _manifest(connections, job.subject, record) for record in job.result.trail}
    verdict = Verdict.from_json(fetch(connections.store, job.result.verdict))
    with Image.open(BytesIO(picture)) as opened:
        width, height = opened.size
    summary = job.result.summary
    return Metadata(
        job_id=job.job_id,
        subject=job.subject,
        scenario=job.brief.scenario,
        scenario_name=job.brief.scenario_name,
        photography_style=job.brief.style,
        resolution=f"{width}x{height}",
        generation_time=round((job.updated_at - job.created_at).total_seconds(), 3),
        prompt_used=job.brief.prompt,
        negative_prompt=job.brief.negative_prompt,
        model=_maker(manifests),
        engines={record.step: record.engine for record in job.result.trail},
        models={name: digest for manifest in manifests.values() for name, digest in manifest.models.items()},
        licences={name: one for manifest in manifests.values() for name, one in _licences(manifest).items()},
        identity_score=summary.identity_score,
        identity_rating=summary.identity_rating,
        verdict=verdict.model_dump(mode="json"),
        attempts=[attempt_made(one, job.result.kept) for one in job.result.attempts or ()],
        seed=seed_of(job.request),
        recipe=job.first_message.recipe if job.first_message else "",
        timings={record.step: round(record.seconds, 3) for record in job.result.trail},
        reused=[record.step for record in job.result.trail if record.reused],
        cost_usd=round(job.result.cost_usd, 6),
        timestamp=job.updated_at.isoformat(),
    )


def attempt_made(one: Attempt, kept: int | None) -> AttemptMade:
    """An attempt as the SDK tells of it. `kept` is the number of the one that was kept."""
    return AttemptMade(
        number=one.number,
        kept=one.number == kept,
        passed=one.passed,
        identity_score=one.identity_score,
        failed=list(one.failed),
        seed=one.seed,
        identity_weight=one.identity_weight,
        image=one.image.key if one.image else None,
        verdict=one.verdict.key if one.verdict else None,
        seconds=round(one.seconds, 3),
        cost_usd=round(one.cost_usd, 6),
        error=_error_in_words(one.error) if one.error else None,
    )


def _error_in_words(error: AttemptError) -> str:
    field = "" if error.field is None else f"{error.field}: "
    return f"step '{error.step}': {field}{error.message.rstrip('.')}. {error.hint}"


def _manifest(connections: Connections, subject: str, record: StepRecord) -> Manifest:
    manifest = read_manifest(connections.store, subject, record.key)
    if manifest is None:
        raise Permanent(f"the manifest of step '{record.step}' is no longer in the store")
    return manifest


def _licences(manifest: Manifest) -> dict[str, str]:
    """As the manifest says; of an older one, which says none, as the catalogue says now."""
    return licences(manifest.models) | manifest.licences


def _maker(manifests: dict[str, Manifest]) -> str:
    """The engine that made the picture, and the model it used where the recipe names one."""
    maker = next((one for one in manifests.values() if one.operation.startswith("generate.")), None)
    if maker is None:
        return "none"
    named: Any = maker.params.get("model")
    return f"{maker.engine}: {named}" if named else maker.engine
