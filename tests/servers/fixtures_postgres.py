"""A PostgreSQL server for the whole test session, and empty databases on it."""

from collections.abc import Iterator

import pytest

from tests.servers.postgres import Postgres, start_postgres


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A private server; where PostgreSQL is not installed the tests that need it fail and say so."""
    server = start_postgres()
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> str:
    """The URL of an empty database, for one test alone."""
    return postgres_server.create_database()
