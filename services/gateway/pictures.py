"""The pictures of requests: checked, made plain, and stored as artifacts of their subject."""

from shared.contracts.artifacts import ArtifactRef
from shared.contracts.errors import InvalidInput
from shared.contracts.request import ImageRef, JobRequest, PhotoRef
from shared.storage.artifacts import store_artifact
from shared.storage.digest import sha256
from shared.storage.port import ArtifactStore
from shared.vision.photos import PhotoLimits, normalise_photo


class Pictures:
    """Takes pictures in: turns them upright, drops their metadata, stores them. For one thread.

    Each is looked at once, however many requests name it, and a refusal is remembered, too: the jobs of a batch ask for
    the same pictures in every scenario.
    """

    def __init__(self, store: ArtifactStore, limits: PhotoLimits) -> None:
        self._store = store
        self._limits = limits
        self._known: dict[tuple[str, str, PhotoRef | ImageRef], ArtifactRef | InvalidInput] = {}

    def photos(self, request: JobRequest) -> tuple[ArtifactRef, ...]:
        """The person's photos.

        Raises:
            InvalidInput: a photo cannot be used; names it as `photos[n]`, n from 1.
            Transient, Permanent, ResourceExhausted: the object store's trouble.
        """
        numbered = enumerate(request.photos, start=1)
        return tuple(self._taken(request.subject, photo, f"photos[{number}]") for number, photo in numbered)

    def images(self, request: JobRequest) -> dict[str, ArtifactRef]:
        """The further images, by name; the errors are those of `photos`, naming `images.<name>`."""
        return {name: self._taken(request.subject, one, f"images.{name}") for name, one in request.images.items()}

    def _taken(self, subject: str, picture: PhotoRef | ImageRef, field: str) -> ArtifactRef:
        place = (subject, field, picture)
        if place not in self._known:
            try:
                self._known[place] = self._stored(subject, picture, field)
            except InvalidInput as error:
                self._known[place] = error
        known = self._known[place]
        if isinstance(known, InvalidInput):
            raise known
        return known

    def _stored(self, subject: str, picture: PhotoRef | ImageRef, field: str) -> ArtifactRef:
        data = self._store.get(picture.key)
        if data is None:
            raise InvalidInput(field, f"there is nothing at {picture.key}", "Put the file there before the request.")
        if sha256(data) != picture.sha256:
            found = f"the bytes at {picture.key} do not have the digest stated"
            raise InvalidInput(field, found, "Put the file there again.")
        normal = normalise_photo(data, field=field, name=picture.key, limits=self._limits)
        return store_artifact(self._store, subject, "photo", normal, "image/png")
