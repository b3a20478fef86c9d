"""Checks that migrations and table definitions say the same, on any database."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from shared.jobs.database import connect
from shared.jobs.migrate import upgrade
from shared.jobs.tables import metadata


def assert_schema_is_what_the_tables_say(url: str) -> None:
    """A database that the migrations made differs in nothing from the metadata."""
    upgrade(url)
    engine = connect(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def claim_a_newer_schema(url: str) -> None:
    """Leave the database as a later version of the product would."""
    upgrade(url)
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
