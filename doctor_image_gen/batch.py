"""Batches: what a batch file says, and the requests that it becomes."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from doctor_image_gen.options import LONGEST_WAIT_S
from doctor_image_gen.yaml_file import read_yaml
from shared.contracts.base import MESSAGE_LIMIT_BYTES, Identifier, Name, Seed, Usd, invalid_input
from shared.contracts.batch import BatchRequest, BatchSubject
from shared.contracts.errors import InvalidInput
from shared.contracts.gate import AttemptCount
from shared.contracts.nearest import nearest
from shared.contracts.request import MOST_IMAGES, Consent, ImageName, ImageRef, Lane, PhotoRef, SubjectAttributes

LARGEST_SIDE = 100
"""So many subjects, and so many scenarios, one request takes."""

MOST_PARTS = 10_000

ImageFiles = dict[ImageName, Annotated[str, StringConstraints(min_length=1)]]
"""Files by the names that the recipe has for them."""

ImageRefs = Mapping[str, ImageRef]


class BatchDoctor(BaseModel):
    """One of a batch's doctors, with photos as files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: Identifier
    photos: Annotated[tuple[str, ...], Field(min_length=1, max_length=5)]
    faces: tuple[Annotated[int, Field(ge=1, le=20)] | None, ...] = ()
    images: ImageFiles = Field(
        default_factory=dict, description="of this doctor; before the scenario's and the batch's"
    )
    attributes: SubjectAttributes = SubjectAttributes()
    consent: Consent | None = None


class BatchFile(BaseModel):
    """Every doctor in every scenario. Photos and images are named relative to the file's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_id: Identifier | None = Field(default=None, description="made up where absent")
    caller: Identifier = "anonymous"
    subjects: Annotated[tuple[BatchDoctor, ...], Field(min_length=1)]
    scenarios: Annotated[tuple[Name, ...], Field(min_length=1)]
    images: ImageFiles = Field(default_factory=dict, description="for every job")
    scenario_images: dict[Name, ImageFiles] = Field(
        default_factory=dict, description="for one scenario's jobs; before the batch's"
    )
    photography_style: Name | None = None
    custom_prompt: Annotated[str, StringConstraints(max_length=1000, strip_whitespace=True)] = ""
    recipe: Name | None = None
    engine: Name | None = None
    seed: Seed | None = None
    overrides: dict[Name, dict[str, JsonValue]] = Field(default_factory=dict)
    attempts: AttemptCount | None = Field(default=None, description="at each picture; the recipe's where absent")
    max_cost_usd: Usd | None = Field(default=None, description="of each job; the recipe's where absent")
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
        _check_images(parsed)
        return parsed

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file, in YAML or JSON.

        Raises:
            InvalidInput: it cannot be read, or is no batch.
        """
        try:
            text = path.read_text("utf-8")
        except OSError as error:
            found = f"'{path}' cannot be read ({error.strerror})"
            raise InvalidInput("FILE", found, "Name a file that you may read.") from error
        except ValueError as error:
            raise InvalidInput(str(path), f"this is not YAML: {error}", "Mend the file.") from error
        document = read_yaml(text, str(path))
        try:
            return cls.parse(document)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error.field}", error.found, error.mend) from error


@dataclass(frozen=True)
class BatchImages:
    """Where a batch's images lie: those of each subject, in the subjects' order, of each scenario, and of all."""

    own: Sequence[ImageRefs]
    of_scenario: Mapping[str, ImageRefs] = field(default_factory=dict)
    of_all: ImageRefs = field(default_factory=dict)


def requests_of(
    batch: BatchFile,
    batch_id: str,
    photos: Sequence[tuple[PhotoRef, ...]],
    at: datetime,
    images: BatchImages | None = None,
) -> tuple[BatchRequest, ...]:
    """The batch as requests below 16 KB each, together every subject in every scenario once.

    Args:
        batch: what is wanted.
        batch_id: the batch's id.
        photos: of each subject, in the subjects' order, where they lie.
        at: now; deadlines count from here.
        images: where they lie, if the batch has any.

    Raises:
        InvalidInput: one subject in one scenario is too large for a message already, or there are too many parts.
    """
    images = images or BatchImages(own=[{}] * len(batch.subjects))
    doctors = tuple(
        BatchSubject(
            subject=doctor.subject,
            photos=refs,
            images=dict(own),
            attributes=doctor.attributes,
            consent=doctor.consent,
        )
        for doctor, refs, own in zip(batch.subjects, photos, images.own, strict=True)
    )
    fields: dict[str, Any] = {
        **batch.model_dump(exclude={"batch_id", "subjects", "scenarios", "images", "scenario_images", "deadline_s"}),
        "batch_id": batch_id,
        "deadline": None if batch.deadline_s is None else at + timedelta(seconds=batch.deadline_s),
        "part": MOST_PARTS,
        "parts": MOST_PARTS,
        "images": dict(images.of_all),
    }
    parts = _split(fields, doctors, batch.scenarios, images.of_scenario)
    if len(parts) > MOST_PARTS:
        raise InvalidInput("subjects", f"the batch takes {len(parts)} messages", "File it as several batches.")
    numbered = enumerate(parts, start=1)
    return tuple(part.model_copy(update={"part": number, "parts": len(parts)}) for number, part in numbered)


def _split(
    fields: Mapping[str, Any],
    subjects: tuple[BatchSubject, ...],
    scenarios: tuple[str, ...],
    of_scenario: Mapping[str, ImageRefs],
) -> list[BatchRequest]:
    """Halve whichever side is longer until every part is small enough."""
    if max(len(subjects), len(scenarios)) <= LARGEST_SIDE:
        theirs = {name: dict(of_scenario[name]) for name in scenarios if name in of_scenario}
        part = BatchRequest(**fields, subjects=subjects, scenarios=scenarios, scenario_images=theirs)
        size = len(part.to_json())
        if size <= MESSAGE_LIMIT_BYTES:
            return [part]
        if len(subjects) == len(scenarios) == 1:
            found = f"one subject in one scenario takes {size} bytes, more than the {MESSAGE_LIMIT_BYTES} of a message"
            raise InvalidInput("overrides", found, "Shorten custom_prompt, attributes or overrides.")
    if len(subjects) >= len(scenarios):
        middle = len(subjects) // 2
        halves = [(subjects[:middle], scenarios), (subjects[middle:], scenarios)]
    else:
        middle = len(scenarios) // 2
        halves = [(subjects, scenarios[:middle]), (subjects, scenarios[middle:])]
    return [part for doctors, names in halves for part in _split(fields, doctors, names, of_scenario)]


def _check_once(field: str, names: Sequence[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InvalidInput(field, f"'{twice}' is named twice", "Name each once.")


def _check_images(batch: BatchFile) -> None:
    for name in batch.scenario_images:
        if name not in batch.scenarios:
            mend = nearest(name, batch.scenarios)
            raise InvalidInput(f"scenario_images.{name}", "the batch has no scenario of that name", mend)
    given = (batch.images, *batch.scenario_images.values(), *(doctor.images for doctor in batch.subjects))
    names = {name for images in given for name in images}
    if len(names) > MOST_IMAGES:
        found = f"{len(names)} different images are named"
        raise InvalidInput("images", found, f"A recipe reads at most {MOST_IMAGES}.")
