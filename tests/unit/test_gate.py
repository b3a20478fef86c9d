"""Whether a job tries again, with what, and which attempt is kept; and that messages stay as small as they must."""

from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.planner import ROOM_FOR_GROWTH_BYTES
from shared.contracts.artifacts import ArtifactRef
from shared.contracts.attempt import CHECK_NAME_CHARACTERS, MOST_CHECKS, Attempt, AttemptError, PinnedGate
from shared.contracts.attempts import AttemptRecord
from shared.contracts.base import MESSAGE_LIMIT_BYTES, now
from shared.contracts.errors import IntegrityError, Transient
from shared.contracts.event import JobResult
from shared.contracts.gate import MOST_ATTEMPTS
from shared.contracts.step import ErrorAccount, Failure, PinnedStep, StepMessage, StepRecord
from shared.contracts.verdict import Check, Likeness, Verdict, VerdictSummary
from shared.storage.digest import sha256
from shared.storage.layout import artifact_ref
from shared.worker.dispatch import Origin, completed, failed, repaired, sent_back
from shared.worker.gate import attempt_of, best_of, goes_on, judged, next_attempt
from shared.worker.retry import RetryPolicy, RetryRule

LONGEST = "s" * 64
NAMES = ("identity", "generate", "hands", "face", "face_detail", "refine", "upscale", "qa")
GATE = PinnedGate(back_to="generate", attempts=3, identity_weight_step=0.1, identity_weight_most=1.2)
AT = now()


def ref(subject: str = "dr", kind: Any = "result", data: bytes = b"") -> ArtifactRef:
    return artifact_ref(subject, kind, data, "application/octet-stream" if kind == "identity" else "image/png")


def message(gate: PinnedGate | None = GATE, subject: str = "dr", seed: int = 7, **fields: Any) -> StepMessage:
    """As it stands after its last step: everything is there."""
    steps = tuple(
        PinnedStep(
            name=name,
            operation="qa.any",
            operation_version=1,
            engine="flux",
            params={"identity_weight": 0.85} if name in {"generate", "face_detail"} else {"strength": 0.5},
            seed=None if name in {"identity", "upscale", "qa"} else seed,
            inputs={},
        )
        for name in NAMES
    )
    whole: dict[str, Any] = {
        "job_id": "job-1",
        "caller": "tester",
        "subject": subject,
        "priority": "interactive",
        "recipe": "portrait",
        "recipe_version": 2,
        "steps": steps,
        "cursor": len(steps) - 1,
        "artifacts": {f"{name}.image": (ref(subject),) for name in NAMES} | {"request.photos": (ref(subject),)},
        "result": "upscale.image",
        "verdict": "qa.image",
        "trail": tuple(spent(name) for name in NAMES),
        "gate": gate,
    }
    return StepMessage(**{**whole, **fields})


def spent(step: str, seconds: float = 10.0, cost_usd: float = 0.5, number: int = 0) -> StepRecord:
    """Of attempt `number`: another attempt's step has another key."""
    key = sha256(f"{step}/{number}".encode())
    return StepRecord(step=step, engine="flux", key=key, reused=False, seconds=seconds, cost_usd=cost_usd)


def verdict(score: float | None, *failed: str) -> Verdict:
    checks = tuple(Check(name=name, passed=False, bound="so", reason=f"{name} is bad.") for name in failed)
    likeness = None if score is None else Likeness(score=score, rating="poor", distance=1.0, encoder="none")
    return Verdict(passed=not failed, likeness=likeness, checks=checks, reasons=tuple(one.reason for one in checks))


def made(number: int, score: float | None = 0.5, *, passed: bool = False, **fields: Any) -> AttemptRecord:
    whole = {
        "number": number,
        "image": ref(data=str(number).encode()),
        "verdict": ref(kind="verdict"),
        "passed": passed,
        "identity_score": score,
        "failed": () if passed else ("likeness",),
        "seconds": 70.0,
        "cost_usd": 3.5,
        **fields,
    }
    summary = VerdictSummary(passed=passed, identity_score=score, reasons=("It is so.",))
    return AttemptRecord(
        attempt=Attempt(**whole),
        summary=summary,
        trail=tuple(spent(name, number=number) for name in ("generate", "qa")),
    )


def weights(slip: StepMessage) -> list[Any]:
    return [step.params["identity_weight"] for step in slip.steps if "identity_weight" in step.params]


def gone_back(found: Verdict, gate: PinnedGate = GATE, **fields: Any) -> StepMessage:
    ahead = message(gate, **fields)
    return next_attempt(ahead, gate, attempt_of(ahead, gate, found).attempt, ref(kind="verdict"))


def test_the_way_back_keeps_what_came_before_and_forgets_the_rest() -> None:
    again = gone_back(verdict(0.4, "likeness"))
    assert again.step.name == "generate"
    assert set(again.artifacts) == {"identity.image", "request.photos"}
    assert [record.step for record in again.trail] == ["identity"]
    assert (again.tried, again.attempts, again.failures, again.plan) == (1, 0, (), 0)


def test_every_step_that_draws_numbers_draws_others_and_always_the_same_ones() -> None:
    seeds = [[step.seed for step in gone_back(verdict(0.4, "likeness")).steps] for _ in range(2)]
    assert seeds[0] == seeds[1]
    first = message()
    changed = [old.seed != new for old, new in zip(first.steps, seeds[0], strict=True)]
    assert changed == [old.seed is not None for old in first.steps]


@pytest.mark.parametrize(
    ("found", "weight"),
    [
        (verdict(0.4, "likeness"), 0.95),
        (verdict(0.65, "likeness"), 0.95),
        (verdict(0.9, "face_sharpness"), 0.85),
        (verdict(0.9, "hands", "faces"), 0.85),
        (verdict(None, "likeness", "faces"), 0.85),
    ],
    ids=["unlike", "below-a-raised-bound", "blurred", "hands", "no-face"],
)
def test_only_a_likeness_that_is_too_low_raises_the_weight(found: Verdict, weight: float) -> None:
    assert weights(gone_back(found)) == [weight, weight]


def test_the_weight_is_never_lowered_and_one_that_is_off_stays_off() -> None:
    strong = [
        step.model_copy(update={"params": {"identity_weight": {"generate": 2.0, "face_detail": 0.0}[step.name]}})
        if "identity_weight" in step.params
        else step
        for step in message().steps
    ]
    assert weights(gone_back(verdict(0.4, "likeness"), steps=tuple(strong))) == [2.0, 0.0]


@pytest.mark.parametrize(
    ("records", "gate", "goes"),
    [
        ([made(1)], {}, True),
        ([made(1, passed=True)], {}, False),
        ([made(1), made(2)], {}, True),
        ([made(1), made(2), made(3)], {}, False),
        ([made(1)], {"max_cost_usd": 7.4}, False),
        ([made(1)], {"max_cost_usd": 7.6}, True),
        ([made(1), made(2)], {"max_cost_usd": 7.6}, False),
    ],
    ids=["failed", "passed", "failed-again", "used-up", "too-dear", "just-within", "too-dear-by-now"],
)
def test_it_goes_on_until_one_passes_or_the_budget_is_spent(
    records: list[AttemptRecord], gate: dict[str, Any], goes: bool
) -> None:
    """The identity cost 0.5 USD, each attempt 3.5."""
    pinned = GATE.model_copy(update=gate)
    assert goes_on(message(pinned), pinned, records, AT) is goes


@pytest.mark.parametrize(("left_s", "goes"), [(60, False), (80, True), (-1, True)])
def test_no_attempt_is_begun_that_would_end_after_the_deadline(left_s: float, goes: bool) -> None:
    """The last one took 70 seconds. After the deadline none is begun anyway, but those that stand are found."""
    assert goes_on(message(deadline=AT + timedelta(seconds=left_s)), GATE, [made(1)], AT) is goes


@pytest.mark.parametrize(
    ("records", "best"),
    [
        ([made(1, 0.9), made(2, 0.7, passed=True)], 2),
        ([made(1, 0.5), made(2, 0.55), made(3, 0.52)], 2),
        ([made(1, None), made(2, 0.1)], 2),
        ([made(1, 0.5, failed=("likeness", "hands")), made(2, 0.5)], 2),
        ([made(1, 0.5), made(2, 0.5)], 1),
    ],
    ids=["passed-first", "more-alike", "a-face-at-all", "fewer-reasons", "the-earlier"],
)
def test_the_best_is_kept(records: list[AttemptRecord], best: int) -> None:
    assert best_of(records).attempt.number == best
    result = judged(message(GATE.model_copy(update={"finished": len(records) - 1})), GATE, records)
    assert (result.kept, result.image) == (best, records[best - 1].attempt.image)
    assert [attempt.number for attempt in result.attempts or ()] == [record.attempt.number for record in records]


def test_what_was_begun_of_a_further_attempt_is_paid_for() -> None:
    """The job ends late, after two of the steps of its second attempt."""
    gate = GATE.model_copy(update={"finished": 1})
    late = message(gate, trail=tuple(spent(name) for name in ("identity", "generate", "hands")))
    assert judged(late, gate, [made(1)]).cost_usd == 0.5 + 3.5 + 2 * 0.5


def test_an_attempt_that_an_error_broke_off_is_told_with_what_it_had_begun() -> None:
    """The best before it is the result, and the sum is what was spent."""
    gate = GATE.model_copy(update={"finished": 1})
    broken = message(gate, trail=tuple(spent(name) for name in ("identity", "generate", "hands")), cursor=3)
    error = ErrorAccount(kind="InvalidInput", type="InvalidInput", message="no face", field="photos", hint="Another.")
    result = judged(broken, gate, [made(1)], error)
    assert (result.kept, result.cost_usd) == (1, 0.5 + 3.5 + 2 * 0.5)
    _, last = result.attempts or ()
    assert (last.number, last.image, last.seconds, last.cost_usd) == (2, None, 20.0, 1.0)
    assert last.error == AttemptError(
        step="face", kind="InvalidInput", message="no face", field="photos", hint="Another."
    )


@pytest.mark.parametrize("lacking", ["image", "verdict", "both"])
def test_an_attempt_without_a_picture_or_a_verdict_says_which_error_broke_it_off(lacking: str) -> None:
    gone: dict[str, Any] = dict.fromkeys(("image", "verdict") if lacking == "both" else (lacking,))
    with pytest.raises(ValueError, match="or an error instead"):
        made(1, **gone)


def test_what_an_attempt_finds_of_one_before_is_paid_for_once() -> None:
    """Where the gate's step draws no numbers, its further attempts find the first one's picture."""
    first = made(1)
    gate = GATE.model_copy(update={"finished": 1})
    trail = (spent("identity"), spent("generate", number=1), spent("hands", number=2))
    ahead = message(gate, trail=trail)
    second = attempt_of(ahead, gate, verdict(0.5, "likeness"), [first])
    assert (second.attempt.seconds, second.attempt.cost_usd) == (10.0, 0.5)
    assert judged(ahead, gate, [first]).cost_usd == 0.5 + 3.5 + 0.5


def test_the_step_that_is_gone_back_to_begins_with_its_own_plan_that_was_small_enough() -> None:
    plans = {"generate": 2, "upscale": 1}
    again = gone_back(verdict(0.4, "likeness"), plans=plans)
    assert (again.step.name, again.plan, again.plans) == ("generate", 2, plans)


def test_what_is_made_again_begins_with_the_plan_that_was_small_enough_and_no_count_is_lost() -> None:
    """Of several steps that wait for something each keeps its own count."""
    plans, waiting = {"generate": 2, "upscale": 1}, {"refine": 2}
    slip = message(plans=plans, waiting=waiting, attempts=1)
    policy = RetryPolicy(rules={"IntegrityError": RetryRule(attempts=4)})
    again = StepMessage.from_json(
        repaired(slip, "generate", IntegrityError("gone"), Origin("w", policy), Random(1)).first.body
    )
    assert (again.step.name, again.plan, again.plans) == ("generate", 2, plans)
    assert again.waiting == {"refine": 2, "qa": 2}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 64), st.integers(0, 2**32 - 1), st.integers(2, MOST_ATTEMPTS))
def test_a_message_gains_no_more_on_its_way_than_the_planner_leaves_room_for(
    length: int, seed: int, attempts: int
) -> None:
    """Whatever the number of attempts and the subject's name: at its last step, which has failed again and again."""
    gate = GATE.model_copy(update={"attempts": attempts, "max_cost_usd": 12.345678})
    subject = "s" * length
    first = message(gate, subject, seed, cursor=0, artifacts={"request.photos": (ref(subject),)}, trail=())
    record = artifact_ref(subject, "verdict", b"", "application/json")
    counted = gate.model_copy(update={"finished": attempts - 1, "record": record})
    error = ErrorAccount(kind="ResourceExhausted", type="OutOfMemoryError", message="e" * 500, hint="h" * 120)
    failure = Failure(at=AT, worker="node-1234567890.generate.123456", error=error)
    trail = tuple(spent(name, 123.45678901234567, 0.012345678901234567) for name in NAMES)
    small, waiting = dict.fromkeys(NAMES, 1), dict.fromkeys(NAMES, 12)
    last = message(
        counted, subject, seed, attempts=12, failures=(failure, failure), trail=trail, plans=small, waiting=waiting
    )
    assert last.size - first.size <= ROOM_FOR_GROWTH_BYTES


def test_a_message_that_its_failures_make_too_large_goes_on_without_their_tracebacks() -> None:
    long = message(steps=tuple(step.model_copy(update={"params": {"p": "x" * 1600}}) for step in message().steps))
    error = ErrorAccount(kind="Transient", type="E", message="m", hint="h", traceback="t" * 600)
    before = long.model_copy(update={"failures": (Failure(at=AT, worker="w", error=error),) * 2, "attempts": 1})
    filler = "y" * (MESSAGE_LIMIT_BYTES - before.size - 100)
    before = before.model_copy(update={"trace": {"filler": filler}})
    again = failed(before, Transient("away " * 100), Origin("w"), Random(1)).first
    assert again.routing_key.startswith("doctorgen.qa.interactive.retry")
    read = StepMessage.from_json(again.body)
    assert [one.error.traceback for one in read.failures] == ["", ""]
    assert read.attempts == 2


def test_the_events_of_the_fullest_gate_are_messages() -> None:
    """Eight attempts, each failed at every check, of a subject with the longest name and a recipe of sixteen steps."""
    checks = [f"{number:0{CHECK_NAME_CHARACTERS}}" for number in range(MOST_CHECKS)]
    failing = verdict(0.123456789, *checks)
    gate = GATE.model_copy(update={"attempts": MOST_ATTEMPTS, "finished": MOST_ATTEMPTS - 1})
    ahead = message(gate, LONGEST)
    record = attempt_of(ahead, gate, failing)
    records = [
        record.model_copy(update={"attempt": record.attempt.model_copy(update={"number": number + 1})})
        for number in range(MOST_ATTEMPTS)
    ]
    trail = tuple(spent(f"step_{number:02}", 123.45678901234567, 0.012345678901234567) for number in range(16))
    result: JobResult = judged(ahead, gate, records).model_copy(update={"trail": trail})
    error = ErrorAccount(kind="ResourceExhausted", type="E", message="e" * 1000, hint="h" * 1000)
    broken: JobResult = judged(ahead, gate, records[:-1], error).model_copy(update={"trail": trail})
    told = [
        *completed(ahead, spent("qa"), result, Origin("w")).then,
        completed(ahead, None, broken, Origin("w")).first,
        *sent_back(ahead, spent("qa"), ahead, record.attempt, Origin("w")).then,
    ]
    assert max(len(outgoing.body) for outgoing in told) <= MESSAGE_LIMIT_BYTES
