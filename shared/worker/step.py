"""One step's life: skip what stands, otherwise compute, store the artifacts, then the manifest that commits them."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

from shared.contracts.artifacts import ArtifactRef, Manifest
from shared.contracts.base import Digest, now
from shared.contracts.errors import InvalidInput, Permanent
from shared.contracts.step import PinnedStep, StepMessage, StepRecord
from shared.storage.artifacts import fetch, store_artifact
from shared.storage.manifests import read_manifest, write_manifest
from shared.storage.port import ArtifactStore
from shared.worker.keys import step_key
from shared.worker.operation import Engine, Outcome, Params, Stage, Work

Phase = Literal[
    "received", "skipped", "started", "computed", "artifacts", "manifest", "published", "settling", "settled"
]
"""Where a step stands in its life. Observers (metrics, tests that kill) are told as each is reached."""


@dataclass(frozen=True)
class Prepared:
    """A message with everything resolved that decides its step key."""

    message: StepMessage
    engine: Engine[Params]
    params: Params
    inputs: Mapping[str, tuple[ArtifactRef, ...]]
    key: Digest


class Engines:
    """The engines of one stage, each built when first asked for and kept."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._built: dict[tuple[str, str], Engine[Params]] = {}

    def find(self, step: PinnedStep) -> tuple[Engine[Params], Params]:
        """The engine for a step, and its parameters as the engine's model.

        Raises:
            InvalidInput: this stage has no such operation, version or engine, or a parameter is out of range.
        """
        operation = self._stage.operation(step.operation)
        if operation is None:
            raise InvalidInput(
                f"steps.{step.name}.operation",
                f"the stage '{self._stage.name}' cannot do '{step.operation}'",
                f"It can do: {', '.join(o.name for o in self._stage.operations)}.",
            )
        if operation.version != step.operation_version:
            raise InvalidInput(
                f"steps.{step.name}.operation_version",
                f"this worker does version {operation.version} of {operation.name}, not {step.operation_version}",
                "Submit the job again, or run workers of the version that the message asks for.",
            )
        spec = operation.engines.get(step.engine)
        if spec is None:
            raise InvalidInput(
                f"steps.{step.name}.engine",
                f"{operation.name} has no engine '{step.engine}'",
                f"It has: {', '.join(operation.engines)}.",
            )
        params = spec.parse(step.params, f"steps.{step.name}.params")
        built = self._built.get((step.operation, step.engine))
        if built is None:
            built = self._built[(step.operation, step.engine)] = spec.build()
        return built, params


def prepare(message: StepMessage, engines: Engines) -> Prepared:
    """Resolve engine, parameters and inputs of the message's step.

    Raises:
        InvalidInput: the step cannot be done here as it is written.
    """
    step = message.step
    engine, params = engines.find(step)
    missing = [slot for slot in step.inputs.values() if slot not in message.artifacts]
    if missing:
        raise InvalidInput(
            "artifacts", f"the message lacks {', '.join(missing)}", "Replay the job from its first step."
        )
    inputs = {name: message.artifacts[slot] for name, slot in step.inputs.items()}
    digests = {name: tuple(ref.sha256 for ref in refs) for name, refs in inputs.items()}
    return Prepared(message, engine, params, inputs, step_key(step, engine.models, digests))


@dataclass(frozen=True)
class StepContext:
    """What a step needs of the world."""

    store: ArtifactStore
    io: Executor
    worker: str
    usd_per_hour: float
    reached: Callable[[Phase, StepMessage], None]
    progress: Callable[[float], None]


def perform(prepared: Prepared, context: StepContext) -> tuple[Manifest, bool]:
    """Do the step, or find it done. Returns its manifest, and whether it stood already.

    The look for a manifest and the fetching of inputs run side by side: a manifest is seldom there, and asking
    first would add a round trip to every step.
    """
    message, store = prepared.message, context.store
    standing = context.io.submit(read_manifest, store, message.subject, prepared.key)
    fetched = {
        name: tuple(context.io.submit(fetch, store, ref) for ref in refs) for name, refs in prepared.inputs.items()
    }
    manifest = standing.result()
    if manifest is not None:
        for blobs in fetched.values():
            for blob in blobs:
                blob.cancel()
        context.reached("skipped", message)
        return manifest, True

    inputs = {name: tuple(blob.result() for blob in blobs) for name, blobs in fetched.items()}
    context.reached("started", message)
    started_at, clock = now(), perf_counter()
    outcome = prepared.engine.run(Work(prepared.params, inputs, message.step.seed or 0, context.progress))
    seconds = perf_counter() - clock
    context.reached("computed", message)

    outputs = _store_outputs(prepared, outcome, context)
    context.reached("artifacts", message)

    manifest = Manifest(
        step_key=prepared.key,
        job_id=message.job_id,
        subject=message.subject,
        consent=message.consent,
        step=message.step.name,
        operation=message.step.operation,
        operation_version=message.step.operation_version,
        engine=message.step.engine,
        models=dict(prepared.engine.models),
        params=message.step.params,
        seed=message.step.seed,
        inputs={name: tuple(ref.sha256 for ref in refs) for name, refs in prepared.inputs.items()},
        outputs=outputs,
        facts=dict(outcome.facts),
        worker=context.worker,
        started_at=started_at,
        seconds=seconds,
        cost_usd=seconds * context.usd_per_hour / 3600,
    )
    write_manifest(store, manifest)
    context.reached("manifest", message)
    return manifest, False


def _store_outputs(prepared: Prepared, outcome: Outcome, context: StepContext) -> dict[str, tuple[ArtifactRef, ...]]:
    pending = {
        name: context.io.submit(
            store_artifact, context.store, prepared.message.subject, output.kind, output.data, output.media_type
        )
        for name, output in outcome.outputs.items()
    }
    return {name: (future.result(),) for name, future in pending.items()}


def record_of(message: StepMessage, manifest: Manifest, *, reused: bool) -> StepRecord:
    """What the job's trail keeps of a finished step."""
    return StepRecord(
        step=message.step.name,
        engine=manifest.engine,
        key=manifest.step_key,
        reused=reused,
        seconds=manifest.seconds,
        cost_usd=0.0 if reused else manifest.cost_usd,
    )


def advance(message: StepMessage, manifest: Manifest, record: StepRecord) -> StepMessage:
    """The message after its step: outputs noted, trail longer, attempts forgotten, cursor on the next step.

    Artifacts that nothing further on reads are left out. On the last step the cursor stays where it is.

    Raises:
        Permanent: the recipe asks for an output that the operation did not make.
    """
    made = {f"{message.step.name}.{name}": refs for name, refs in manifest.outputs.items()}
    artifacts = {**message.artifacts, **made}
    ahead = message.steps[message.cursor + 1 :]
    needed = {slot for step in ahead for slot in step.inputs.values()} | {message.result, message.verdict}
    for slot in needed:
        if slot.split(".")[0] == message.step.name and slot not in made:
            raise Permanent(f"the step '{message.step.name}' made no '{slot}', which the recipe reads")
    return message.model_copy(
        update={
            "artifacts": {slot: refs for slot, refs in artifacts.items() if slot in needed},
            "trail": (*message.trail, record),
            "cursor": min(message.cursor + 1, len(message.steps) - 1),
            "attempts": 0,
            "failures": (),
        }
    )
