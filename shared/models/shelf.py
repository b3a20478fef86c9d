"""What of a model is there, and whether it is what it should be. Nothing here loads a weight."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.contracts.errors import IntegrityError, Permanent
from shared.models.catalogue import Model, ModelFile
from shared.models.lock import Pin, pin, pin_of, read_pins
from shared.storage.digest import sha256

log = logging.getLogger(__name__)

State = Literal["ready", "to convert", "missing", "truncated", "wrong"]

ROUNDING = 0.9
"""A file of approximate size is complete when it has at least this share of it."""

HIDDEN = "."
"""What begins so in a model's folder is a downloader's own: unfinished files, notes."""


@dataclass(frozen=True)
class Finding:
    """What is the matter with one file of a model."""

    model: Model
    path: Path
    state: Literal["missing", "truncated", "wrong"]
    expected: str
    found: str

    @property
    def mend(self) -> str:
        """The command that puts it right."""
        if self.model.made_by is not None:
            return self.model.made_by
        made_here = self.path.name in self.model.gives
        return f"doctorgen models {'convert' if made_here else 'download'} {self.model.name}"

    def __str__(self) -> str:
        if self.state == "missing":
            return f"{self.path} is missing. `{self.mend}` brings it."
        return f"{self.path} is {self.state}: expected {self.expected}, found {self.found}. `{self.mend}` mends it."


@dataclass(frozen=True)
class Standing:
    """How a model stands on this machine, and what is the matter if it is not ready."""

    model: Model
    state: State
    findings: tuple[Finding, ...] = ()


class Shelf:
    """The models folder: `<folder>/<model>/<file>`, and the lock file beside the models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, model: Model, file: str) -> Path:
        """Where a file of a model lies, or is to lie."""
        return self.folder / model.name / file

    def standing(self, model: Model) -> Standing:
        """How a model stands, by its files' sizes alone: quick, and blind to a wrong byte.

        Where the conversion has been done, the files it was made from need not be there any more.
        """
        pins = read_pins(self.folder).get(model.name, {})
        if model.gives:
            made = [self._finding(model, path, pins, None) for path in model.gives]
            if not any(made):
                return Standing(model, "ready")
            damaged = tuple(one for one in made if one is not None and one.state != "missing")
            if damaged:
                return Standing(model, damaged[0].state, damaged)
        findings = tuple(self._download_findings(model, pins))
        if findings:
            return Standing(model, findings[0].state, findings)
        return Standing(model, "to convert" if model.gives else "ready")

    def verify(self, model: Model) -> Standing:
        """The same by every file's digest. Pins those that are seen for the first time.

        Against digests the catalogue knows, a file is checked even when it is first seen.
        """
        standing = self.standing(model)
        pins = read_pins(self.folder).get(model.name, {})
        published = {file.path: file.sha256 for file in model.files if file.sha256}
        findings = {finding.path: finding for finding in standing.findings}
        seen: dict[str, Pin] = {}
        for file in self.present(model):
            path = self.path(model, file)
            found = pin_of(path)
            expected = published.get(file) or (pins[file].sha256 if file in pins else None)
            by_size = findings.get(path)
            if expected not in {None, found.sha256} or by_size is not None:
                findings[path] = Finding(
                    model,
                    path,
                    by_size.state if by_size else "wrong",
                    _expected(by_size, expected),
                    f"{found.size} bytes, SHA-256 {found.sha256}",
                )
            elif pins.get(file) != found and not findings.keys() & {*path.parents}:  # no unfinished folder
                seen[file] = found
        if seen:
            pin(self.folder, model.name, seen)
        if not findings:
            return standing
        return Standing(model, next(iter(findings.values())).state, tuple(findings.values()))

    def present(self, model: Model) -> list[str]:
        """The paths of a model's own files that are there: downloaded ones, then converted ones."""
        files = [path for file in model.files for path in self._expand(model, file)]
        return [path for path in dict.fromkeys((*files, *model.gives)) if self.path(model, path).is_file()]

    def require(self, model: Model) -> dict[str, Path]:
        """The files that an engine loads, by their paths below the model's folder.

        Raises:
            Permanent: one is missing, or not converted yet; says which command brings it. Or the model is a pickle that
                cannot be converted: those are never loaded.
            IntegrityError: one is truncated, or is not what was pinned. Files that were changed since are read through.
        """
        if not model.loadable:
            raise Permanent(f"{model.title} is a pickle that cannot be converted yet, and pickles are not loaded.")
        standing = self.standing(model)
        if standing.findings:
            error = Permanent if standing.state == "missing" else IntegrityError
            raise error(f"{model.title}: {standing.findings[0]}")
        if standing.state == "to convert":
            raise Permanent(f"{model.title} is not converted yet. `doctorgen models convert {model.name}` does it.")
        files = {file: self.path(model, file) for file in self.loaded(model)}
        self._check_changed(model, files)
        return files

    def loaded(self, model: Model) -> list[str]:
        """The paths of the files that an engine loads: those that the conversion gives, else the downloaded ones."""
        return list(model.gives) or [path for file in model.files for path in self._expand(model, file)]

    def digest(self, model: Model) -> str:
        """The digest of what an engine loads of a model, from the lock file: no weight is read.

        A model of one file has that file's digest; one of several the digest of their digests' and paths' list.

        Raises:
            Permanent: the model is not ready, or was never pinned.
        """
        self.require(model)
        pins = read_pins(self.folder).get(model.name, {})
        files = self.loaded(model)
        unpinned = [file for file in files if file not in pins]
        if unpinned:
            raise Permanent(
                f"The digest of {self.path(model, unpinned[0])} is not known: `doctorgen models verify {model.name}`."
            )
        return _digest_of({file: pins[file].sha256 for file in files})

    def own_digest(self, name: str) -> str | None:
        """The digest of all files in a folder of one's own, by the same rule; None where there are none.

        A file that is not pinned, or was changed since, is read through.
        """
        root = self.folder / name
        pins = read_pins(self.folder).get(name, {})
        digests = {}
        for path in root.rglob("*"):
            file = path.relative_to(root)
            if path.is_file() and not _is_hidden(file):
                pinned = pins.get(file.as_posix())
                untouched = pinned is not None and pinned.fits(path)
                digests[file.as_posix()] = pinned.sha256 if pinned is not None and untouched else pin_of(path).sha256
        return _digest_of(digests) if digests else None

    def _check_changed(self, model: Model, files: Mapping[str, Path]) -> None:
        """Read through the pinned files that were changed since, and note their new time if they are what they were.

        Raises:
            IntegrityError: one is not.
        """
        pins = read_pins(self.folder).get(model.name, {})
        again: dict[str, Pin] = {}
        for file, path in files.items():
            if file in pins and not pins[file].fits(path):
                again[file] = pin_of(path)
                expected, found = pins[file].sha256, again[file].sha256
                if found != expected:
                    finding = Finding(model, path, "wrong", f"SHA-256 {expected}", f"SHA-256 {found}")
                    raise IntegrityError(f"{model.title}: {finding}")
        if again:
            try:
                pin(self.folder, model.name, again)
            except OSError as error:  # a folder that only others may write to: then it is read through each time
                log.info("%s: the lock file cannot be written (%s)", self.folder, error)

    def _download_findings(self, model: Model, pins: dict[str, Pin]) -> Iterator[Finding]:
        for file in model.files:
            finding = (
                self._folder_finding(model, file, pins)
                if file.folder is not None
                else self._finding(model, file.path, pins, file)
            )
            if finding is not None:
                yield finding

    def _finding(self, model: Model, file: str, pins: dict[str, Pin], known: ModelFile | None) -> Finding | None:
        path = self.path(model, file)
        exact = known.size if known and not known.approximate else pins[file].size if file in pins else None
        least = exact or (int(known.size * ROUNDING) if known else 1)
        if not path.is_file():
            return Finding(model, path, "missing", f"{least} bytes", "nothing")
        size = path.stat().st_size
        if size < least and (exact or known is None or not _is_small(known)):
            return Finding(model, path, "truncated", f"{exact or f'about {least}'} bytes", f"{size} bytes")
        if exact and size > exact:
            return Finding(model, path, "wrong", f"{exact} bytes", f"{size} bytes")
        return None

    def _folder_finding(self, model: Model, file: ModelFile, pins: dict[str, Pin]) -> Finding | None:
        pinned = [path for path in pins if path.startswith(f"{file.folder}/")]
        for path in pinned:
            finding = self._finding(model, path, pins, None)
            if finding is not None:
                return finding
        folder = self.path(model, file.folder or "")
        found = sum(self.path(model, path).stat().st_size for path in self._expand(model, file))
        if not found:
            return Finding(model, folder, "missing", f"about {file.size} bytes", "nothing")
        if not pinned and found < file.size * ROUNDING and not _is_small(file):
            return Finding(model, folder, "truncated", f"about {file.size} bytes", f"{found} bytes")
        return None

    def _expand(self, model: Model, file: ModelFile) -> list[str]:
        """The path itself, or those of all files in the folder it means."""
        if file.folder is None:
            return [file.path]
        root = self.folder / model.name
        files = sorted(path for path in (root / file.folder).rglob("*") if path.is_file())
        paths = [path.relative_to(root) for path in files]
        return [path.as_posix() for path in paths if not _is_hidden(path)]


def _digest_of(files: Mapping[str, str]) -> str:
    """Of several files, by path: the digest of their digests' and paths' list. Of one file its own."""
    if len(files) == 1:
        return next(iter(files.values()))
    return sha256("".join(f"{digest}  {file}\n" for file, digest in sorted(files.items())).encode())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(HIDDEN) for part in path.parts)


def _expected(by_size: Finding | None, sha256: str | None) -> str:
    return ", ".join(([by_size.expected] if by_size else []) + ([f"SHA-256 {sha256}"] if sha256 else []))


def _is_small(file: ModelFile) -> bool:
    """Of configurations and tokenizers only the order of magnitude is known: whether they are there must do."""
    return file.approximate and file.size < 100_000_000 and not file.path.endswith((".safetensors", ".onnx", ".pt"))
