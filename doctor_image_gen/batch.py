"""Batches: what a batch file says, and the requests that it becomes."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from doctor_image_gen.options import LONGEST_WAIT_S
from shared.contracts.base import MESSAGE_LIMIT_BYTES, Identifier, Name, Seed, invalid_input
from shared.contracts.batch import BatchRequest, BatchSubject
from shared.contracts.errors import InvalidInput
from shared.contracts.request import Consent, Lane, PhotoRef, SubjectAttributes

LARGEST_SIDE = 100
"""So many subjects, and so many scenarios, one request takes."""

MOST_PARTS = 10_000


class BatchDoctor(BaseModel):
    """One of a batch's doctors, with photos as files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: Identifier
    photos: Annotated[tuple[str, ...], Field(min_length=1, max_length=5)]
    faces: tuple[Annotated[int, Field(ge=1, le=20)] | None, ...] = ()
    attributes: SubjectAttributes = SubjectAttributes()
    consent: Consent | None = None


class BatchFile(BaseModel):
    """Every doctor in every scenario. Photos are named relative to the file's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_id: Identifier | None = Field(default=None, description="made up where absent")
    caller: Identifier = "anonymous"
    subjects: Annotated[tuple[BatchDoctor, ...], Field(min_length=1)]
    scenarios: Annotated[tuple[Name, ...], Field(min_length=1)]
    photography_style: Name | None = None
    custom_prompt: Annotated[str, StringConstraints(max_length=1000, strip_whitespace=True)] = ""
    recipe: Name | None = None
    engine: Name | None = None
    seed: Seed | None = None
    overrides: dict[Name, dict[str, JsonValue]] = Field(default_factory=dict)
    priority: Lane = "bulk"
    deadline_s: Annotated[float, Field(gt=0, le=LONGEST_WAIT_S)] | None = None

    @classmethod
    def parse(cls, document: object) -> Self:
        """Raises InvalidInput naming the field."""
        try:
            parsed = cls.model_validate_json(json.dumps(document, default=str))
        except ValidationError as error:
            raise invalid_input(error, "", cls) from error
        _check_once("subjects", [doctor.subject for doctor in parsed.subjects])
        _check_once("scenarios", parsed.scenarios)
        return parsed

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file, in YAML or JSON.

        Raises:
            InvalidInput: it cannot be read, or is no batch.
        """
        try:
            document = yaml.safe_load(path.read_text("utf-8"))
        except OSError as error:
            found = f"'{path}' cannot be read ({error.strerror})"
            raise InvalidInput("FILE", found, "Name a file that you may read.") from error
        except (ValueError, yaml.YAMLError) as error:
            raise InvalidInput(str(path), f"this is not YAML: {error}", "Mend the file.") from error
        try:
            return cls.parse(document)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error.field}", error.found, error.mend) from error


def requests_of(
    batch: BatchFile, batch_id: str, photos: Sequence[tuple[PhotoRef, ...]], at: datetime
) -> tuple[BatchRequest, ...]:
    """The batch as requests below 16 KB each, together every subject in every scenario once.

    Args:
        batch: what is wanted.
        batch_id: the batch's id.
        photos: of each subject, in the subjects' order, where they lie.
        at: now; deadlines count from here.

    Raises:
        InvalidInput: one subject in one scenario is too large for a message already, or there are too many parts.
    """
    doctors = tuple(
        BatchSubject(subject=doctor.subject, photos=refs, attributes=doctor.attributes, consent=doctor.consent)
        for doctor, refs in zip(batch.subjects, photos, strict=True)
    )
    fields: dict[str, Any] = {
        **batch.model_dump(exclude={"batch_id", "subjects", "scenarios", "deadline_s"}),
        "batch_id": batch_id,
        "deadline": None if batch.deadline_s is None else at + timedelta(seconds=batch.deadline_s),
        "part": MOST_PARTS,
        "parts": MOST_PARTS,
    }
    parts = _split(fields, doctors, batch.scenarios)
    if len(parts) > MOST_PARTS:
        raise InvalidInput("subjects", f"the batch takes {len(parts)} messages", "File it as several batches.")
    numbered = enumerate(parts, start=1)
    return tuple(part.model_copy(update={"part": number, "parts": len(parts)}) for number, part in numbered)


def _split(
    fields: Mapping[str, Any], subjects: tuple[BatchSubject, ...], scenarios: tuple[str, ...]
) -> list[BatchRequest]:
    """Halve whichever side is longer until every part is small enough."""
    if max(len(subjects), len(scenarios)) <= LARGEST_SIDE:
        part = BatchRequest(**fields, subjects=subjects, scenarios=scenarios)
        size = len(part.to_json())
        if size <= MESSAGE_LIMIT_BYTES:
            return [part]
        if len(subjects) == len(scenarios) == 1:
            found = f"one subject in one scenario takes {size} bytes, more than the {MESSAGE_LIMIT_BYTES} of a message"
            raise InvalidInput("overrides", found, "Shorten custom_prompt, attributes or overrides.")
    if len(subjects) >= len(scenarios):
        middle = len(subjects) // 2
        return [*_split(fields, subjects[:middle], scenarios), *_split(fields, subjects[middle:], scenarios)]
    middle = len(scenarios) // 2
    return [*_split(fields, subjects, scenarios[:middle]), *_split(fields, subjects, scenarios[middle:])]


def _check_once(field: str, names: Sequence[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InvalidInput(field, f"'{twice}' is named twice", "Name each once.")
