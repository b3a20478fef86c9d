"""Stages with work of a known size, to measure what the pipeline adds to it."""

from collections.abc import Mapping
from time import sleep

from shared.contracts.artifacts import ArtifactRef
from shared.contracts.step import PinnedStep, StepMessage
from shared.contracts.verdict import Verdict
from shared.worker.operation import EngineSpec, Operation, Outcome, Output, Params, Stage, Work

MEDIA = "application/octet-stream"
SUBJECT = "bench"


class CopyParams(Params):
    """How long the work takes, in milliseconds, during which it needs no processor, as work on a GPU does."""

    work_ms: float = 0.0


class Copy:
    """Gives back its input with another first byte."""

    def models(self, _: CopyParams) -> Mapping[str, str]:
        return {}

    def run(self, work: Work[CopyParams]) -> Outcome:
        if work.params.work_ms:
            sleep(work.params.work_ms / 1000)
        data = work.one("data")
        changed = bytes([(data[0] + 1) % 256]) + data[1:]
        return Outcome({"data": Output(changed, MEDIA, "intermediate")})


class Judge(Copy):
    """Does, and finds everything well."""

    def run(self, work: Work[CopyParams]) -> Outcome:
        verdict = Verdict(passed=True, checks=(), reasons=())
        return Outcome(
            {**super().run(work).outputs, "verdict": Output(verdict.to_json(), "application/json", "verdict")}
        )


def stage(name: str) -> Stage:
    """A stage that copies; `qa` judges, too."""
    engine = "Judge" if name == "qa" else "Copy"
    engines = {"portable": EngineSpec(CopyParams, f"bench.synthetic:{engine}")}
    return Stage(name, (Operation(f"{name}.copy", 1, ("data",), ("data",), seeded=False, engines=engines),))


def message(job_id: str, source: ArtifactRef, stages: tuple[str, ...], work_ms: tuple[float, ...]) -> StepMessage:
    """A job that goes through the stages; the last of them, `qa`, judges."""
    slots = ("request.photos", *(f"{name}.data" for name in stages))
    steps = tuple(
        PinnedStep(
            name=name,
            operation=f"{name}.copy",
            operation_version=1,
            engine="portable",
            params={"work_ms": duration},
            inputs={"data": slots[place]},
        )
        for place, (name, duration) in enumerate(zip(stages, work_ms, strict=True))
    )
    return StepMessage(
        job_id=job_id,
        caller="bench",
        subject=SUBJECT,
        priority="bulk",
        recipe="copy",
        recipe_version=1,
        steps=steps,
        cursor=0,
        artifacts={"request.photos": (source,)},
        result=slots[-1],
        verdict=f"{stages[-1]}.verdict",
    )
