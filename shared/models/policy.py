"""Whether a deployment's licence policy allows the models that a job needs."""

from collections.abc import Iterable, Sequence
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


def check_licences(
    catalogue: ModelCatalogue, policy: LicencePolicy, steps: Iterable[Step], allowed_engines: Sequence[str]
) -> None:
    """Refuse what the policy forbids. `allowed_engines` are those that could do the recipe under it.

    Raises:
        InvalidInput: field `recipe`; names the models, their licences, and an engine that would do.
    """
    phrases = forbidden(catalogue, policy, steps)
    if not phrases:
        return
    more = f", and {len(phrases) - 1} more such" if len(phrases) > 1 else ""
    with_engine = [f"engine '{engine}'" for engine in allowed_engines]
    offer = f"Ask for {' or '.join(with_engine)}," if with_engine else "Choose a recipe with other models,"
    raise InvalidInput(
        "recipe",
        f"the licence policy here is 'commercial', and {phrases[0]}{more}",
        f"{offer} or have the operator set generation.licence_policy to 'research' if the use is not commercial.",
    )
