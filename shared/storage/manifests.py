"""Manifests on top of a store: a step whose manifest stands is done."""

import logging

from shared.contracts.artifacts import Manifest
from shared.contracts.base import Digest
from shared.contracts.errors import InvalidInput
from shared.storage.layout import manifest_key
from shared.storage.port import ArtifactStore

JSON = "application/json"

log = logging.getLogger(__name__)


def read_manifest(store: ArtifactStore, subject: str, step_key: Digest) -> Manifest | None:
    """The manifest of a finished step; None where the step is yet to be done.

    What stands there but is no manifest of this step counts as absent, and is reported to the log. Raises Transient.
    """
    key = manifest_key(subject, step_key)
    data = store.get(key)
    return None if data is None else _parsed(data, key, subject, step_key)


def write_manifest(store: ArtifactStore, manifest: Manifest) -> Manifest:
    """Commit a step; the manifest that stands from now on. One that stood is kept, one that cannot be read replaced.

    Raises:
        Transient: the store cannot be reached.
        ResourceExhausted: no room is left.
    """
    key = manifest_key(manifest.subject, manifest.step_key)
    data = manifest.to_json()
    if store.put(key, data, JSON):
        return manifest
    standing = read_manifest(store, manifest.subject, manifest.step_key)
    if standing is None:
        store.replace(key, data, JSON)
    return standing or manifest


def _parsed(data: bytes, key: str, subject: str, step_key: Digest) -> Manifest | None:
    try:
        manifest = Manifest.from_json(data)
    except InvalidInput as error:
        log.warning("%s (%d bytes) is no manifest, the step will be done again: %s", key, len(data), error)
        return None
    if (manifest.subject, manifest.step_key) != (subject, step_key):
        log.warning("%s is the manifest of another step, %s; the step will be done again", key, manifest.step_key)
        return None
    return manifest
