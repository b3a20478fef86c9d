"""Which queued messages speak of a subject, whatever kind of message they are."""

import json
from dataclasses import dataclass, field
from typing import Any

INBOX_PREFIX = "inbox/"


@dataclass
class Mentions:
    """Looks through messages for a subject, and collects where the originals of its pictures lie in the inbox."""

    subject: str
    originals: set[str] = field(default_factory=set)

    def doom(self, body: bytes | str) -> bool:
        """Whether a message is the subject's alone and has to go.

        A batch that names it among others stays: intake refuses the subject's part of it. So does the order to erase
        the subject, which others have yet to hear.
        """
        document = _parsed(body)
        for part in (document, *_listed(document.get("subjects"))):
            if part.get("subject") == self.subject:
                images = [image for image in _named(part.get("images")) if image.get("shared") is not True]
                keys = {picture.get("key") for picture in (*_listed(part.get("photos")), *images)}
                self.originals |= {key for key in keys if isinstance(key, str) and key.startswith(INBOX_PREFIX)}
        if document.get("subject") == self.subject:
            return document.get("kind") != "erase"
        inner = document.get("body")
        return isinstance(inner, str) and self.doom(inner)


def _parsed(body: bytes | str) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _named(found: object) -> list[dict[str, Any]]:
    return _listed(list(found.values())) if isinstance(found, dict) else []


def _listed(found: object) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
