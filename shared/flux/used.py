"""Which weights and settings a step that paints with FLUX depends on, and how strongly its adapters act."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from shared.flux.params import Sampling
from shared.flux.parts import proper_name, with_requirements
from shared.models.settings import Speed
from shared.models.shelf import Shelf
from shared.models.state import state_of


def strengths(params: Sampling) -> dict[str, float]:
    """How strongly each adapter acts, by its proper name; of one that is named twice the sum."""
    found: dict[str, float] = {}
    for lora in params.loras:
        name = proper_name(lora.model)
        found[name] = found.get(name, 0.0) + lora.strength
    return found


class Used:
    """Digests of what is in a models folder, each worked out once, and again where files were replaced.

    Args:
        folder: of the models.
        speed: how FLUX is run.
    """

    def __init__(self, folder: Path, speed: Speed) -> None:
        self._shelf = Shelf(folder)
        self._speed = speed
        self._digests: dict[tuple[str, str], str] = {}

    def models(self, params: Sampling, beside: Iterable[str] = ()) -> Mapping[str, str]:
        """Of the transformer, what it requires and its adapters, those that are there, by their proper names.

        With them the settings of speed that change pictures.

        Args:
            params: the step's.
            beside: names of further models.
        """
        names = [*with_requirements(params.model), *map(proper_name, beside), *strengths(params)]
        found = {}
        for name in names:
            state = (name, state_of(self._shelf.folder / name))
            if state not in self._digests:
                digest = self._shelf.own_digest(name)
                if digest is None:
                    continue
                self._digests[state] = digest
            found[name] = self._digests[state]
        return {**found, **self._speed.digests(proper_name(params.model))}
