"""Scenarios and styles that count as soon as their file has changed."""

from pathlib import Path

from shared.prompts.catalogue import Catalogue, load_catalogue


class CachedCatalogue:
    """The catalogue, read again when a file of the user's folder has changed."""

    def __init__(self, user_folder: Path | None) -> None:
        self._folder = user_folder
        self._seen: object = None
        self._catalogue: Catalogue | None = None

    def __call__(self) -> Catalogue:
        """The catalogue as the folder states it now."""
        files = self._folder.rglob("*.yaml") if self._folder else ()
        seen = tuple(sorted((str(path), path.stat().st_mtime_ns) for path in files))
        if self._catalogue is None or seen != self._seen:
            self._catalogue = load_catalogue(self._folder)
            self._seen = seen
        return self._catalogue
