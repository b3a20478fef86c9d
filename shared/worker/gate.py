"""Whether a job tries again for a picture that passes, with what, and which attempt is kept. Pure functions.

The same job makes the same attempts, on whatever machine and however often it is delivered: seeds follow from the seeds
before, weights from the verdict. So what is known of steps and manifests holds for every attempt.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from shared.contracts.artifacts import ArtifactRef
from shared.contracts.attempt import CHECK_NAME_CHARACTERS, MOST_CHECKS, Attempt, AttemptError, PinnedGate
from shared.contracts.attempts import AttemptRecord
from shared.contracts.errors import Permanent
from shared.contracts.event import JobResult
from shared.contracts.gate import WEIGHT
from shared.contracts.step import ErrorAccount, PinnedStep, StepMessage, StepRecord
from shared.contracts.verdict import LIKENESS, SAME_PERSON, Verdict
from shared.storage.digest import sha256
from shared.worker.step import rewind


def attempt_of(
    ahead: StepMessage, gate: PinnedGate, verdict: Verdict, before: Sequence[AttemptRecord] = ()
) -> AttemptRecord:
    """The attempt that a job has just finished, after those `before`. `ahead` is its message after the last step."""
    again = ahead.steps_again
    _, trail = _parted(ahead)
    seconds, cost_usd = _spent(trail, before)
    failed = [check.name[:CHECK_NAME_CHARACTERS] for check in verdict.checks if not check.passed]
    attempt = Attempt(
        number=gate.finished + 1,
        seed=_seed_of(again),
        identity_weight=_weight_of(again),
        image=ahead.artifacts[ahead.result][0],
        verdict=ahead.artifacts[ahead.verdict][0],
        passed=verdict.passed,
        identity_score=verdict.likeness.score if verdict.likeness else None,
        failed=tuple(failed[:MOST_CHECKS]),
        seconds=seconds,
        cost_usd=cost_usd,
    )
    return AttemptRecord(attempt=attempt, summary=verdict.summary(), trail=trail)


def broken_off(message: StepMessage, gate: PinnedGate, error: ErrorAccount, before: Sequence[AttemptRecord]) -> Attempt:
    """The attempt that an error has ended at the message's step: it has no picture, and cost what it had begun."""
    again = message.steps_again
    _, begun = _parted(message)
    seconds, cost_usd = _spent(begun, before)
    return Attempt(
        number=gate.finished + 1,
        seed=_seed_of(again),
        identity_weight=_weight_of(again),
        passed=False,
        seconds=seconds,
        cost_usd=cost_usd,
        error=AttemptError(
            step=message.step.name,
            kind=error.kind,
            message=error.message[:500],
            field=error.field,
            hint=error.hint[:500],
        ),
    )


def borrowed(records: Sequence[AttemptRecord]) -> tuple[StepRecord, ...]:
    """What another job had computed of the last attempt alone: of a further one it may have computed nothing."""
    *before, last = records
    known = _keys(before)
    return tuple(record for record in last.trail if record.reused and record.key not in known)


def goes_on(
    ahead: StepMessage, gate: PinnedGate, records: Sequence[AttemptRecord], at: datetime, borrowed_usd: float = 0.0
) -> bool:
    """Whether another attempt is made after these, the last of which is just finished.

    Not once one has passed or the attempts are used up; nor where one more, as dear and as long as the last, would
    cost the job more than its budget or end after its deadline. `borrowed_usd` is what `borrowed(records)` cost others.
    Once the deadline has passed nothing is computed, and attempts that were made before are found until one is not.
    """
    last = records[-1].attempt
    if last.passed or last.number >= gate.attempts:
        return False
    earlier, _ = _parted(ahead)
    so_far = _spent(earlier)[1] + sum(record.attempt.cost_usd for record in records)
    if gate.max_cost_usd is not None and so_far + last.cost_usd + borrowed_usd > gate.max_cost_usd:
        return False
    if ahead.deadline is None or ahead.deadline < at:
        return True
    return at + timedelta(seconds=last.seconds) <= ahead.deadline


def next_attempt(ahead: StepMessage, gate: PinnedGate, last: Attempt, record: ArtifactRef) -> StepMessage:
    """The message on its way back: other seeds, and identity weights raised where the likeness was too low.

    What earlier steps made stays, so that no identity is encoded twice. A picture that failed for another reason keeps
    its weight: a stronger hold costs variety, and would mend nothing. A weight of 0 was switched off, and stays so. A
    step that had run out of memory begins with the plan that was small enough, which gives the same bytes.
    """
    back = rewind(ahead, gate.back_to)
    alike = not _too_unlike(last)
    steps = [
        step if place < back.cursor else _varied(step, gate, last.number + 1, same_weight=alike)
        for place, step in enumerate(back.steps)
    ]
    counted = gate.model_copy(update={"finished": last.number, "record": record})
    plan = (ahead.plans or {}).get(gate.back_to, 0)
    return back.model_copy(update={"steps": tuple(steps), "gate": counted, "plan": plan, "plans": ahead.plans})


def best_of(records: Iterable[AttemptRecord]) -> AttemptRecord:
    """Passed before failed, then the more alike, then the one with fewer failed checks, then the earlier."""

    def merit(record: AttemptRecord) -> tuple[bool, float, int, int]:
        attempt = record.attempt
        score = -1.0 if attempt.identity_score is None else attempt.identity_score
        return attempt.passed, score, -len(attempt.failed), -attempt.number

    return max(records, key=merit)


def judged(
    message: StepMessage, gate: PinnedGate, records: Sequence[AttemptRecord], error: ErrorAccount | None = None
) -> JobResult:
    """What a job leaves that made these attempts.

    What it began of a further one counts for its cost alone, unless an error ended it: then it is told as an attempt.

    Raises:
        Permanent: the best of the attempts has no picture.
    """
    best = best_of(records)
    image, verdict = best.attempt.image, best.attempt.verdict
    if image is None or verdict is None:
        raise Permanent(f"attempt {best.attempt.number} of job {message.job_id} has no picture")
    earlier, begun = _parted(message)
    attempts = [record.attempt for record in records]
    if error is not None:
        attempts.append(broken_off(message, gate, error, records))
    if attempts[-1].number > gate.finished:
        begun = ()
    seconds, cost_usd = _spent((*earlier, *begun), records)
    return JobResult(
        image=image,
        verdict=verdict,
        summary=best.summary,
        trail=(*earlier, *best.trail),
        seconds=seconds + sum(attempt.seconds for attempt in attempts),
        cost_usd=cost_usd + sum(attempt.cost_usd for attempt in attempts),
        attempts=tuple(attempts),
        kept=best.attempt.number,
    )


def _parted(message: StepMessage) -> tuple[tuple[StepRecord, ...], tuple[StepRecord, ...]]:
    """The trail of the steps that are done once, and of those that each attempt does again."""
    again = {step.name for step in message.steps_again}
    once = tuple(record for record in message.trail if record.step not in again)
    return once, tuple(record for record in message.trail if record.step in again)


def _keys(records: Iterable[AttemptRecord]) -> frozenset[str]:
    return frozenset(step.key for record in records for step in record.trail)


def _spent(trail: Iterable[StepRecord], before: Iterable[AttemptRecord] = ()) -> tuple[float, float]:
    """Worker seconds and cost; what another job or an attempt before had computed is no further expense of this one."""
    paid = _keys(before)
    own = [record for record in trail if not record.reused and record.key not in paid]
    return sum(record.seconds for record in own), sum(record.cost_usd for record in own)


def _too_unlike(attempt: Attempt) -> bool:
    """Whether a face was there and was not the subject's: where none was found, the weight says nothing."""
    score = attempt.identity_score
    return score is not None and (LIKENESS in attempt.failed or score < SAME_PERSON)


def _varied(step: PinnedStep, gate: PinnedGate, number: int, *, same_weight: bool) -> PinnedStep:
    changes: dict[str, object] = {}
    if step.seed is not None:
        changes["seed"] = int(sha256(f"{step.seed}/attempt/{number}".encode())[:8], 16)
    weight = _weight(step)
    if weight and not same_weight:
        raised = max(weight, min(gate.identity_weight_most, round(weight + gate.identity_weight_step, 4)))
        changes["params"] = {**step.params, WEIGHT: raised}
    return step.model_copy(update=changes)


def _seed_of(again: Iterable[PinnedStep]) -> int | None:
    return next((step.seed for step in again if step.seed is not None), None)


def _weight_of(again: Iterable[PinnedStep]) -> float | None:
    return next((weight for step in again if (weight := _weight(step)) is not None), None)


def _weight(step: PinnedStep) -> float | None:
    weight = step.params.get(WEIGHT)
    return float(weight) if isinstance(weight, int | float) and not isinstance(weight, bool) else None
