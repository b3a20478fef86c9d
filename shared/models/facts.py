"""What a manifest, or a picture's metadata, says of the models that made it."""

from collections.abc import Mapping

from shared.models.catalogue import ModelCatalogue, load_models

NOT_STATED = "not in the catalogue"


def facts(models: Mapping[str, str], catalogue: ModelCatalogue | None = None) -> dict[str, dict[str, str]]:
    """Digest and licence of each model by the name under which its engine reports it.

    Args:
        models: name to SHA-256, as an engine's `models` and a manifest's are. A name may go on with `/` and a file.
        catalogue: the product's own where None.
    """
    known = load_models() if catalogue is None else catalogue
    return {name: {"sha256": sha256, "licence": _licence(name, known)} for name, sha256 in models.items()}


def _licence(name: str, known: ModelCatalogue) -> str:
    model = known.named(name.partition("/")[0])
    return NOT_STATED if model is None else model.licence
