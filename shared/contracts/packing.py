"""A routing slip on the wire: what several steps are told alike is written once, where the whole is too large else.

A recipe that paints in four steps says its prompt four times. Each step keeps parameters of its own in memory and in
its key; only the document is packed, and unpacked before anything looks at it.
"""

import json
from collections import Counter
from typing import Any, Final

WORDS: Final = "words"
REFERENCE: Final = "$words"
WORTH_CHARACTERS: Final = 64
"""What is shorter gains too little by being written elsewhere."""

Document = dict[str, Any]


def packed(body: bytes) -> bytes:
    """The same document with long parameters that several steps share written once, below `words`."""
    document = json.loads(body)
    steps = document["steps"]
    told = Counter(value for step in steps for value in step["params"].values() if _is_long(value))
    names = {value: str(place) for place, value in enumerate(value for value, count in told.items() if count > 1)}
    if not names:
        return body
    for step in steps:
        step["params"] = {
            name: {REFERENCE: names[value]} if _is_long(value) and value in names else value
            for name, value in step["params"].items()
        }
    document[WORDS] = {name: value for value, name in names.items()}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def unpacked(body: bytes | str) -> bytes | str:
    """The document as it was before it was packed; anything else as it is, for others to refuse."""
    if f'"{REFERENCE}"' not in (body if isinstance(body, str) else body.decode(errors="replace")):
        return body
    try:
        return json.dumps(_resolved(json.loads(body)), ensure_ascii=False, separators=(",", ":")).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return body


def _resolved(document: Document) -> Document:
    words = document[WORDS]
    steps = [
        {**step, "params": {name: _value(value, words) for name, value in step["params"].items()}}
        for step in document["steps"]
    ]
    return {**{name: value for name, value in document.items() if name != WORDS}, "steps": steps}


def _value(value: object, words: Document) -> object:
    return words[value[REFERENCE]] if isinstance(value, dict) and value.keys() == {REFERENCE} else value


def _is_long(value: object) -> bool:
    return isinstance(value, str) and len(value) >= WORTH_CHARACTERS
