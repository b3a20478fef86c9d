"""What a caller asks for."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, StringConstraints, model_validator

from shared.contracts.base import Contract, Digest, Identifier, Instant, Name, ObjectKey, Seed, Usd
from shared.contracts.gate import AttemptCount

Lane = Literal["interactive", "bulk"]
Words = Annotated[str, StringConstraints(max_length=200, strip_whitespace=True)]


class Consent(Contract):
    """The ground on which a person's photos are processed."""

    basis: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        description="for instance 'written consent of the doctor'"
    )
    reference: Annotated[str, StringConstraints(max_length=200)] | None = None
    given_at: Instant | None = None


class PhotoRef(Contract):
    """A photo that the caller has put under the bucket's `inbox/` prefix."""

    key: Annotated[ObjectKey, StringConstraints(pattern=r"^inbox/")]
    sha256: Digest
    face: Annotated[int, Field(ge=1, le=20)] | None = Field(
        default=None, description="which face is meant where the photo shows several: 1 is the leftmost"
    )


def _not_photos(name: str) -> str:
    if name == PHOTOS:
        raise ValueError(f"'{PHOTOS}' is the name of the photos of the person; give the image another")
    return name


PHOTOS = "photos"
MOST_IMAGES = 8

ImageName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_]{0,63}$"), AfterValidator(_not_photos)]
"""What a recipe calls an image that it reads beside the photos: lower case, digits and `_`; not `photos`."""


class ImageRef(Contract):
    """A picture beside the photos that the caller has put under the bucket's `inbox/` prefix."""

    key: Annotated[ObjectKey, StringConstraints(pattern=r"^inbox/")]
    sha256: Digest
    shared: bool = Field(
        default=False, description="not this person's: an erasure of the person leaves what lies at the key to others"
    )


Images = Annotated[dict[ImageName, ImageRef], Field(max_length=MOST_IMAGES)]


class SubjectAttributes(Contract):
    """What the prompt may say of the person. All optional; nothing is guessed from the photos."""

    gender: Words | None = None
    age: Annotated[int, Field(ge=18, le=110)] | None = None
    speciality: Words | None = None
    appearance: Words | None = Field(default=None, description="for instance 'grey beard, round glasses'")
    attire: Words | None = Field(default=None, description="for instance 'white lab coat'")


class JobRequest(Contract):
    """One request for one finished image: one doctor, one scenario. Published to `doctorgen.intake`."""

    schema_version: Literal[1] = 1
    job_id: Identifier | None = Field(default=None, description="chosen by the caller; derived where absent")
    idempotency_key: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        default=None, description="two requests of one caller with the same key are one job"
    )
    batch_id: Identifier | None = None
    caller: Identifier = "anonymous"
    subject: Identifier = Field(description="the person in the photos; owns every artifact derived from them")
    consent: Consent | None = None
    photos: Annotated[tuple[PhotoRef, ...], Field(min_length=1, max_length=5)]
    images: Images = Field(
        default_factory=dict, description="exactly those that the recipe reads, by the names it has for them"
    )
    scenario: Name
    photography_style: Name | None = None
    custom_prompt: Annotated[str, StringConstraints(max_length=1000, strip_whitespace=True)] = ""
    attributes: SubjectAttributes = SubjectAttributes()
    recipe: Name | None = Field(default=None, description="the deployment's default where absent")
    engine: Name | None = Field(default=None, description="the deployment's default where absent")
    seed: Seed | None = Field(default=None, description="derived from the request's content where absent")
    overrides: dict[Name, dict[str, JsonValue]] = Field(
        default_factory=dict, description="parameters by step name, e.g. {'refine': {'grain': 0.5}}"
    )
    attempts: AttemptCount | None = Field(
        default=None, description="at a picture that passes, in all; the recipe's where absent, 1 takes the first"
    )
    max_cost_usd: Usd | None = Field(
        default=None, description="no further attempt that would cost the job more; the recipe's where absent"
    )
    priority: Lane = "interactive"
    deadline: Instant | None = None

    @model_validator(mode="after")
    def _one_name_for_the_job(self) -> Self:
        if self.job_id is not None and self.idempotency_key is not None:
            raise ValueError("state job_id or idempotency_key, not both: the key decides the job's id")
        return self

    @property
    def own_keys(self) -> Iterator[str]:
        """Where the person's photos and images lie in the inbox, images that are shared with others apart."""
        yield from (photo.key for photo in self.photos)
        yield from (image.key for image in self.images.values() if not image.shared)
