"""Brings models onto this machine: asks for room first, resumes, pins what came and refuses what is not the pinned."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from shared.contracts.errors import IntegrityError, InvalidInput, ResourceExhausted
from shared.models.catalogue import Model, ModelFile
from shared.models.lock import forget
from shared.models.shelf import Finding, Shelf, Standing

Fetch = Callable[[Model, ModelFile, Path], None]
"""Brings one file of a model, or one folder, into the model's own folder; goes on where an earlier try ended."""

Free = Callable[[Path], int]
"""Free bytes on the disk of a folder that exists."""

RESERVE_BYTES = 1_000_000_000
"""Left free whatever is downloaded."""


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder that exists."""
    return shutil.disk_usage(folder).free


def check_sources(models: Iterable[Model]) -> None:
    """Refuse what no program may fetch.

    Raises:
        InvalidInput: says how to come by it.
    """
    for model in models:
        if model.made_by is not None:
            raise InvalidInput(model.name, "it is nowhere to be downloaded", f"`{model.made_by}` makes it.")
        if model.by_hand is not None:
            raise InvalidInput(
                model.name,
                "it must be downloaded by hand",
                f"{model.by_hand} Put it into the folder that `doctorgen models where {model.name}` names, then run "
                f"`doctorgen models verify {model.name}`.",
            )


def check_room(shelf: Shelf, models: Iterable[Model], free: Free = free_bytes) -> None:
    """Ask for room before anything is fetched. What is there already, unfinished files too, needs none.

    Raises:
        ResourceExhausted: names what is needed and what there is.
    """
    needed = sum(max(0, model.size - _there(shelf, model)) for model in models if not is_there(shelf.standing(model)))
    folder = next(path for path in (shelf.folder, *shelf.folder.parents) if path.exists())
    available = free(folder)
    if needed and needed + RESERVE_BYTES > available:
        raise ResourceExhausted(
            f"The download needs {_gb(needed)} and {_gb(RESERVE_BYTES)} in reserve; the disk of {folder} has "
            f"{_gb(available)} free. Make room, or set models_dir to a folder on a larger disk."
        )


def download(shelf: Shelf, model: Model, fetch: Fetch, *, repin: bool = False) -> Standing:
    """Fetch what is missing or damaged of a model, and check every file's digest.

    Args:
        shelf: the models folder.
        model: what to fetch.
        fetch: how.
        repin: forget what was pinned before, where the source has changed a file and that is accepted.

    Raises:
        IntegrityError: what came is not what is pinned or published.
        InvalidInput: the source wants its terms accepted first.
        Transient: the source cannot be reached, or the connection broke.
    """
    if repin:
        forget(shelf.folder, model.name)
    standing = shelf.verify(model)
    if not is_there(standing):
        for finding in standing.findings:
            if finding.path.is_file():  # of an unfinished folder the finished files are kept
                finding.path.unlink()
        for file in model.files:
            if file.folder is not None or not shelf.path(model, file.path).is_file():
                fetch(model, file, shelf.folder / model.name)
        standing = shelf.verify(model)
        if standing.findings:
            raise IntegrityError(_account(standing.findings[0]))
    return standing


def is_there(standing: Standing) -> bool:
    """Whether nothing is to be downloaded."""
    return standing.state in {"ready", "to convert"}


def _account(finding: Finding) -> str:
    name = finding.model.name
    return (
        f"The source sent another {finding.path.name} than it should: expected {finding.expected}, found "
        f"{finding.found}. `doctorgen models download {name}` tries again. Where the source is known to have changed, "
        f"`doctorgen models download {name} --repin` accepts the new file, unless the catalogue states the digest."
    )


def _there(shelf: Shelf, model: Model) -> int:
    """Bytes in the model's folder, those of unfinished downloads included."""
    return sum(path.stat().st_size for path in (shelf.folder / model.name).rglob("*") if path.is_file())


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
