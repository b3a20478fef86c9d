"""From a request to a routing slip: engines chosen, every parameter filled in and checked. Pure functions."""

import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from services.gateway.defaults import GenerationDefaults
from services.gateway.gate import pin_gate
from shared.contracts.artifacts import ArtifactRef
from shared.contracts.base import MESSAGE_LIMIT_BYTES, Parameters
from shared.contracts.brief import Brief
from shared.contracts.errors import InvalidInput
from shared.contracts.nearest import nearest
from shared.contracts.recipe import REQUEST_PHOTOS, Recipe, RecipeStep, image_slot, judged_by_size
from shared.contracts.request import JobRequest
from shared.contracts.step import PinnedStep, StepMessage
from shared.models.catalogue import load_models
from shared.models.needs import as_planned, planned
from shared.models.policy import LicencePolicy, forbidden, refusal
from shared.storage.digest import sha256
from shared.worker.operation import EngineSpec, Operation

ROOM_FOR_GROWTH_BYTES = 7 * 1024
"""What a message may gain on its way: references, the trail, two failures, the record of attempts at its picture.

The ends of the failures' tracebacks may come on top: where they do not fit, the message goes on without them.
"""

NOT_CONTENT = {
    "job_id",
    "batch_id",
    "idempotency_key",
    "caller",
    "subject",
    "consent",
    "photos",
    "images",
    "attempts",
    "max_cost_usd",
    "priority",
    "deadline",
}
"""Fields of a request that do not change its first picture, and its pictures, of which only the bytes do."""

NO_IMAGES: Mapping[str, ArtifactRef] = {}


def job_id_of(request: JobRequest, body: bytes) -> str:
    """The caller's choice; else one id for one (caller, idempotency key); else one for these very bytes.

    So a request that is delivered twice is one job, however often it is delivered.
    """
    if request.job_id is not None:
        return request.job_id
    if request.idempotency_key is not None:
        return f"job-{sha256(f'{request.caller}/{request.idempotency_key}'.encode())[:32]}"
    return f"job-{sha256(body)[:32]}"


def seed_of(request: JobRequest) -> int:
    """The caller's seed, or one derived from the request's content: the same request, the same picture."""
    if request.seed is not None:
        return request.seed
    photos = [(photo.sha256, photo.face) for photo in request.photos]
    content = {**request.model_dump(mode="json", exclude=NOT_CONTENT), "photos": photos}
    if request.images:  # one without any keeps the seed that it had before there were images
        content["images"] = {name: image.sha256 for name, image in request.images.items()}
    return _number(json.dumps(content, sort_keys=True))


def step_seed(seed: int, step: str) -> int:
    """A seed of each step's own, so that steps do not draw the same numbers."""
    return _number(f"{seed}/{step}")


def _number(text: str) -> int:
    return int(sha256(text.encode())[:8], 16)


def check_images(request: JobRequest, recipe: Recipe) -> None:
    """Whether a request brings the images that its recipe reads, and no others.

    Raises:
        InvalidInput: field `images.<name>`; says what the recipe reads.
    """
    read = recipe.images
    reads = f"the recipe '{recipe.name}' reads {' and '.join(read) or 'no image beside the photos'}"
    for name in request.images:
        if name not in read:
            mend = nearest(name, read) if read else "Leave it out, or choose a recipe that reads it."
            raise InvalidInput(f"images.{name}", f"it is given, and {reads}", mend)
    for name in read:
        if name not in request.images:
            raise InvalidInput(f"images.{name}", f"it is not given, and {reads}", "Give it, or choose another recipe.")


def plan(
    request: JobRequest,
    job_id: str,
    photos: tuple[ArtifactRef, ...],
    recipe: Recipe,
    brief: Brief,
    operations: Mapping[str, Operation],
    defaults: GenerationDefaults,
    images: Mapping[str, ArtifactRef] = NO_IMAGES,
) -> StepMessage:
    """The first message of a job. `images` are those that `check_images` has found to be what the recipe reads.

    Raises:
        InvalidInput: an override names no step or parameter, or is out of range; the engine does not exist; the
            licence policy forbids a model; the whole is too large for a message.
    """
    overrides = {"generation.overrides": defaults.overrides, "overrides": request.overrides}
    for where, said in overrides.items():
        _check_step_names(where, said, recipe)
    inputs = {step.name: step.inputs for step in recipe.steps}
    complete = {where: judged_by_size(said, inputs, recipe.result, recipe.verdict) for where, said in overrides.items()}
    engine = request.engine or defaults.engine
    seed = seed_of(request)
    offered: Parameters = brief.model_dump(mode="json") | {"faces": [photo.face for photo in request.photos]}
    steps = tuple(_pin(step, step.engine or engine, operations, offered, complete, seed) for step in recipe.steps)
    policy = defaults.licence_policy
    forbidden_models = forbidden(load_models(), policy, steps)
    if forbidden_models:
        allowed = _allowed_engines(recipe, operations, policy)
        raise refusal(forbidden_models, allowed, _instead(recipe, steps, operations, policy, allowed))
    message = StepMessage(
        job_id=job_id,
        batch_id=request.batch_id,
        caller=request.caller,
        subject=request.subject,
        consent=request.consent,
        priority=request.priority,
        deadline=request.deadline,
        recipe=recipe.name,
        recipe_version=recipe.version,
        steps=steps,
        cursor=0,
        artifacts={REQUEST_PHOTOS: photos} | {image_slot(name): (image,) for name, image in images.items()},
        result=recipe.result,
        verdict=recipe.verdict,
        gate=pin_gate(request, recipe, steps, operations),
    )
    size = message.size
    most = MESSAGE_LIMIT_BYTES - ROOM_FOR_GROWTH_BYTES
    if size > most:
        raise InvalidInput(
            "request",
            f"the job's message would be {size} bytes, more than {most}",
            "Shorten custom_prompt, or the scenario's prompt and backdrop.",
        )
    return message


def _allowed_engines(recipe: Recipe, operations: Mapping[str, Operation], policy: LicencePolicy) -> list[str]:
    """The engines that can do every step that does not insist on one, with models that the policy allows."""
    engines = [operations[step.operation].engines for step in recipe.steps if step.engine is None]
    common = [name for name in next(iter(engines), {}) if all(name in others for others in engines)]
    return [name for name in common if not forbidden(load_models(), policy, planned(recipe, name))]


def _instead(
    recipe: Recipe,
    pinned: Sequence[PinnedStep],
    operations: Mapping[str, Operation],
    policy: LicencePolicy,
    allowed: Sequence[str],
) -> dict[str, list[str]]:
    """For each step that the policy forbids, the engines that a recipe could give it to, if there are any.

    Those that could do the whole recipe are offered anyway. A step that reads more than an operation must have reads
    what perhaps only its own engine knows.
    """
    found = {}
    for step, as_pinned in zip(recipe.steps, pinned, strict=True):
        operation = operations[step.operation]
        if forbidden(load_models(), policy, [as_pinned]) and step.inputs.keys() <= {*operation.inputs}:
            others = [name for name in operation.engines if name not in {*allowed, as_pinned.engine}]
            fit = [name for name in others if not forbidden(load_models(), policy, [as_planned(step, name)])]
            if fit:
                found[step.name] = fit
    return found


def _pin(
    step: RecipeStep,
    engine: str,
    operations: Mapping[str, Operation],
    offered: Parameters,
    overrides: Mapping[str, Mapping[str, Parameters]],
    seed: int,
) -> PinnedStep:
    """`overrides` are by step name, by the field where they stand; later ones go before earlier ones."""
    operation = operations.get(step.operation)
    if operation is None:
        raise InvalidInput(
            "recipe",
            f"its step '{step.name}' wants '{step.operation}', which no stage can do",
            nearest(step.operation, operations),
        )
    spec = operation.engines.get(engine)
    if spec is None:
        field = "recipe" if step.engine else "engine"
        raise InvalidInput(field, f"{operation.name} has no engine '{engine}'", nearest(engine, operation.engines))
    known = spec.params.model_fields
    from_brief = {name: offered[name] for name in step.brief if name in known and offered.get(name) is not None}
    params = step.params | step.engines.get(engine, {}) | from_brief
    for where, said in overrides.items():
        params = _override(params, spec, said.get(step.name, {}), f"{where}.{step.name}")
    return PinnedStep(
        name=step.name,
        operation=operation.name,
        operation_version=operation.version,
        engine=engine,
        params=params,
        seed=step_seed(seed, step.name) if operation.seeded else None,
        inputs=step.inputs,
    )


def _override(params: Parameters, spec: EngineSpec, overrides: Mapping[str, JsonValue], field: str) -> Parameters:
    return spec.parse({**params, **overrides}, field).model_dump(mode="json")


def _check_step_names(where: str, overrides: Mapping[str, object], recipe: Recipe) -> None:
    names = [step.name for step in recipe.steps]
    for name in overrides:
        if name not in names:
            raise InvalidInput(
                f"{where}.{name}",
                f"the recipe '{recipe.name}' has no step of that name",
                nearest(name, names),
            )
