"""One step's life: skip what stands, otherwise compute, store the artifacts, then the manifest that commits them."""

from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter
from typing import Literal, TypeVar

from shared.contracts.artifacts import ArtifactRef, Manifest
from shared.contracts.base import Digest, now
from shared.contracts.errors import IntegrityError, InvalidInput, Permanent, StoreAway, Transient
from shared.contracts.step import PinnedStep, StepMessage, StepRecord
from shared.models.facts import licences
from shared.storage.artifacts import fetch, store_artifact
from shared.storage.manifests import read_manifest, write_manifest
from shared.storage.port import ArtifactStore
from shared.worker.keys import step_key
from shared.worker.operation import Engine, EngineSpec, Outcome, Params, Stage, TakesTurns, Work

T = TypeVar("T")

Phase = Literal[
    "received", "skipped", "started", "computed", "artifacts", "manifest", "published", "settling", "settled"
]
"""Where a step stands in its life. Observers (metrics, tests that kill) are told as each is reached."""


class CorruptInputError(IntegrityError):
    """An artifact that the step reads is missing or is not what its digest says."""

    def __init__(self, slot: str, ref: ArtifactRef, error: IntegrityError) -> None:
        super().__init__(str(error))
        self.slot = slot
        self.ref = ref


@dataclass(frozen=True)
class Prepared:
    """A message with everything resolved that decides its step key.

    `residents` are the keys of what its engine borrows on the process's device; None where it computes elsewhere.
    """

    message: StepMessage
    engine: Engine[Params]
    smaller_plans: int
    params: Params
    models: Mapping[str, str]
    residents: AbstractSet[str] | None
    inputs: Mapping[str, tuple[ArtifactRef, ...]]
    key: Digest


class Engines:
    """The engines of one stage, each built when first asked for and kept."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._built: dict[tuple[str, str], Engine[Params]] = {}

    def warm(self, names: Collection[str]) -> None:
        """Build the engines of these names for every operation that has them."""
        for operation in self._stage.operations:
            for name in operation.engines.keys() & set(names):
                self._build(operation.name, name, operation.engines[name])

    def find(self, step: PinnedStep) -> tuple[Engine[Params], EngineSpec, Params]:
        """The engine for a step, what the stage says of it, and the step's parameters as the engine's model.

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
        return self._build(step.operation, step.engine, spec), spec, params

    def _build(self, operation: str, name: str, spec: EngineSpec) -> Engine[Params]:
        built = self._built.get((operation, name))
        if built is None:
            built = self._built[(operation, name)] = spec.build()
        return built


def prepare(message: StepMessage, engines: Engines) -> Prepared:
    """Resolve engine, parameters and inputs of the message's step.

    Raises:
        InvalidInput: the step cannot be done here as it is written.
    """
    step = message.step
    engine, spec, params = engines.find(step)
    missing = [slot for slot in step.inputs.values() if slot not in message.artifacts]
    if missing:
        raise InvalidInput(
            "artifacts", f"the message lacks {', '.join(missing)}", "Replay the job from its first step."
        )
    inputs = {name: message.artifacts[slot] for name, slot in step.inputs.items()}
    digests = {name: tuple(ref.sha256 for ref in refs) for name, refs in inputs.items()}
    models = dict(engine.models(params))
    key = step_key(step, models, digests, spec.revision)
    residents = engine.resident_keys(params) if isinstance(engine, TakesTurns) else None
    return Prepared(message, engine, spec.smaller_plans, params, models, residents, inputs, key)


@dataclass(frozen=True)
class StepContext:
    """What a step needs of the world. Its engine runs within `turn`, which may keep it waiting."""

    store: ArtifactStore
    io: Executor
    worker: str
    usd_per_hour: float
    turn: Callable[[Prepared], AbstractContextManager[None]]
    reached: Callable[[Phase, StepMessage], None]
    progress: Callable[[float], None]
    show: Callable[[bytes], None]


def perform(prepared: Prepared, context: StepContext) -> tuple[Manifest, bool]:
    """Do the step, or find it done. Returns its manifest, and whether it stood already.

    Raises:
        StoreAway: the object store does not answer.
        CorruptInputError: an input cannot be used.
        And whatever the engine raises.

    The look for a manifest and the fetching of inputs run side by side: a manifest is seldom there, and asking
    first would add a round trip to every step.
    """
    message, store = prepared.message, context.store
    standing = context.io.submit(reaching, read_manifest, store, message.subject, prepared.key)
    fetched = {
        name: tuple(context.io.submit(_fetch_input, store, message.step.inputs[name], ref) for ref in refs)
        for name, refs in prepared.inputs.items()
    }
    manifest = standing.result()
    if manifest is not None:
        for blobs in fetched.values():
            for blob in blobs:
                blob.cancel()
        context.reached("skipped", message)
        return manifest, True

    inputs = {name: tuple(blob.result() for blob in blobs) for name, blobs in fetched.items()}
    plan = min(message.plan, prepared.smaller_plans)
    work = Work(prepared.params, inputs, message.step.seed or 0, context.progress, plan, context.show)
    with context.turn(prepared):
        context.reached("started", message)
        started_at, clock = now(), perf_counter()
        outcome = prepared.engine.run(work)
        seconds = perf_counter() - clock
    context.reached("computed", message)
    context.progress(1.0)

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
        models=dict(prepared.models),
        licences=licences(prepared.models),
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
    committed = reaching(write_manifest, store, manifest)  # another's, where two did the step at once
    context.reached("manifest", message)
    return committed, False


def _store_outputs(prepared: Prepared, outcome: Outcome, context: StepContext) -> dict[str, tuple[ArtifactRef, ...]]:
    pending = {
        name: context.io.submit(
            reaching,
            store_artifact,
            context.store,
            prepared.message.subject,
            output.kind,
            output.data,
            output.media_type,
        )
        for name, output in outcome.outputs.items()
    }
    return {name: (future.result(),) for name, future in pending.items()}


def reaching(call: Callable[..., T], *arguments: object) -> T:
    """Call the store. What is Transient there becomes StoreAway, which no engine raises."""
    try:
        return call(*arguments)
    except Transient as error:
        raise StoreAway(str(error)) from error


def _fetch_input(store: ArtifactStore, slot: str, ref: ArtifactRef) -> bytes:
    try:
        return reaching(fetch, store, ref)
    except IntegrityError as error:
        raise CorruptInputError(slot, ref, error) from error


def record_of(message: StepMessage, manifest: Manifest, *, reused: bool) -> StepRecord:
    """What the job's trail keeps of a finished step.

    A manifest that stood is this job's expense where its step of this name had computed it: an earlier delivery, or an
    earlier run, did. So whoever works the message off, and however often, the account is the same.
    """
    reused = reused and (manifest.job_id, manifest.step) != (message.job_id, message.step.name)
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

    All artifacts stay, so that a step whose output is found corrupt can be done again; the attempts at the step that
    found it so are remembered, or it could be found so for ever. On the last step the cursor stays where it is.

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
    following = ahead[0].name if ahead else None
    plans = message.plans
    if message.plan and message.gate is not None:  # else at most what was lost is made again
        plans = {**(plans or {}), message.step.name: message.plan}
    return message.model_copy(
        update={
            "artifacts": artifacts,
            "trail": (*message.trail, record),
            "cursor": min(message.cursor + 1, len(message.steps) - 1),
            "attempts": (message.waiting or {}).get(following, 0) if following else 0,
            "plan": (plans or {}).get(following, 0) if following else 0,
            "plans": plans,
            "failures": (),
        }
    )


def rewind(message: StepMessage, to: str) -> StepMessage:
    """The message as it was before an earlier step of that name: to be done again, and all that followed it.

    Neither what was small enough nor what waits for an input is remembered.
    """
    cursor = next(place for place, step in enumerate(message.steps) if step.name == to)
    undone = {step.name for step in message.steps[cursor:]}
    return message.model_copy(
        update={
            "cursor": cursor,
            "artifacts": {slot: refs for slot, refs in message.artifacts.items() if slot.split(".")[0] not in undone},
            "trail": tuple(record for record in message.trail if record.step not in undone),
            "plan": 0,
            "plans": None,
            "waiting": None,
        }
    )
