"""What a manifest, or a picture's metadata, says of the models that made it: under which licence each stands."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import yaml

from shared.models.catalogue import ModelCatalogue, load_models

BUNDLED = Path(__file__).with_name("bundled.yaml")
NOT_STATED = "not in the catalogue"


@cache
def bundled() -> dict[str, str]:
    """File name to licence, of the weights that ship inside the portable engines' libraries."""
    libraries = yaml.safe_load(BUNDLED.read_text("utf-8")).values()
    return {name: str(library["licence"]) for library in libraries for name in library["files"]}


def licences(models: Iterable[str], catalogue: ModelCatalogue | None = None) -> dict[str, str]:
    """The licence of each model by the name under which its engine reports it; NOT_STATED of one's own models.

    Args:
        models: names, as an engine's `models` and a manifest's have. A name may go on with `/` and a file.
        catalogue: the product's own where None.
    """
    known = load_models() if catalogue is None else catalogue
    return {name: bundled().get(name) or _licence(name, known) for name in models}


def _licence(name: str, known: ModelCatalogue) -> str:
    model = known.named(name.partition("/")[0])
    return NOT_STATED if model is None else model.licence
