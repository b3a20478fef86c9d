"""Where things lie in the bucket.

inbox/…                                      photos put there by callers, before a job takes them in
subjects/<subject>/<kind>/<sha256>.<ext>     artifacts
subjects/<subject>/manifests/<step key>.json manifests
"""

from shared.contracts.artifacts import ArtifactKind, ArtifactRef
from shared.contracts.base import Digest
from shared.contracts.errors import InvalidInput
from shared.storage.digest import sha256

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "application/json": "json", "application/octet-stream": "bin"}


def subject_prefix(subject: str) -> str:
    """Everything derived from one person lies below this."""
    return f"subjects/{subject}/"


def manifest_key(subject: str, step_key: Digest) -> str:
    """Where the manifest of a step stands once the step is done."""
    return f"{subject_prefix(subject)}manifests/{step_key}.json"


def inbox_key(digest: Digest, media_type: str) -> str:
    """Where our own client puts a photo for intake. Raises InvalidInput for a media type we do not store."""
    return f"inbox/{digest}.{_extension(media_type)}"


def artifact_ref(subject: str, kind: ArtifactKind, data: bytes, media_type: str) -> ArtifactRef:
    """The reference under which these bytes are, or will be, stored. Raises InvalidInput for an unknown media type."""
    digest = sha256(data)
    key = f"{subject_prefix(subject)}{kind}/{digest}.{_extension(media_type)}"
    return ArtifactRef(key=key, sha256=digest, size=len(data), media_type=media_type)


def _extension(media_type: str) -> str:
    try:
        return EXTENSIONS[media_type]
    except KeyError:
        raise InvalidInput(
            "media_type", f"{media_type!r} is not stored here", f"Use {', '.join(EXTENSIONS)}."
        ) from None
