"""Brings a job store's database to the schema of this version, whoever else opens it at the same moment."""

from typing import Final

from sqlalchemy import Connection, Engine, inspect, text

from shared.contracts.errors import Permanent
from shared.jobs.database import connect, for_writing, name_of
from shared.jobs.failures import classified

HEAD: Final = "0004"
"""The newest revision below migrations/versions."""

_LOCK: Final = 0x646F63746F72
"""The PostgreSQL advisory lock that only one migration holds at a time; any number that nobody else uses."""


def upgrade(url: str) -> None:
    """Migrate a database to HEAD; quick where it is there already.

    Raises:
        InvalidInput: not a URL of ours.
        Transient: the database cannot be reached.
        Permanent: a newer version of the product has migrated it, or the database refuses.
    """
    engine = connect(url)
    try:
        upgrade_engine(engine)
    finally:
        engine.dispose()


def upgrade_engine(engine: Engine) -> None:
    """The same for an open engine."""
    with classified(f"The job store ({name_of(engine)})"):
        with engine.connect() as connection:
            if _revision(connection) == HEAD:
                return
        with for_writing(engine).begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            _migrate(connection)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _migrate(connection: Connection) -> None:
    # Alembic takes as long to import as the rest of a start; a store that is up to date does without it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "shared.jobs:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise Permanent(
            f"The job store's schema is at revision {_revision(connection)}, unknown to this version (which knows up "
            f"to {HEAD}). Run the version of the product that migrated it."
        ) from error
