"""The artifact store on a real S3 server keeps the contract, and what only S3 promises."""

import pytest
from minio import Minio

from shared.storage.open import open_store
from shared.storage.port import ArtifactStore
from shared.storage.s3 import S3Store
from shared.storage.settings import S3Target, StorageSettings
from tests.contract.storage_contract import StorageContract
from tests.servers.fixtures_ceph import S3Server


class TestS3(StorageContract):
    @pytest.fixture
    def store(self, s3_settings: StorageSettings) -> ArtifactStore:
        return open_store(s3_settings)


@pytest.fixture
def bucket(s3_settings: StorageSettings) -> str:
    assert isinstance(s3_settings.target, S3Target)
    return s3_settings.target.bucket


@pytest.fixture
def client(s3_server: S3Server) -> Minio:
    """Anybody's plain S3 client."""
    account = s3_server.account
    return Minio(s3_server.ceph.endpoint, account.access_key, account.secret_key, secure=False)


def test_the_adapter_is_the_s3_one(s3_settings: StorageSettings) -> None:
    assert isinstance(open_store(s3_settings), S3Store)


def test_the_media_type_is_kept(s3_settings: StorageSettings, bucket: str, client: Minio) -> None:
    store = open_store(s3_settings)
    store.put("a.png", b"x", "image/png")
    store.replace("b.json", b"{}", "application/json")
    assert client.stat_object(bucket, "a.png").content_type == "image/png"
    assert client.stat_object(bucket, "b.json").content_type == "application/json"


def test_a_second_put_leaves_the_object_untouched(s3_settings: StorageSettings, bucket: str, client: Minio) -> None:
    store = open_store(s3_settings)
    store.put("a", b"first", "image/png")
    before = client.stat_object(bucket, "a")
    store.put("a", b"second", "image/jpeg")
    after = client.stat_object(bucket, "a")
    assert (after.etag, after.last_modified, after.content_type) == (
        before.etag,
        before.last_modified,
        before.content_type,
    )


def test_opening_twice_is_harmless(s3_settings: StorageSettings) -> None:
    open_store(s3_settings).put("a", b"x", "image/png")
    assert open_store(s3_settings).get("a") == b"x"
