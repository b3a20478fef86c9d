"""Whether a job gets its recipe's gate, and with which budget. Pure functions."""

from collections.abc import Mapping, Sequence

from shared.contracts.attempt import PinnedGate
from shared.contracts.errors import InvalidInput
from shared.contracts.gate import WEIGHT, Gate
from shared.contracts.nearest import nearest
from shared.contracts.recipe import Recipe
from shared.contracts.request import JobRequest
from shared.contracts.step import PinnedStep
from shared.worker.operation import Operation


def pin_gate(
    request: JobRequest, recipe: Recipe, steps: Sequence[PinnedStep], operations: Mapping[str, Operation]
) -> PinnedGate | None:
    """The gate of a job, or None where what comes first is delivered.

    Raises:
        InvalidInput: the request names a budget for attempts, and the recipe makes only one; or the gate cannot work.
    """
    gate = recipe.gate
    if gate is None:
        _check_no_budget(request, f"the recipe '{recipe.name}' makes one attempt only, for it has no gate")
        return None
    names = [step.name for step in steps]
    again = steps[names.index(gate.back_to) :]
    _check(gate, again, operations)
    if gate.engines and again[0].engine not in gate.engines:
        acts = f"the recipe '{recipe.name}' makes further attempts where {' or '.join(gate.engines)} does"
        _check_no_budget(request, f"{acts} the step '{gate.back_to}', and here {again[0].engine} does")
        return None
    attempts = gate.attempts if request.attempts is None else request.attempts
    if attempts == 1:
        return None
    return PinnedGate(
        back_to=gate.back_to,
        attempts=attempts,
        max_cost_usd=gate.max_cost_usd if request.max_cost_usd is None else request.max_cost_usd,
        identity_weight_step=gate.identity_weight_step,
        identity_weight_most=gate.identity_weight_most,
    )


def _check_no_budget(request: JobRequest, why: str) -> None:
    if request.attempts is not None and request.attempts > 1:
        raise InvalidInput("attempts", f"{request.attempts} are asked for, and {why}", "Leave it out.")
    if request.max_cost_usd is not None:
        raise InvalidInput("max_cost_usd", f"it bounds further attempts, and {why}", "Leave it out.")


def _check(gate: Gate, again: Sequence[PinnedStep], operations: Mapping[str, Operation]) -> None:
    known = operations[again[0].operation].engines
    for name in gate.engines:
        if name not in known:
            found = f"its gate names the engine '{name}', which {again[0].operation} does not have"
            raise InvalidInput("recipe", found, nearest(name, known))
    if all(step.seed is None for step in again):
        found = f"no step from '{gate.back_to}' on draws random numbers, so another attempt would give the same picture"
        raise InvalidInput("recipe", found, "Take the gate out, or let it go back further.")
    for step in again:
        if step.params.get(WEIGHT):
            raised = {**step.params, WEIGHT: gate.identity_weight_most}
            operations[step.operation].engines[step.engine].parse(raised, "recipe.gate.identity_weight_most")
