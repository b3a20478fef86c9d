"""Artifacts on top of a store: written under their own digest, checked against it when read."""

from shared.contracts.artifacts import ArtifactRef
from shared.contracts.errors import IntegrityError
from shared.storage.digest import sha256
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
    if sha256(data) != ref.sha256:
        raise IntegrityError(f"artifact {ref.key} is corrupt: its bytes do not have the digest in its name")
    return data
