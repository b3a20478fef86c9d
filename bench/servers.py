"""The private servers that the benchmarks run against."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    bucket: str

    @property
    def storage(self) -> StorageSettings:
        """The settings of the bucket."""
        return StorageSettings(
            url=f"s3://{self.bucket}?endpoint={self.endpoint}&secure=false",
            access_key=SecretStr(self.account.access_key),
            secret_key=SecretStr(self.account.secret_key),
        )


@contextmanager
def servers() -> Iterator[Servers]:
    """Start both; end both."""
    with apart(1) as (alone,):
        yield alone


@contextmanager
def apart(number: int) -> Iterator[tuple[Servers, ...]]:
    """Start both for so many deployments that see nothing of each other; end both."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in ("rabbitmq", "ceph"):
            (Path(folder) / name).mkdir()
        node, ceph = RabbitNode(Path(folder) / "rabbitmq"), CephS3(Path(folder) / "ceph")
        try:
            node.start()
            account = ceph.start()
            with ExitStack() as hosts:
                yield tuple(
                    Servers(node.url_of(hosts.enter_context(node.virtual_host())), ceph.endpoint, account, f"bench{n}")
                    for n in range(number)
                )
        finally:
            ceph.stop()
            node.stop()
