"""The private servers that the benchmarks run against."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from shared.storage.settings import StorageSettings
from tests.servers.ceph import CephS3, S3Account
from tests.servers.rabbitmq import RabbitNode


@dataclass(frozen=True)
class Servers:
    """A RabbitMQ node and an S3 server, alone on this machine."""

    broker_url: str
    endpoint: str
    account: S3Account

    @property
    def storage(self) -> StorageSettings:
        """The settings of the bucket `bench`."""
        return StorageSettings(
            url=f"s3://bench?endpoint={self.endpoint}&secure=false",
            access_key=SecretStr(self.account.access_key),
            secret_key=SecretStr(self.account.secret_key),
        )


@contextmanager
def servers() -> Iterator[Servers]:
    """Start both; end both."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in ("rabbitmq", "ceph"):
            (Path(folder) / name).mkdir()
        node, ceph = RabbitNode(Path(folder) / "rabbitmq"), CephS3(Path(folder) / "ceph")
        try:
            node.start()
            account = ceph.start()
            with node.virtual_host() as vhost:
                yield Servers(node.url_of(vhost), ceph.endpoint, account)
        finally:
            ceph.stop()
            node.stop()
