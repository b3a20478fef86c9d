"""What leaves a worker after a step: decided here as plain values, sent by the worker in this order."""

from dataclasses import dataclass, field
from random import Random

from shared.broker.holding import HOLDS_HEADER, holds_for
from shared.broker.port import Delivery, Outgoing
from shared.broker.topology import STEPS, dead_queue, queue_name, retry_queue, routing_key
from shared.contracts.attempt import Attempt
from shared.contracts.base import MESSAGE_LIMIT_BYTES, Contract, Digest, now
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.errors import (
    Cancelled,
    DeadlineExceeded,
    DoctorGenError,
    InvalidInput,
    Permanent,
    ResourceExhausted,
    WorkerCrashed,
)
from shared.contracts.event import EventKind, JobResult
from shared.contracts.step import ErrorAccount, Failure, StepMessage, StepRecord
from shared.contracts.verdict import VerdictSummary
from shared.worker.errors import account_of, classify, fingerprint_of
from shared.worker.events import event_id, outgoing_event, step_event, tried_mark
from shared.worker.retry import RetryPolicy
from shared.worker.step import rewind

LOST_AGAIN = "Look for what deletes or alters objects in the store (disks, lifecycle rules, other users), then replay."


@dataclass(frozen=True)
class Dispatch:
    """`first` must be confirmed before `then` counts; the delivery is acknowledged after both.

    `died` is the error that the job ends with, where it does: `first` is then its letter, and `then` tells of the end.
    """

    first: Outgoing
    then: tuple[Outgoing, ...] = ()
    died: ErrorAccount | None = None


@dataclass(frozen=True)
class Origin:
    """Who speaks, and under which policy."""

    worker: str
    policy: RetryPolicy = field(default_factory=RetryPolicy)


def wire(document: Contract) -> bytes:
    """The document's bytes, held to the size that every message keeps.

    Raises:
        Permanent: it is larger.
    """
    body = document.to_json()
    if len(body) > MESSAGE_LIMIT_BYTES:
        raise Permanent(
            f"a {type(document).__name__} of {len(body)} bytes exceeds the {MESSAGE_LIMIT_BYTES} of a message"
        )
    return body


def step_outgoing(message: StepMessage) -> Outgoing:
    """The message, addressed to the stage of its current step."""
    key = routing_key(message.step.stage, message.priority)
    return Outgoing(STEPS, key, wire(message), _name_of(message))


def _name_of(message: StepMessage) -> str:
    return ".".join(map(str, (message.job_id, message.run, message.step.name, *tried_mark(message.tried))))


def advanced(done: StepMessage, record: StepRecord, ahead: StepMessage, origin: Origin) -> Dispatch:
    """The step is finished and another follows."""
    finished = step_event(done, "finished", origin.worker, record=record)
    return Dispatch(step_outgoing(ahead), (outgoing_event(finished),))


def only_result(ahead: StepMessage, summary: VerdictSummary) -> JobResult:
    """What a job without a gate leaves."""
    spent = [entry for entry in ahead.trail if not entry.reused]
    return JobResult(
        image=ahead.artifacts[ahead.result][0],
        verdict=ahead.artifacts[ahead.verdict][0],
        summary=summary,
        trail=ahead.trail,
        seconds=sum(entry.seconds for entry in spent),
        cost_usd=sum(entry.cost_usd for entry in spent),
    )


def completed(done: StepMessage, record: StepRecord | None, result: JobResult, origin: Origin) -> Dispatch:
    """The job is finished, and so is its step, where there is a record of it."""
    end = outgoing_event(step_event(done, "done", origin.worker, result=result))
    if record is None:
        return Dispatch(end)
    return Dispatch(outgoing_event(step_event(done, "finished", origin.worker, record=record)), (end,))


def sent_back(done: StepMessage, record: StepRecord, again: StepMessage, failed: Attempt, origin: Origin) -> Dispatch:
    """The last step is finished, its picture did not pass, and the job makes another attempt."""
    finished = step_event(done, "finished", origin.worker, record=record)
    back = step_event(done, "regenerating", origin.worker, attempted=failed)
    return Dispatch(step_outgoing(again), (outgoing_event(finished), outgoing_event(back)))


def failed(
    message: StepMessage,
    error: Exception,
    origin: Origin,
    rng: Random,
    key: Digest | None = None,
    smaller_plans: int = 0,
) -> Dispatch:
    """The step failed: on to a retry queue, to the dead letters, or an end that is no failure at all.

    Out of memory, it is tried again with the operation's next smaller plan, where it has one.
    """
    kind = classify(error)
    account = account_of(error)
    if kind is Cancelled:
        return Dispatch(outgoing_event(step_event(message, "cancelled", origin.worker)))
    if kind is DeadlineExceeded:
        return Dispatch(outgoing_event(step_event(message, "expired", origin.worker, error=account)))
    tried = _tried(message, account, origin)
    if kind is ResourceExhausted and message.plan < smaller_plans:
        tried = tried.model_copy(update={"plan": message.plan + 1})
    return _again_or_dead(message, tried, account, kind, origin, rng, key)


def repaired(message: StepMessage, broken: str, error: Exception, origin: Origin, rng: Random) -> Dispatch:
    """An input that the step `broken` made cannot be used: back to that step, which makes it again.

    That is a failed attempt at the message's step, and stays one though the other succeeds: so attempts are bounded.
    """
    account = account_of(error)
    waiting = message.waiting or {}
    if message.step.name in waiting:
        found = f"{account.message}, though its step '{broken}' had made it again"
        account = account.model_copy(update={"message": found[:1000], "hint": LOST_AGAIN})
    tried = _tried(message, account, origin)
    back = rewind(tried, broken).model_copy(
        update={
            "plan": (message.plans or {}).get(broken, 0),
            "plans": message.plans,
            "waiting": {**waiting, message.step.name: tried.attempts},
        }
    )
    return _again_or_dead(message, back, account, classify(error), origin, rng, None)


def crashed(message: StepMessage, crashes: int, origin: Origin, rng: Random) -> Dispatch | None:
    """To the dead letters, where workers have died of the message as often as the policy allows; else None."""
    attempts = message.attempts + crashes
    rule = origin.policy.rule(message.step.stage, WorkerCrashed.__name__)
    if not crashes or attempts < rule.attempts:
        return None
    error = WorkerCrashed(f"the worker that had the step went away {crashes} times without a word")
    exhausted = message.model_copy(update={"attempts": attempts - 1})
    return failed(exhausted, error, origin, rng)


def _tried(message: StepMessage, account: ErrorAccount, origin: Origin) -> StepMessage:
    latest = Failure(at=now(), worker=origin.worker, error=_short(account))
    return message.model_copy(update={"attempts": message.attempts + 1, "failures": (*message.failures[:1], latest)})


def _again_or_dead(
    message: StepMessage,
    tried: StepMessage,
    account: ErrorAccount,
    kind: type[DoctorGenError],
    origin: Origin,
    rng: Random,
    key: Digest | None,
) -> Dispatch:
    tried = _without_tracebacks(tried) if len(tried.to_json()) > MESSAGE_LIMIT_BYTES else tried
    failing_for_s = (now() - tried.failures[0].at).total_seconds()
    stage = message.step.stage
    delay_ms = origin.policy.delay_ms(stage, kind.__name__, tried.attempts, failing_for_s, rng)
    if delay_ms is None or len(tried.to_json()) > MESSAGE_LIMIT_BYTES:
        return _dead(message, tried, account, kind, origin, key)
    again = _delayed(tried, delay_ms, origin.policy.native_ms)
    retrying = step_event(message, "retrying", origin.worker, error=_short(account), retry_in_s=delay_ms / 1000)
    return Dispatch(again, (outgoing_event(retrying),))


def _without_tracebacks(tried: StepMessage) -> StepMessage:
    """What is large and can be spared: the workers' logs have it, and so has the letter, should it come to one."""
    failures = tuple(
        failure.model_copy(update={"error": failure.error.model_copy(update={"traceback": ""})})
        for failure in tried.failures
    )
    return tried.model_copy(update={"failures": failures})


def _delayed(tried: StepMessage, delay_ms: int, native_ms: tuple[int, int] | None) -> Outgoing:
    name = f"{_name_of(tried)}.{tried.attempts}"
    if native_ms is None:
        return Outgoing("", retry_queue(tried.step.stage, tried.priority, delay_ms), wire(tried), name)
    holds = {HOLDS_HEADER: str(holds_for(delay_ms, native_ms))}
    return Outgoing(STEPS, routing_key(tried.step.stage, tried.priority), wire(tried), name, holds)


def _dead(
    message: StepMessage,
    tried: StepMessage,
    account: ErrorAccount,
    kind: type[DoctorGenError],
    origin: Origin,
    key: Digest | None,
) -> Dispatch:
    inputs = {name: message.artifacts.get(slot, ()) for name, slot in message.step.inputs.items()}
    letter = DeadLetter(
        letter_id=event_id(
            message.job_id, message.step.name, "dead", message.run, tried.attempts, *tried_mark(message.tried)
        ),
        fingerprint=fingerprint_of(message.step.stage, account),
        queue=queue_name(message.step.stage, message.priority),
        died_at=now(),
        worker=origin.worker,
        job_id=message.job_id,
        batch_id=message.batch_id,
        caller=message.caller,
        subject=message.subject,
        run=message.run,
        step=message.step.name,
        step_key=key,
        input_digests={name: tuple(ref.sha256 for ref in refs) for name, refs in inputs.items()},
        attempts=tried.attempts,
        error=account,
        message=tried,
    )
    ended: EventKind = "refused" if issubclass(kind, InvalidInput) else "dead"
    return Dispatch(
        Outgoing("", dead_queue(message.step.stage), letter.to_json(), letter.letter_id),
        (outgoing_event(step_event(message, ended, origin.worker, error=_short(account))),),
        account,
    )


def unreadable(stage: str, delivery: Delivery, error: Exception, worker: str) -> Dispatch:
    """A message that is none of ours: kept with its reason, the consumer lives on."""
    account = account_of(error)
    letter = DeadLetter(
        letter_id=event_id(stage, delivery.body.hex()),
        fingerprint=fingerprint_of(stage, account),
        queue=queue_name(stage),
        died_at=now(),
        worker=worker,
        attempts=1,
        error=account,
        body=delivery.body[:MESSAGE_LIMIT_BYTES].decode(errors="replace"),
    )
    return Dispatch(Outgoing("", dead_queue(stage), letter.to_json(), letter.letter_id))


def _short(account: ErrorAccount) -> ErrorAccount:
    return account.model_copy(update={"message": account.message[:500], "traceback": account.traceback[-600:]})
