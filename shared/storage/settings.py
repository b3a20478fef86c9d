"""Where the artifacts lie, as the product's settings name it."""

from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from shared.contracts.base import invalid_input
from shared.contracts.errors import InvalidInput

AWS_ENDPOINT = "s3.amazonaws.com"
FIELD = "storage.url"
EXAMPLE = "s3://bucket?endpoint=host:port&secure=false"


class FolderTarget(BaseModel):
    """What a `file://` URL or a path says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: Path


class S3Target(BaseModel):
    """What an `s3://` URL says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    endpoint: Annotated[str, Field(pattern=r"^[A-Za-z0-9.\[\]:-]+$")] = AWS_ENDPOINT
    secure: bool = True
    region: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")] | None = None


class StorageSettings(BaseModel):
    """The `storage` section.

    `url` is one of:

    - `file:///absolute/folder`, or a path: a folder, made where it is missing;
    - `s3://bucket?endpoint=host:port&secure=false&region=us-east-1`: an S3 server. Without an endpoint it is Amazon's,
      without `secure` the connection is encrypted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = "s3://doctorgen?endpoint=localhost:9000&secure=false"
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    create_bucket: bool = Field(default=True, description="make the bucket where it is missing")
    connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 3.0
    read_timeout_s: Annotated[float, Field(gt=0, le=600, description="without a byte moving")] = 30.0
    retries: Annotated[int, Field(ge=0, le=10, description="after a refused or broken connection, or a 5xx")] = 2
    durable: bool = Field(default=True, description="a folder's blobs survive a power cut (fsync)")

    @field_validator("url")
    @classmethod
    def _url_is_understood(cls, url: str) -> str:
        parse_url(url)
        return url

    @property
    def target(self) -> FolderTarget | S3Target:
        """The URL, taken apart."""
        return parse_url(self.url)


def parse_url(url: str) -> FolderTarget | S3Target:
    """Take a store's URL apart. Raises InvalidInput, which never repeats what could be a secret."""
    parts = urlsplit(url)
    if not parts.scheme:
        return FolderTarget(root=Path(url))
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path or parts.query:
            raise InvalidInput(FIELD, f"{url!r} names no folder", "Give file:///absolute/folder.")
        return FolderTarget(root=Path(unquote(parts.path)))
    if parts.scheme != "s3":
        raise InvalidInput(FIELD, f"the scheme is {parts.scheme[:20]!r}", f"Give file:///absolute/folder or {EXAMPLE}.")
    if "@" in parts.netloc:
        raise InvalidInput(FIELD, "it holds keys", "Set storage.access_key and storage.secret_key instead.")
    if parts.path not in {"", "/"}:
        raise InvalidInput(FIELD, f"it names a folder {parts.path!r} in the bucket", f"Give a bucket only: {EXAMPLE}.")
    try:
        return S3Target.model_validate({**dict(parse_qsl(parts.query, keep_blank_values=True)), "bucket": parts.netloc})
    except ValidationError as error:
        raise invalid_input(error, FIELD, S3Target) from error
