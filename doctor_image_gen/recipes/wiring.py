"""Whether a recipe's steps fit what the stages can do: told before any work instead of at the step that fails."""

from collections.abc import Mapping

from shared.contracts.errors import InvalidInput
from shared.contracts.nearest import nearest
from shared.contracts.recipe import REQUEST, REQUEST_PHOTOS, Recipe, RecipeStep
from shared.worker.operation import Operation


def check_wiring(recipe: Recipe, operations: Mapping[str, Operation]) -> None:
    """Check each step's operation, inputs and parameters, and where result and verdict come from.

    Any input may read an image of the request; whether a request brings it is seen when there is one.

    Raises:
        InvalidInput: names the step's field, what was found and the mend.
    """
    made: list[str] = []
    for step in recipe.steps:
        operation = operations.get(step.operation)
        if operation is None:
            mend = nearest(step.operation, operations)
            raise InvalidInput(f"steps.{step.name}.operation", f"no stage can do '{step.operation}'", mend)
        _check_inputs(step, operation, made)
        _check_params(step, operation)
        made += [f"{step.name}.{output}" for output in operation.outputs]
    for field, slot in (("result", recipe.result), ("verdict", recipe.verdict)):
        if slot not in made:
            raise InvalidInput(field, f"no step makes '{slot}'", nearest(slot, made))


def _check_inputs(step: RecipeStep, operation: Operation, made: list[str]) -> None:
    field = f"steps.{step.name}.inputs"
    if not set(operation.inputs) <= set(step.inputs) <= {*operation.inputs, *operation.optional}:
        found = f"it has {', '.join(step.inputs) or 'none'}"
        more = f", and may read {', '.join(operation.optional)}" if operation.optional else ""
        raise InvalidInput(field, found, f"{operation.name} reads {' and '.join(operation.inputs)}{more}.")
    for name, slot in step.inputs.items():
        if slot.split(".")[0] != REQUEST and slot not in made:
            mend = nearest(slot, [REQUEST_PHOTOS, *made])
            raise InvalidInput(f"{field}.{name}", f"no step before makes '{slot}'", mend)


def _check_params(step: RecipeStep, operation: Operation) -> None:
    for engine, spec in operation.engines.items():
        spec.parse({**step.params, **step.engines.get(engine, {})}, f"steps.{step.name}.params")
