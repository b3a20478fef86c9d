"""Keys and prefixes, checked the same way by both adapters before anything is touched."""

import re

from pydantic import TypeAdapter, ValidationError

from shared.contracts.base import ObjectKey
from shared.contracts.errors import InvalidInput

_KEY = TypeAdapter(ObjectKey)
_PREFIX = re.compile(r"[A-Za-z0-9._/-]{0,512}")
_MEND = "Use letters, digits, '.', '_' and '-', in segments joined by single slashes, 512 characters at most."


def checked_key(key: str) -> str:
    """The key itself. Raises InvalidInput where it is no `ObjectKey`."""
    try:
        return _KEY.validate_python(key, strict=True)
    except ValidationError as error:
        raise InvalidInput("key", f"{key[:80]!r} is no object key", _MEND) from error


def checked_prefix(prefix: str) -> str:
    """The prefix itself. Raises InvalidInput where no `ObjectKey` could begin with it."""
    folders = prefix.split("/")[:-1]
    if not _PREFIX.fullmatch(prefix) or any(part in {"", ".", ".."} for part in folders):
        raise InvalidInput("prefix", f"{prefix[:80]!r} begins no object key", _MEND)
    return prefix
