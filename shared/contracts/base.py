"""What every contract shares: strict, immutable, nothing unknown let through."""

import json
from datetime import UTC, datetime
from inspect import isclass
from typing import Annotated, Any, Self, get_args

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    StringConstraints,
    ValidationError,
)
from pydantic.fields import FieldInfo

from shared.contracts.errors import InvalidInput
from shared.contracts.nearest import nearest
from shared.contracts.upgrade import VERSION, OtherVersion, upgraded

MESSAGE_LIMIT_BYTES = 16 * 1024

_NAME, _IDENTIFIER = r"^[a-z0-9][a-z0-9_-]{0,63}$", r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_IN_WORDS = {
    _NAME: "it has lower-case letters, digits, '_' and '-', at most 64, and begins with a letter or digit",
    _IDENTIFIER: "it has letters, digits, '.', '_' and '-', at most 64, and begins with a letter or digit",
}
"""What a pattern asks for."""

Name = Annotated[str, StringConstraints(pattern=_NAME)]
"""A scenario, style, recipe, step, stage or engine: lower case, digits, `_` and `-`."""

Identifier = Annotated[str, StringConstraints(pattern=_IDENTIFIER)]
"""A job, batch, subject or caller. Safe as one segment of an object key: no slash, never starts with a dot."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower-case hexadecimal."""


def _no_traversal(key: str) -> str:
    if any(part in {"", ".", ".."} for part in key.split("/")):
        raise ValueError("must be a relative object key without empty, '.' or '..' segments")
    return key


ObjectKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/-]{1,512}$"), AfterValidator(_no_traversal)]
"""Where a blob lies in the object store, relative to the bucket."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(ge=0.0)]
Usd = Annotated[float, Field(ge=0.0)]
Instant = AwareDatetime
Parameters = dict[str, JsonValue]


def now() -> datetime:
    """The present instant in UTC."""
    return datetime.now(UTC)


class Contract(BaseModel):
    """Base of all wire and storage vocabulary."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, ser_json_inf_nan="strings", validate_default=True
    )

    def to_json(self) -> bytes:
        """The compact JSON document, UTF-8, without absent optional fields."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def from_json(cls, data: bytes | str, where: str = "") -> Self:
        """Parse a document. One of an older schema is upgraded, and so are the documents within it.

        Args:
            data: the document.
            where: what its user calls it, put before the field in errors.

        Raises:
            InvalidInput: the first offending field and what was found there; or the document's schema is newer.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            others = _other_versions(error, cls)
            if not others:
                raise invalid_input(error, where, cls) from error
        return cls.from_json(json.dumps(upgraded(json.loads(data), others)), where)


def invalid_input(error: ValidationError, where: str, model: type[BaseModel]) -> InvalidInput:
    """Turn pydantic's report into one sentence that names the field, what was found and the mend.

    `where` is the path of the document itself, put before the field's own path; may be empty. What was found is not
    repeated where the field holds a secret.
    """
    errors: list[Any] = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    first = errors[0]
    field = ".".join(part for part in (where, *map(str, first["loc"])) if part) or model.__name__
    shown = repr(first.get("input"))
    owner, annotation = _at(model, first["loc"])
    silent = len(shown) > 80 or first["type"] == "missing" or SecretStr in (annotation, *get_args(annotation))
    found = first["msg"] if silent else f"{first['msg']}, found {shown}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        mend = nearest(str(first["loc"][-1]), owner.model_fields)
        return InvalidInput(field, f"there is no such field{more}", mend)
    pattern = first.get("ctx", {}).get("pattern")
    allowed = _IN_WORDS.get(pattern) or _bounds(owner.model_fields.get("".join(map(str, first["loc"][-1:]))))
    return InvalidInput(field, found + more, f"Correct it and try again{allowed and '; '}{allowed}.")


def _other_versions(error: ValidationError, model: type[BaseModel]) -> list[OtherVersion]:
    """Which documents are not of the version that their contract has at present: the model's own, or some within."""
    return [
        OtherVersion(found["loc"][:-1], owner.__name__, found["input"], owner.model_fields[VERSION].default)
        for found in error.errors(include_url=False)
        if found["loc"][-1:] == (VERSION,) and type(found["input"]) is int
        for owner, _ in [_at(model, found["loc"])]
    ]


def _bounds(field: FieldInfo | None) -> str:
    """The bounds of a number's field, `it is at least 0 and at most 4`; empty where it has none."""
    constraints = list(field.metadata) if field is not None else []
    for one in get_args(field.annotation) if field is not None else ():
        for constraint in getattr(one, "__metadata__", ()):
            constraints += constraint.metadata if isinstance(constraint, FieldInfo) else [constraint]
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    stated = {name: getattr(one, name) for one in constraints for name in words if hasattr(one, name)}
    said = [f"{words[name]} {float(stated[name]):.10g}" for name in words if name in stated]
    return f"it is {' and '.join(said)}" if said else ""


def _at(model: type[BaseModel], path: tuple[str | int, ...]) -> tuple[type[BaseModel], Any]:
    """The model that the path's last step belongs to, as far as the path leads through models; the type there."""
    annotation: Any = None
    for step in path:
        inner = [one for one in (annotation, *get_args(annotation)) if isclass(one) and issubclass(one, BaseModel)]
        model = inner[0] if inner else model
        field = model.model_fields.get(str(step))
        annotation = None if field is None else field.annotation
    return model, annotation
