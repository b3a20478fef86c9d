"""Jobs and events to try a job store with."""

from datetime import UTC, datetime, timedelta
from typing import Any

from shared.contracts.artifacts import ArtifactRef
from shared.contracts.brief import Brief
from shared.contracts.event import Event, EventKind, JobResult
from shared.contracts.request import JobRequest, PhotoRef
from shared.contracts.scene import Backdrop, Framing, Light
from shared.contracts.step import ErrorAccount, PinnedStep, StepMessage, StepRecord
from shared.contracts.verdict import VerdictSummary
from shared.jobs.port import Job, StepState

DAWN = datetime(2026, 11, 20, 6, 0, 0, 123456, tzinfo=UTC)
STEPS = ("encode", "base", "score")
DIGEST = "5e" * 32
TROUBLE = ErrorAccount(kind="Transient", type="ConnectionError", message="the store is away", hint="Wait.")
PICTURE = ArtifactRef(key="subjects/doctor-1/picture.png", sha256=DIGEST, size=1234, media_type="image/png")


def at(minutes: float) -> datetime:
    """An instant so many minutes after dawn."""
    return DAWN + timedelta(minutes=minutes)


def record_of(step: str, *, reused: bool = False, seconds: float = 2.5) -> StepRecord:
    """What the message remembers of a finished step."""
    return StepRecord(step=step, engine="portable", key=DIGEST, reused=reused, seconds=seconds, cost_usd=0.0)


RESULT = JobResult(
    image=PICTURE,
    verdict=PICTURE,
    summary=VerdictSummary(passed=False, identity_score=None, identity_rating=None, reasons=("no face was found",)),
    trail=tuple(record_of(step) for step in STEPS),
    seconds=7.5,
    cost_usd=0.01,
)


def request(**fields: Any) -> JobRequest:
    """A valid request."""
    photo = PhotoRef(key="inbox/photo.png", sha256=DIGEST)
    return JobRequest(**{"subject": "doctor-1", "photos": (photo,), "scenario": "consultant", **fields})


BRIEF = Brief(
    scenario="consultant",
    scenario_name="Medical Consultation",
    style="cinematic",
    prompt="a doctor in consultation",
    negative_prompt="watermark",
    focus="warmth",
    framing=Framing(),
    backdrop=Backdrop(light=Light(key=0.9)),
)


def first_message(job_id: str = "job-1") -> StepMessage:
    """The message that starts the route over STEPS."""
    steps = tuple(
        PinnedStep(name=name, operation=f"qa.{name}", operation_version=1, engine="portable", params={}, inputs={})
        for name in STEPS
    )
    return StepMessage(
        job_id=job_id,
        caller="anonymous",
        subject="doctor-1",
        priority="interactive",
        recipe="portrait",
        recipe_version=1,
        steps=steps,
        cursor=0,
        artifacts={"request.photos": (PICTURE,)},
        result="base.image",
        verdict="score.verdict",
    )


def job(job_id: str = "job-1", **fields: Any) -> Job:
    """A job just accepted."""
    return Job(
        **{
            "job_id": job_id,
            "caller": "anonymous",
            "subject": "doctor-1",
            "state": "accepted",
            "request": request(),
            "brief": BRIEF,
            "first_message": first_message(job_id),
            "steps": tuple(StepState(step=step, state="waiting") for step in STEPS),
            "created_at": DAWN,
            "updated_at": DAWN,
            **fields,
        }
    )


def event(kind: EventKind, step: str | None = None, *, job_id: str = "job-1", **fields: Any) -> Event:
    """An event; its id is made of what it says, so the same event made twice is the same event."""
    told = "-".join(str(part) for part in (job_id, kind, step, *fields.values()) if isinstance(part, str | int | float))
    details = {"event_id": told, "attempt": 1 if step else None, "at": at(1), **fields}
    return Event(kind=kind, job_id=job_id, caller="anonymous", subject="doctor-1", worker="w1", step=step, **details)


def history(job_id: str = "job-1") -> tuple[Event, ...]:
    """All that is told of a job that goes well, progress apart."""
    told = [event("accepted", job_id=job_id)]
    for step in STEPS:
        told += [event("started", step, job_id=job_id), event("finished", step, job_id=job_id, record=record_of(step))]
    return (*told, event("done", job_id=job_id, at=at(9), result=RESULT))
