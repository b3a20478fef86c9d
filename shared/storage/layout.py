"""Where things lie in the bucket.

inbox/…                                      photos put there by callers, before a job takes them in
subjects/<subject>/<kind>/<sha256>.<ext>     artifacts
subjects/<subject>/manifests/<step key>.json manifests
"""

from shared.contracts.artifacts import ArtifactKind, ArtifactRef
from shared.contracts.base import Digest
from shared.storage.digest import sha256

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "application/json": "json", "application/octet-stream": "bin"}


def subject_prefix(subject: str) -> str:
    """Everything derived from one person lies below this."""
    return f"subjects/{subject}/"


def manifest_key(subject: str, step_key: Digest) -> str:
    """Where the manifest of a step stands once the step is done."""
    return f"{subject_prefix(subject)}manifests/{step_key}.json"


def inbox_key(digest: Digest, media_type: str) -> str:
    """Where our own client puts a photo for intake."""
    return f"inbox/{digest}.{EXTENSIONS[media_type]}"


def artifact_ref(subject: str, kind: ArtifactKind, data: bytes, media_type: str) -> ArtifactRef:
    """The reference under which these bytes are, or will be, stored."""
    digest = sha256(data)
    key = f"{subject_prefix(subject)}{kind}/{digest}.{EXTENSIONS[media_type]}"
    return ArtifactRef(key=key, sha256=digest, size=len(data), media_type=media_type)
