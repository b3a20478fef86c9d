"""References to blobs, and the manifest a finished step leaves behind."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from shared.contracts.base import Contract, Digest, Identifier, Instant, Name, ObjectKey, Parameters, Seconds, Seed, Usd
from shared.contracts.request import Consent

ArtifactKind = Literal["photo", "identity", "intermediate", "result", "verdict"]
"""What a blob is for; retention is set by kind."""


class ArtifactRef(Contract):
    """An immutable blob in the object store, named by its digest."""

    key: ObjectKey
    sha256: Digest
    size: Annotated[int, Field(ge=0, description="bytes")]
    media_type: str


class Manifest(Contract):
    """What a finished step left. Standing at its step key, it is the proof that the step is done."""

    schema_version: Literal[1] = 1
    step_key: Digest
    job_id: Identifier
    subject: Identifier
    consent: Consent | None = None
    step: Name
    operation: str
    operation_version: int
    engine: Name
    models: dict[str, Digest]
    licences: dict[str, str] = Field(default_factory=dict, description="of each model; older manifests say none")
    params: Parameters
    seed: Seed | None = None
    inputs: dict[str, tuple[Digest, ...]]
    outputs: dict[str, tuple[ArtifactRef, ...]]
    facts: dict[str, JsonValue] = Field(description="what the operation measured or decided")
    worker: str
    started_at: Instant
    seconds: Seconds
    cost_usd: Usd
