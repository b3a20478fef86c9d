"""A pack of InsightFace by its name: where it lies, its digests, and how it is borrowed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.models.catalogue import load_models
from shared.models.residency import Residency
from shared.models.shelf import Shelf
from shared.vision.networks.insight import (
    PACKS,
    Insight,
    Pack,
    guesser_key,
    guesser_resident,
    insight_key,
    insight_resident,
    locate,
    own_pack,
)
from shared.vision.weights import sha256_of


@dataclass(frozen=True)
class Packed:
    """A pack that is there."""

    pack: Pack
    place: Path
    """Folder of its files."""
    attributes: bool
    """Whether sex and age are guessed."""

    @property
    def digests(self) -> Mapping[str, str]:
        """Of its files, name to SHA-256. Reads them."""
        return {f"{self.pack.name}/{file}": sha256_of(self.place / file) for file in self.pack.files(self.attributes)}

    def keys(self, device: str) -> frozenset[str]:
        """What `borrowed` borrows, as the Residency names it."""
        guesser = {guesser_key(self.place, self.pack, device)} if self.attributes else set()
        return frozenset({insight_key(self.place, device), *guesser})

    @contextmanager
    def borrowed(self, device: str, residency: Residency) -> Iterator[Insight]:
        """What finds and describes faces, on the device until the block ends.

        Raises:
            Permanent: a file is no such model, or onnxruntime cannot use the device.
            ResourceExhausted: it does not fit.
        """
        place, pack = self.place, self.pack
        with residency.use(insight_key(place, device), lambda: insight_resident(place, pack, device)) as finder:
            if not self.attributes:
                yield finder.it
                return
            key = guesser_key(place, pack, device)
            with residency.use(key, lambda: guesser_resident(place, pack, device)) as guesser:
                yield finder.it.guessing(guesser.it)


def pack_named(shelf: Shelf, name: str, *, attributes: bool) -> Packed:
    """A pack of the catalogue, or of a folder of one's own.

    Args:
        shelf: the models folder.
        name: a name or an alias of the catalogue, or of a folder below it.
        attributes: whether sex and age are to be guessed.

    Raises:
        Permanent: files are missing; says which and how to come by them.
    """
    known = load_models().named(name)
    proper = name if known is None else known.name
    folder = shelf.folder / proper
    if proper in PACKS:
        return Packed(PACKS[proper], locate(folder, PACKS[proper], attributes), attributes)
    return Packed(own_pack(folder, proper, attributes), folder, attributes)
