"""How a dead letter is replayed: decided here as plain values, published by `doctor_image_gen.dead`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from shared.broker.port import Outgoing
from shared.broker.topology import BATCH_KEY, EVENTS, INTAKE, INTAKE_KEY, JOURNAL
from shared.contracts.base import Contract, Parameters
from shared.contracts.batch import BatchRequest
from shared.contracts.dead_letter import LINEAGE_HEADER, DeadLetter
from shared.contracts.errors import DoctorGenError, InvalidInput
from shared.contracts.event import Event
from shared.contracts.nearest import nearest
from shared.contracts.recipe import judged_by_size
from shared.contracts.request import JobRequest
from shared.contracts.step import Lineage, PinnedStep, StepMessage
from shared.jobs.port import Job
from shared.worker.dispatch import step_outgoing, wire
from shared.worker.events import outgoing_event, step_event
from shared.worker.operation import Operation
from shared.worker.step import rewind

Operations = Mapping[str, Operation]


@dataclass(frozen=True)
class Wish:
    """What a replay is to do otherwise than the attempt that failed."""

    from_step: str | None = None
    overrides: Mapping[str, Parameters] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a replay publishes, in this order. `message` is None where a request or an event goes in again."""

    letter: DeadLetter
    outgoing: tuple[Outgoing, ...]
    message: StepMessage | None
    words: str


class GoneOnError(DoctorGenError):
    """The job has been replayed already, or has ended well after all: there is nothing to replay."""

    hint = "Discard the letter."


def plan_replay(letter: DeadLetter, job: Job | None, wish: Wish, by: str, at: datetime, operations: Operations) -> Plan:
    """What to publish so that the letter's message is worked off again.

    Args:
        letter: the dead letter.
        job: its job as the journal knows it, or None where it knows none.
        wish: where to start, and with which other parameters.
        by: who replays it.
        at: now.
        operations: what the stages can do, by name.

    Raises:
        InvalidInput: the wish does not fit the job, the job was cancelled, or the letter cannot be read.
        GoneOnError: the job needs no replay.
        Permanent: the message would be too large.
    """
    message = message_of(letter)
    if message is None:
        return _plan_body(letter, wish)
    _check_job(letter, job)
    run = max(letter.run, message.run, job.run if job else 0) + 1
    again = replay_message(letter, message, wish, run, by, at, operations)
    told = step_event(again, "replayed", by)
    return Plan(letter, (step_outgoing(again), outgoing_event(told)), again, _in_words(message, again, wish))


def replay_message(
    letter: DeadLetter, message: StepMessage, wish: Wish, run: int, by: str, at: datetime, operations: Operations
) -> StepMessage:
    """The letter's message as the first of a new run.

    The run starts at the step where the job died, or at an earlier one; what later steps had made is forgotten, what
    earlier ones made is kept. Steps from there on are pinned to the versions that the operations have now. Attempts
    are counted anew; a deadline that has passed is dropped.

    Raises:
        InvalidInput: there is no such step, it has not been reached, or a parameter is unknown or out of range.
    """
    start = message.step.name if wish.from_step is None else wish.from_step
    _check_start(message, start)
    _check_overridden(message, start, wish.overrides)
    inputs = {step.name: step.inputs for step in message.steps}
    overrides = judged_by_size(wish.overrides, inputs, message.result, message.verdict)
    back = rewind(message, start)
    steps = [
        step if place < back.cursor else _pinned_anew(step, overrides.get(step.name, {}), operations)
        for place, step in enumerate(back.steps)
    ]
    again = back.model_copy(
        update={
            "steps": tuple(steps),
            "run": run,
            "lineage": Lineage(letter_id=letter.letter_id, by=by[:100], at=at),
            "attempts": 0,
            "failures": (),
            "deadline": None if message.deadline is not None and message.deadline <= at else message.deadline,
        }
    )
    _check_inputs(again)
    return again


def message_of(letter: DeadLetter) -> StepMessage | None:
    """The step message in a letter, be it that a newer version of ours can read its body; None where there is none."""
    if letter.message is not None or letter.body is None or _owner_of(letter.queue) in {INTAKE_KEY, JOURNAL}:
        return letter.message
    try:
        return StepMessage.from_json(letter.body)
    except InvalidInput as error:
        raise _unreadable(letter, error) from error


def _plan_body(letter: DeadLetter, wish: Wish) -> Plan:
    if wish.from_step is not None or wish.overrides:
        field = "overrides" if wish.from_step is None else "from_step"
        raise InvalidInput(field, "this letter holds no step, but what came before the first", "Replay it as it is.")
    document, exchange, key, words = _document_of(letter)
    headers = {LINEAGE_HEADER: letter.letter_id}
    outgoing = Outgoing(exchange, key, wire(document), f"{letter.letter_id}.again", headers)
    return Plan(letter, (outgoing,), None, words)


def _document_of(letter: DeadLetter) -> tuple[Contract, str, str, str]:
    """What a letter's body is, the exchange and key it is published to, and that in words."""
    body = letter.body or ""
    owner = _owner_of(letter.queue)
    try:
        if owner == JOURNAL:
            event = Event.from_json(body)
            return event, EVENTS, event.routing_key, f"tell the journal again that job {event.job_id} is {event.kind}"
        try:
            return JobRequest.from_json(body), INTAKE, INTAKE_KEY, "hand the request to the intake again"
        except InvalidInput:
            if '"subjects"' not in body:
                raise
            return BatchRequest.from_json(body), INTAKE, BATCH_KEY, "hand the batch to the intake again"
    except InvalidInput as error:
        raise _unreadable(letter, error) from error


def _unreadable(letter: DeadLetter, error: InvalidInput) -> InvalidInput:
    return InvalidInput(
        "letter",
        f"{letter.letter_id} holds what still cannot be read ({error.field}: {error.found.rstrip('.')})",
        f"{error.mend} Export it to see its body; discard it if it is nobody's.",
    )


def _owner_of(queue: str) -> str:
    """The stage, `intake` or `journal` whose queue this is: the second word of its name."""
    return [*queue.split("."), ""][1]


def _check_job(letter: DeadLetter, job: Job | None) -> None:
    if job is None:
        return
    if job.state == "done" or (job.run > letter.run and job.state in {"accepted", "running"}):
        raise GoneOnError(f"job {job.job_id} is {job.state} in its run {job.run}; this letter is of run {letter.run}")
    if job.state == "cancelled":
        raise InvalidInput("letter", f"its job {job.job_id} was cancelled", "Submit the job again if it is wanted.")


def _check_start(message: StepMessage, start: str) -> None:
    names = [step.name for step in message.steps]
    if start not in names:
        raise InvalidInput("from_step", f"job {message.job_id} has no step '{start}'", nearest(start, names))
    if names.index(start) > message.cursor:
        found = f"'{start}' comes after '{message.step.name}', which has not been done"
        raise InvalidInput("from_step", found, f"Name one of: {', '.join(names[: message.cursor + 1])}.")


def _check_overridden(message: StepMessage, start: str, overrides: Mapping[str, Parameters]) -> None:
    names = [step.name for step in message.steps]
    for name in overrides:
        if name not in names:
            raise InvalidInput(
                f"overrides.{name}", f"job {message.job_id} has no step of that name", nearest(name, names)
            )
        if names.index(name) < names.index(start):
            found = f"the replay starts after it, at '{start}', so it would change nothing"
            raise InvalidInput(f"overrides.{name}", found, f"Replay from '{name}'.")


def _check_inputs(message: StepMessage) -> None:
    made = {f"{step.name}" for step in message.steps[message.cursor :]}
    ahead = message.steps[message.cursor :]
    wanted = {slot: step.name for step in ahead for slot in step.inputs.values() if slot.split(".")[0] not in made}
    missing = [slot for slot in wanted if slot not in message.artifacts]
    if missing:
        found = f"the message holds no '{missing[0]}', which '{wanted[missing[0]]}' reads"
        raise InvalidInput("from_step", found, f"Replay from '{message.steps[0].name}', or submit the job again.")


def _pinned_anew(step: PinnedStep, overrides: Parameters, operations: Operations) -> PinnedStep:
    operation = operations.get(step.operation)
    spec = operation.engines.get(step.engine) if operation else None
    if operation is None or spec is None:
        if not overrides:
            return step
        found = f"its operation {step.operation} with engine {step.engine} is not known here"
        raise InvalidInput(f"overrides.{step.name}", found, "Replay with the version of doctorgen that filed the job.")
    if not overrides and operation.version == step.operation_version:
        return step
    params = spec.parse({**step.params, **overrides}, f"overrides.{step.name}").model_dump(mode="json")
    return step.model_copy(update={"params": params, "operation_version": operation.version})


def _in_words(before: StepMessage, again: StepMessage, wish: Wish) -> str:
    changed = [f"{step}.{name}={value!r}" for step, params in wish.overrides.items() for name, value in params.items()]
    versions = [
        f"{new.operation} version {new.operation_version} instead of {old.operation_version}"
        for old, new in zip(before.steps, again.steps, strict=True)
        if old.operation_version != new.operation_version
    ]
    late = ["without its deadline, which has passed"] if again.deadline != before.deadline else []
    details = [*changed, *versions, *late]
    start = f"job {again.job_id} from '{again.step.name}' as run {again.run}"
    return f"{start}, {', '.join(details)}" if details else start
