"""SHA-256, the name of every blob."""

import hashlib


def sha256(data: bytes) -> str:
    """The digest in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()
