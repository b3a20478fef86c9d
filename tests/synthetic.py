"""Stages with trivial operations, to test the pipeline without pictures."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from shared.contracts.artifacts import ArtifactRef
from shared.contracts.attempt import PinnedGate
from shared.contracts.errors import Transient
from shared.contracts.step import PinnedStep, StepMessage
from shared.contracts.verdict import Check, Likeness, Verdict, rating_of
from shared.storage.artifacts import store_artifact
from shared.storage.digest import sha256
from shared.storage.port import ArtifactStore
from shared.worker.operation import EngineSpec, Operation, Outcome, Output, Params, Stage, Work


class AppendParams(Params):
    """Words to append, and how the operation should misbehave."""

    word: str = "."
    fail: Annotated[int, Field(ge=0)] = 0
    broken: bool = False


class Append:
    """Appends a word, the seed if there is one, to its input."""

    def __init__(self) -> None:
        self.runs = 0

    def models(self, _: AppendParams) -> Mapping[str, str]:
        return {"words": "0" * 64}

    def run(self, work: Work[AppendParams]) -> Outcome:
        self.runs += 1
        ran.append(work.params.word)
        if work.params.broken:
            raise ZeroDivisionError("broken on purpose")
        if self.runs <= work.params.fail:
            raise Transient("not now")
        work.progress(0.5)
        during[0](work)
        data = work.one("text") + work.params.word.encode() + (str(work.seed).encode() if work.seed else b"")
        return Outcome({"text": Output(data, "application/octet-stream", "intermediate")}, {"length": len(data)})


class HeldParams(AppendParams):
    """The same, with something to hold the words to."""

    identity_weight: Annotated[float, Field(ge=0.0, le=3.0)] = 0.85


class Borrow(Append):
    """The same, as if on a device: its steps take turns there."""

    def resident_keys(self, _: AppendParams) -> frozenset[str]:
        return frozenset({"words"})


class Judge:
    """Passes everything."""

    def models(self, _: Params) -> Mapping[str, str]:
        return {}

    def run(self, _: Work[Params]) -> Outcome:
        ran.append("judge")
        likeness = Likeness(score=0.9, rating="excellent", distance=0.2, encoder="none")
        verdict = Verdict(passed=True, likeness=likeness, checks=(), reasons=())
        return Outcome({"verdict": Output(verdict.to_json(), "application/json", "verdict")})


class DoubtParams(Params):
    """How alike the words must be to pass; above 1 nothing does."""

    min_likeness: float = 2.0


class Doubt:
    """Likens words by their digest: every attempt has another score, and always the same one."""

    def models(self, _: DoubtParams) -> Mapping[str, str]:
        return {}

    def run(self, work: Work[DoubtParams]) -> Outcome:
        ran.append("doubt")
        score = likeness_of(work.one("text"))
        passed = score >= work.params.min_likeness
        check = Check(name="likeness", passed=passed, value=score, bound="given", reason=f"The likeness is {score}.")
        likeness = Likeness(score=score, rating=rating_of(score), distance=1 - score, encoder="digest")
        reasons = () if passed else (check.reason,)
        verdict = Verdict(passed=passed, likeness=likeness, checks=(check,), reasons=reasons)
        return Outcome({"verdict": Output(verdict.to_json(), "application/json", "verdict")})


def likeness_of(text: bytes) -> float:
    """How alike Doubt finds words: below the same person's."""
    return int(sha256(text)[:4], 16) / 0xFFFF / 2


ran: list[str] = []
"""What the engines of this process did, in order."""

during: list[Callable[[Work[AppendParams]], object]] = [lambda _: None]
"""What happens in the middle of an Append."""

APPEND = EngineSpec(AppendParams, "tests.synthetic:Append", smaller_plans=1)
TEXT = Operation("refine.append", 1, ("text",), ("text",), seeded=True, engines={"portable": APPEND})
PLAIN = Operation("upscale.append", 1, ("text",), ("text",), seeded=False, engines={"portable": APPEND})
JUDGE = Operation(
    "qa.judge",
    1,
    ("text",),
    ("verdict",),
    seeded=False,
    engines={"portable": EngineSpec(Params, "tests.synthetic:Judge")},
)
HELD = Operation(
    "refine.held",
    1,
    ("text",),
    ("text",),
    seeded=True,
    engines={"portable": EngineSpec(HeldParams, "tests.synthetic:Append")},
)
DOUBT = Operation(
    "qa.doubt",
    1,
    ("text",),
    ("verdict",),
    seeded=False,
    engines={"portable": EngineSpec(DoubtParams, "tests.synthetic:Doubt")},
)
REFINE = Stage("refine", (TEXT, HELD))
REFINE_ON_DEVICE = Stage(
    "refine", (replace(TEXT, engines={"portable": EngineSpec(AppendParams, "tests.synthetic:Borrow")}),)
)
UPSCALE = Stage("upscale", (PLAIN,))
QA = Stage("qa", (JUDGE, DOUBT))
SUBJECT = "somebody"


def first_message(store: ArtifactStore, job_id: str = "job-1", **params: object) -> StepMessage:
    """A job of three steps: refine, upscale, qa. `params` are those of the first."""
    source: ArtifactRef = store_artifact(store, SUBJECT, "photo", b"photo", "application/octet-stream")
    return StepMessage(
        job_id=job_id,
        caller="tester",
        subject=SUBJECT,
        priority="interactive",
        recipe="words",
        recipe_version=1,
        steps=(
            _step("one", TEXT, {"text": "request.photos"}, seed=7, **params),
            _step("two", PLAIN, {"text": "one.text"}, word="!"),
            _step("three", JUDGE, {"text": "two.text"}),
        ),
        cursor=0,
        artifacts={"request.photos": (source,)},
        result="two.text",
        verdict="three.verdict",
    )


def gated_message(
    store: ArtifactStore, job_id: str = "job-1", min_likeness: float = 2.0, word: str = "a", **gate: Any
) -> StepMessage:
    """A job of four steps with a gate: upscale once, then refine, upscale and qa as often as it takes."""
    message = first_message(store, job_id)
    budget = {"back_to": "one", "attempts": 3, "identity_weight_step": 0.1, "identity_weight_most": 1.0, **gate}
    steps = (
        _step("zero", PLAIN, {"text": "request.photos"}, word="0"),
        _step("one", HELD, {"text": "zero.text"}, seed=7, word=word),
        _step("two", PLAIN, {"text": "one.text"}, word="!"),
        _step("three", DOUBT, {"text": "two.text"}, min_likeness=min_likeness),
    )
    return message.model_copy(update={"steps": steps, "gate": PinnedGate(**budget)})


def _step(
    name: str, operation: Operation, inputs: dict[str, str], seed: int | None = None, **params: object
) -> PinnedStep:
    spec = operation.engines["portable"]
    return PinnedStep(
        name=name,
        operation=operation.name,
        operation_version=1,
        engine="portable",
        params=spec.params.model_validate(params).model_dump(mode="json"),
        seed=seed,
        inputs=inputs,
    )
