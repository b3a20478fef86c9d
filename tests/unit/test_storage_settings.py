"""How a store is named, and what is said about a name that is none."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.contracts.errors import InvalidInput
from shared.storage.open import open_store
from shared.storage.settings import FolderTarget, S3Target, StorageSettings


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("file:///srv/store", "/srv/store"),
        ("file://localhost/srv/store", "/srv/store"),
        ("file:///srv/my%20store", "/srv/my store"),
        ("/srv/store", "/srv/store"),
        ("data/store", "data/store"),
    ],
)
def test_a_folder_is_named_by_url_or_path(url: str, root: str) -> None:
    assert StorageSettings(url=url).target == FolderTarget(root=Path(root))


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("s3://bucket", S3Target(bucket="bucket")),
        ("s3://bucket?region=eu-west-1", S3Target(bucket="bucket", region="eu-west-1")),
        (
            "s3://my.bucket?endpoint=localhost:9000&secure=false",
            S3Target(bucket="my.bucket", endpoint="localhost:9000", secure=False),
        ),
        ("s3://bucket/?endpoint=[::1]:9000", S3Target(bucket="bucket", endpoint="[::1]:9000")),
    ],
)
def test_a_bucket_is_named_by_url(url: str, target: S3Target) -> None:
    assert StorageSettings(url=url).target == target


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/folder", r"storage\.url: the scheme is 'ftp'\. Give file:///absolute/folder or s3://"),
        ("file://host/folder", r"storage\.url: 'file://host/folder' names no folder"),
        ("file://", "names no folder"),
        ("s3://bucket/folder", "it names a folder '/folder' in the bucket"),
        ("s3://", r"storage\.url\.bucket: "),
        ("s3://Bucket_", r"storage\.url\.bucket: .*found 'Bucket_'"),
        ("s3://bucket?secure=perhaps", r"storage\.url\.secure: .*found 'perhaps'"),
        ("s3://bucket?endpiont=host", r"storage\.url\.endpiont: there is no such field"),
        ("s3://bucket?endpoint=http://host", r"storage\.url\.endpoint: "),
    ],
)
def test_a_url_that_names_no_store_is_refused_with_the_reason(url: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        StorageSettings(url=url)


def test_keys_in_the_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidInput, match=r"it holds keys\. Set storage\.access_key") as caught:
        StorageSettings(url="s3://key:a-secret@bucket")
    assert "a-secret" not in str(caught.value)


@pytest.mark.parametrize("missing", ["access_key", "secret_key"])
def test_an_s3_server_without_keys_is_refused_with_the_variable_to_set(missing: str) -> None:
    keys = {"access_key": SecretStr("a"), "secret_key": SecretStr("b")}
    del keys[missing]
    settings = StorageSettings(url="s3://bucket?endpoint=localhost:1&secure=false").model_copy(update=keys)
    with pytest.raises(
        InvalidInput, match=f"storage.{missing}: it is not set. Set DOCTORGEN_STORAGE__{missing.upper()}"
    ):
        open_store(settings)


def test_an_endpoint_that_is_no_host_is_refused() -> None:
    settings = StorageSettings(
        url="s3://bucket?endpoint=host:123456", access_key=SecretStr("a"), secret_key=SecretStr("b")
    )
    with pytest.raises(InvalidInput, match=r"storage\.url: endpoint 'host:123456'"):
        open_store(settings)


def test_secrets_are_not_shown() -> None:
    settings = StorageSettings(access_key=SecretStr("an-access-key"), secret_key=SecretStr("a-secret-key"))
    shown = f"{settings!r} {settings} {settings.model_dump_json()}"
    assert "an-access-key" not in shown
    assert "a-secret-key" not in shown


def test_opening_a_folder_does_not_import_the_s3_client(tmp_path: Path) -> None:
    program = f"""
import sys
from shared.storage.open import open_store
from shared.storage.settings import StorageSettings
open_store(StorageSettings(url={str(tmp_path)!r}))
sys.exit(any(name in sys.modules for name in ("minio", "urllib3")))
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
