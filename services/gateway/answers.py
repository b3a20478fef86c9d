"""What the gateway tells of a request: accepted, refused, turned away, or kept among the dead letters."""

from shared.broker.port import Delivery, Outgoing
from shared.broker.topology import INTAKE_KEY, dead_queue, queue_name
from shared.contracts.base import MESSAGE_LIMIT_BYTES, now
from shared.contracts.dead_letter import LINEAGE_HEADER, DeadLetter
from shared.contracts.errors import DoctorGenError
from shared.contracts.event import Event, EventKind
from shared.contracts.request import JobRequest
from shared.contracts.step import ErrorAccount
from shared.jobs.port import Job
from shared.worker.errors import account_of, fingerprint_of
from shared.worker.events import event_id, outgoing_event

NO_JOB_HEADER = "x-no-job"
"""Of an event about a request that became no job: the journal leaves it, and the same job id may be filed again."""


def standing(job: Job, worker: str) -> tuple[Outgoing, ...]:
    """The event about a job that has just been noted, or stood already: told again, it keeps its id."""
    if job.state == "refused":
        return (outgoing_event(_event(job, "refused", event_id(job.job_id, "refused"), worker, job.error)),)
    if job.state in {"accepted", "running"}:
        return (outgoing_event(_event(job, "accepted", event_id(job.job_id, "accepted"), worker)),)
    return ()


def cancelled(job: Job, worker: str) -> Event:
    """The end of a job that was called off: the same event as of a worker that drops the job."""
    return _event(job, "cancelled", event_id(job.job_id, job.run, "cancelled"), worker)


def turned_away(request: JobRequest, job_id: str, error: ErrorAccount, worker: str) -> Outgoing:
    """A request is refused and no job is noted, so that it may be submitted again."""
    return _about_no_job(request, job_id, "refused", error, worker)


def kept(
    delivery: Delivery,
    account: ErrorAccount,
    worker: str,
    attempts: int,
    known: tuple[JobRequest, str] | None = None,
) -> tuple[Outgoing, ...]:
    """What cannot be taken in lies among the dead letters; its caller is told where `known` says whose job it is."""
    lineage = delivery.headers.get(LINEAGE_HEADER, "")
    request, job_id = known or (None, None)
    letter = DeadLetter(
        letter_id=event_id(INTAKE_KEY, delivery.body.hex(), lineage),
        fingerprint=fingerprint_of(INTAKE_KEY, account),
        queue=queue_name(INTAKE_KEY),
        died_at=now(),
        worker=worker,
        job_id=job_id,
        batch_id=request.batch_id if request else None,
        caller=request.caller if request else None,
        subject=request.subject if request else None,
        attempts=attempts,
        error=account,
        body=delivery.body[:MESSAGE_LIMIT_BYTES].decode(errors="replace"),
    )
    outgoing = Outgoing("", dead_queue(INTAKE_KEY), letter.to_json(), letter.letter_id)
    if known is None:
        return (outgoing,)
    return outgoing, _about_no_job(*known, "dead", _short(account), worker)


def no_room(caller: str, wait_s: int) -> ErrorAccount:
    """Why a request is turned away when too many jobs wait."""
    return ErrorAccount(
        kind="ResourceExhausted",
        type="NoRoom",
        message=f"as many jobs wait as may, in all or of the caller '{caller}'",
        hint=f"Try again in {wait_s} seconds.",
    )


def account(error: DoctorGenError) -> ErrorAccount:
    """The error without the traceback, which is of no use to a caller."""
    return account_of(error).model_copy(update={"traceback": ""})


def _about_no_job(request: JobRequest, job_id: str, kind: EventKind, error: ErrorAccount, worker: str) -> Outgoing:
    at = now()
    event = Event(
        event_id=event_id(job_id, kind, "no job", at.isoformat()),
        kind=kind,
        job_id=job_id,
        batch_id=request.batch_id,
        caller=request.caller,
        subject=request.subject,
        at=at,
        worker=worker,
        error=error,
    )
    told = outgoing_event(event)
    return Outgoing(told.exchange, told.routing_key, told.body, told.message_id, {NO_JOB_HEADER: "1"})


def _event(job: Job, kind: EventKind, name: str, worker: str, error: ErrorAccount | None = None) -> Event:
    return Event(
        event_id=name,
        kind=kind,
        job_id=job.job_id,
        batch_id=job.batch_id,
        caller=job.caller,
        subject=job.subject,
        at=now(),
        worker=worker,
        run=job.run,
        error=error,
    )


def _short(account: ErrorAccount) -> ErrorAccount:
    return account.model_copy(update={"message": account.message[:500], "traceback": account.traceback[-600:]})
