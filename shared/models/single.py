"""A model of a single file by its name: the catalogue's, or a folder of one's own."""

from pathlib import Path
from typing import NamedTuple

from shared.contracts.errors import InvalidInput, Permanent
from shared.models.catalogue import load_models
from shared.models.shelf import Shelf


class Single(NamedTuple):
    """Where it lies.

    Attributes:
        name: its proper name.
        path: of its one file.
        digest: SHA-256 of what was found, for the step's key.
    """

    name: str
    path: Path
    digest: str


def single(shelf: Shelf, name: str, suffix: str, field: str = "model") -> Single:
    """The one file of that kind which an engine loads of a model.

    Args:
        shelf: the models folder.
        name: a name or an alias of the catalogue, or a folder of one's own below the models folder.
        suffix: what the file's name ends with, `.onnx` for instance.
        field: the parameter that names the model, for errors.

    Raises:
        InvalidInput: the catalogue knows the model, and it has no such file.
        Permanent: the file is missing or not converted, or a folder of one's own holds none or several.
        IntegrityError: it is damaged.
    """
    model = load_models().named(name)
    if model is not None:
        paths = [path for path in shelf.require(model).values() if path.name.endswith(suffix)]
        if len(paths) != 1:
            raise InvalidInput(field, f"{model.name} ({model.role}) is no single {suffix} file", "Name another model.")
        return Single(model.name, paths[0], shelf.digest(model))
    folder = shelf.folder / name
    own = sorted(path for path in folder.glob(f"*{suffix}") if path.is_file())
    if len(own) != 1:
        found = f"{len(own)} of them" if folder.is_dir() else "no such folder"
        raise Permanent(
            f"{folder} is to hold one {suffix} file, and there is {found}. `doctorgen models list` names the models of "
            f"the catalogue; a model of your own is a folder with one {suffix} file in it."
        )
    return Single(name, own[0], shelf.own_digest(name) or "")
