"""A private S3 server (Ceph's radosgw) for the whole run, and a fresh bucket on it for each test that asks."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pydantic import SecretStr

from shared.storage.settings import StorageSettings
from tests.servers.ceph import CephS3, S3Account


@dataclass(frozen=True)
class S3Server:
    """A running server and the keys of its user."""

    ceph: CephS3
    account: S3Account

    def settings(self, bucket: str) -> StorageSettings:
        """The settings that lead to a bucket on it."""
        return StorageSettings(
            url=f"s3://{bucket}?endpoint={self.ceph.endpoint}&secure=false",
            access_key=SecretStr(self.account.access_key),
            secret_key=SecretStr(self.account.secret_key),
        )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Start the server once; a test may stop its gateway if it starts it again."""
    ceph = CephS3(tmp_path_factory.mktemp("ceph"))
    try:
        yield S3Server(ceph, ceph.start())
    finally:
        ceph.stop()


@pytest.fixture
def s3_settings(s3_server: S3Server) -> StorageSettings:
    """The settings of a bucket that nobody else uses; `open_store` makes it."""
    return s3_server.settings(f"test-{secrets.token_hex(6)}")
