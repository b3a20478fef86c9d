"""One deployment for all end-to-end tests, and a real photo."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from skimage.data import astronaut

from tests.e2e.deployment import Deployment, deployed
from tests.servers.fixtures_ceph import S3Server
from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitNode


@pytest.fixture(scope="session")
def deployment(
    rabbitmq_node: RabbitNode,
    s3_server: S3Server,
    postgres_server: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    with (
        rabbitmq_node.virtual_host() as vhost,
        deployed(
            rabbitmq_node.url_of(vhost), s3_server.settings("e2e"), postgres_server.create_database(), folder
        ) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eileen Collins, 512 x 512, public domain."""
    path = tmp_path_factory.mktemp("photos") / "astronaut.png"
    Image.fromarray(astronaut()).save(path)
    return path
