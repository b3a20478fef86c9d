"""Stages with trivial operations, to test the pipeline without pictures."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from shared.contracts.artifacts import ArtifactRef
from shared.contracts.errors import Transient
from shared.contracts.step import PinnedStep, StepMessage
from shared.contracts.verdict import Likeness, Verdict
from shared.storage.artifacts import store_artifact
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
REFINE = Stage("refine", (TEXT,))
REFINE_ON_DEVICE = Stage(
    "refine", (replace(TEXT, engines={"portable": EngineSpec(AppendParams, "tests.synthetic:Borrow")}),)
)
UPSCALE = Stage("upscale", (PLAIN,))
QA = Stage("qa", (JUDGE,))
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
