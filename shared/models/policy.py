"""Whether a deployment's licence policy allows the models that a job needs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from shared.contracts.errors import InvalidInput
from shared.models.catalogue import ModelCatalogue
from shared.models.needs import Step, needs

LicencePolicy = Literal["commercial", "research"]
"""`commercial`: only models whose licence allows commercial use. `research`: all."""


def forbidden(catalogue: ModelCatalogue, policy: LicencePolicy, steps: Iterable[Step]) -> tuple[str, ...]:
    """One phrase for each model that the policy forbids: its name, its licence and what bears upon it, the step."""
    if policy == "research":
        return ()
    found = needs(catalogue, steps)
    return (
        *(
            f"step '{where[0]}' needs {model.name} ({'; '.join(filter(None, (model.licence, model.note)))})"
            for model, where in found.models.items()
            if not model.commercial
        ),
        *(
            f"step '{where[0]}' names {name}, which is not in the catalogue, so its licence is not known"
            for name, where in found.unknown.items()
        ),
    )


def refusal(
    phrases: Sequence[str], engines: Sequence[str] = (), instead: Mapping[str, Sequence[str]] | None = None
) -> InvalidInput:
    """What a caller is told whose job the policy forbids: field `recipe`.

    Args:
        phrases: of `forbidden`, at least one.
        engines: those that could do the whole recipe under the policy.
        instead: step to engines that could do this one under it, where a recipe named them there.
    """
    more = f", and {len(phrases) - 1} more such" if len(phrases) > 1 else ""
    offers = [f"ask for {_engines(engines)}"] if engines else []
    offers += [f"choose a recipe that gives step '{name}' to {_engines(fit)}" for name, fit in (instead or {}).items()]
    offer = ", ".join(offers or ["choose a recipe with other models"])
    return InvalidInput(
        "recipe",
        f"the licence policy here is 'commercial', and {phrases[0]}{more}",
        f"{offer[0].upper()}{offer[1:]}, or have the operator set generation.licence_policy to 'research' if the use "
        "is not commercial.",
    )


def _engines(names: Sequence[str]) -> str:
    return " or ".join(f"engine '{name}'" for name in names)
