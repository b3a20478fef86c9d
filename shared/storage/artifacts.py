"""Artifacts on top of a store: written under their own digest, checked against it when read."""

from shared.contracts.artifacts import ArtifactKind, ArtifactRef
from shared.contracts.errors import IntegrityError
from shared.storage.digest import sha256
from shared.storage.layout import artifact_ref
from shared.storage.port import ArtifactStore


def fetch(store: ArtifactStore, ref: ArtifactRef) -> bytes:
    """The artifact's bytes.

    Raises:
        IntegrityError: it is missing, or its bytes are not those the reference names.
        Transient: the store cannot be reached.
    """
    data = store.get(ref.key)
    if data is None:
        raise IntegrityError(f"artifact {ref.key} is missing from the store")
    if len(data) != ref.size or sha256(data) != ref.sha256:
        raise IntegrityError(f"artifact {ref.key} is corrupt: its bytes are not those that its reference names")
    return data


def store_artifact(store: ArtifactStore, subject: str, kind: ArtifactKind, data: bytes, media_type: str) -> ArtifactRef:
    """Commit a subject's artifact under its digest and return the reference. One that stands is not written again.

    Raises:
        InvalidInput: the media type is not one we store.
        Transient: the store cannot be reached.
        ResourceExhausted: no room is left.
    """
    ref = artifact_ref(subject, kind, data, media_type)
    store.put(ref.key, data, media_type)
    return ref
