"""Makes what is loaded of what was downloaded: archives unpacked flat, pickles turned into safetensors or ONNX."""

import shutil
from importlib import import_module
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

from shared.contracts.errors import IntegrityError, InvalidInput, Permanent
from shared.models.catalogue import Model
from shared.models.lock import pin, pin_of
from shared.models.shelf import Shelf

CONVERTERS = {
    ".safetensors": ("shared.models.convert", "to_safetensors"),
    ".onnx": ("shared.models.convert_yolo", "to_onnx"),
}
"""What a pickle becomes, to the module and its function that make it."""


def convert(shelf: Shelf, model: Model) -> tuple[str, ...]:
    """Convert a model and pin what came of it; the names of the files made, none where they are there already.

    Raises:
        InvalidInput: there is no conversion of this model.
        IntegrityError: the download is damaged.
        Permanent: the download is missing, a pickle wants to run code, an archive lacks a file; or a library that the
            conversion needs is not installed.
    """
    if not model.gives:
        raise InvalidInput(model.name, *_no_conversion(model))
    standing = shelf.verify(model)
    if standing.state == "ready":
        return ()
    source = shelf.path(model, model.files[0].path)
    if not source.is_file():
        raise Permanent(f"{source} is missing. `doctorgen models download {model.name}` brings it.")
    for finding in standing.findings:
        if finding.path == source:
            raise IntegrityError(str(finding))
    if model.format == "zip":
        unpack(source, model.gives)
    else:
        _convert_pickle(source, shelf.path(model, model.gives[0]))
    pin(shelf.folder, model.name, {name: pin_of(shelf.path(model, name)) for name in model.gives})
    return model.gives


def unpack(archive: Path, wanted: tuple[str, ...]) -> None:
    """Unpack these files, in whichever folder of the archive they are, into the folder that the archive lies in.

    antelopev2.zip holds a folder of its own name, buffalo_l.zip none: programs that expect one of the two stumble over
    the other. Names in the archive decide nothing about where a file goes.

    Raises:
        IntegrityError: the archive is damaged.
        Permanent: it lacks a file, or has two of a name.
    """
    try:
        with ZipFile(archive) as opened:
            members = [one for one in opened.namelist() if not one.endswith("/")]
            for name in wanted:
                of_name = [member for member in members if PurePosixPath(member).name == name]
                if len(of_name) != 1:
                    raise Permanent(f"{archive} has {len(of_name)} files called {name}; one is expected.")
                new = archive.with_name(f".{name}.new")
                with opened.open(of_name[0]) as inside, new.open("wb") as outside:
                    shutil.copyfileobj(inside, outside, 1 << 20)
                new.replace(archive.with_name(name))
    except BadZipFile as error:
        raise IntegrityError(f"{archive} is damaged: {error}. Delete it and download it again.") from error


def _convert_pickle(source: Path, target: Path) -> None:
    """Write what the target's ending says. The libraries are imported here only: the rest must do without them."""
    module, function = CONVERTERS[target.suffix]
    try:
        converter = import_module(module)
    except ModuleNotFoundError as error:
        raise Permanent(
            f"{error.name} is not installed, and converting a pickle needs it. Convert on a worker's machine, or "
            f"install requirements-gpu.txt."
        ) from error
    getattr(converter, function)(source, target)


def _no_conversion(model: Model) -> tuple[str, str]:
    if model.format == "pickle":
        return "it is a pickle of whole objects, and cannot be converted", "docs/models.md says more."
    return "it needs no conversion", f"`doctorgen models verify {model.name}` checks it."
