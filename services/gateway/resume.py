"""Takes up the jobs that were in flight in an embedded pipeline whose process is gone.

Whoever calls this holds the pipeline's lock: no message of these jobs is anywhere, the queues ended with the process.
"""

import logging

from services.gateway.evidence import current_step
from services.gateway.rescue import publish_again
from shared.broker.port import Broker
from shared.broker.topology import queue_name
from shared.contracts.base import now
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.errors import WorkerCrashed
from shared.contracts.event import Event, EventKind
from shared.contracts.step import ErrorAccount, PinnedStep, StepMessage
from shared.jobs.journal import tried_of
from shared.jobs.port import Job, JobStore
from shared.worker.errors import fingerprint_of
from shared.worker.events import event_id, tried_mark
from shared.worker.retry import RetryPolicy

log = logging.getLogger(__name__)

AT_WORK = frozenset({"running", "retrying"})


def crashes_of(job: Job) -> int:
    """How often the job's process has ended at the step that the job has come to, this time included."""
    step = current_step(job)
    state = next((state for state in job.steps if step is not None and state.step == step.name), None)
    if state is None or state.state not in AT_WORK:
        return 0
    return max(1, state.attempts) if state.state == "running" else state.attempts + 1


def resume(broker: Broker, jobs: JobStore, policy: RetryPolicy, worker: str) -> int:
    """Publish what was in flight once more; of how many jobs. Manifests let each go on at its last finished step.

    The end of the process counts as a crash of the steps it was at. A job with as many crashes at one step as the
    policy allows goes to the dead letters: it may be what ends the process each time. Where finished attempts at its
    picture stand, it goes on all the same, through these alone; but not for ever, for what the store has lost of them
    is made again, and may end the process as well.
    """
    going_on = []
    for job in jobs.released():
        step, crashes = current_step(job), crashes_of(job)
        if job.first_message is None or step is None:
            continue
        limit = policy.rule(step.stage, WorkerCrashed.__name__).attempts
        goes_on: Job | None = job
        if crashes >= limit:
            log.warning("job %s goes to the dead letters: its process ended %d times at it", job.job_id, crashes)
            jobs.file_letter(_letter(job.first_message, step, min(crashes, limit), worker))
            goes_on = _without_further_attempts(job, job.first_message) if crashes < 2 * limit else None
        if crashes:
            jobs.record(_event(job, step, "retrying" if goes_on else "dead", crashes, worker))
        if goes_on:
            going_on.append(goes_on)
    return publish_again(broker, going_on)


def _without_further_attempts(job: Job, message: StepMessage) -> Job | None:
    """The job with a message that makes the attempts which it has finished, and finds their every step done.

    None where its run has finished none.
    """
    finished = tried_of(job)
    if message.gate is None or finished <= message.tried:
        return None
    gate = message.gate.model_copy(update={"attempts": finished})
    return job.model_copy(update={"first_message": message.model_copy(update={"gate": gate})})


def _account(step: PinnedStep, crashes: int) -> ErrorAccount:
    return ErrorAccount(
        kind=WorkerCrashed.__name__,
        type=WorkerCrashed.__name__,
        message=f"the process ended {crashes} times while it was at step '{step.name}'",
        hint=WorkerCrashed.hint,
    )


def _event(job: Job, step: PinnedStep, kind: EventKind, crashes: int, worker: str) -> Event:
    tried = tried_of(job)
    return Event(
        event_id=event_id(job.job_id, job.run, step.name, kind, "process ended", crashes, *tried_mark(tried)),
        kind=kind,
        job_id=job.job_id,
        batch_id=job.batch_id,
        caller=job.caller,
        subject=job.subject,
        at=now(),
        worker=worker,
        run=job.run,
        step=step.name,
        stage=step.stage,
        attempt=crashes,
        tried=tried or None,
        error=_account(step, crashes),
    )


def _letter(message: StepMessage, step: PinnedStep, crashes: int, worker: str) -> DeadLetter:
    account = _account(step, crashes)
    return DeadLetter(
        letter_id=event_id(message.job_id, message.run, "process ended", crashes),
        fingerprint=fingerprint_of(step.stage, account),
        queue=queue_name(step.stage, message.priority),
        died_at=now(),
        worker=worker,
        job_id=message.job_id,
        batch_id=message.batch_id,
        caller=message.caller,
        subject=message.subject,
        run=message.run,
        step=step.name,
        attempts=crashes,
        error=account,
        message=message,
    )
