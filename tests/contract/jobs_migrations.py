"""Checks that migrations and table definitions say the same, on any database, and that they keep what stands."""

from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert, inspect, text

from shared.jobs.database import connect
from shared.jobs.migrate import upgrade
from shared.jobs.open import open_job_store
from shared.jobs.port import Job
from shared.jobs.rows import row_of
from shared.jobs.tables import jobs, metadata
from tests.contract.jobs_fixtures import ignore
from tests.contract.jobs_samples import RESULT, at, first_message, job

ADDED_SINCE_0001 = {"lane", "run", "released_at", "score", "passed", "seconds", "cost_usd", "attempts"}


def assert_schema_is_what_the_tables_say(url: str) -> None:
    """A database that the migrations made differs in nothing from the metadata."""
    upgrade(url)
    engine = connect(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        of_migrations = _partial_indices(connection)
    metadata.drop_all(engine)
    metadata.create_all(engine)
    with engine.connect() as connection:
        assert _partial_indices(connection) == of_migrations
    engine.dispose()


def _partial_indices(connection: Connection) -> dict[str | None, str]:
    """By name, which rows they hold: Alembic does not compare that."""
    inspector = inspect(connection)
    dialect = connection.dialect.name
    found = {index["name"]: index for table in metadata.tables for index in inspector.get_indexes(table)}
    options = {name: index.get("dialect_options", {}).get(f"{dialect}_where") for name, index in found.items()}
    return {name: str(where) for name, where in options.items() if where is not None}


def claim_a_newer_schema(url: str) -> None:
    """Leave the database as a later version of the product would."""
    upgrade(url)
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()


def assert_jobs_of_the_first_schema_are_taken_over(url: str) -> None:
    """A job that waited is released, one that ran is in flight, and one that is done counts in its batch."""
    bulk = first_message("waits").model_copy(update={"priority": "bulk"})
    standing = [
        job("waits", first_message=bulk, batch_id="batch-1"),
        job("runs", state="running", batch_id="batch-1", updated_at=at(1)),
        job("done", state="done", batch_id="batch-1", result=RESULT),
        job("refused", state="refused", first_message=None, steps=()),
    ]
    _make_the_first_schema(url, standing)
    store = open_job_store(url)
    assert (store.waiting(), store.waiting("bulk"), store.in_flight("interactive")) == (1, 1, 1)
    assert store.get("runs") == standing[1].model_copy(update={"released_at": at(1)})
    assert [store.get("done"), store.get("refused")] == standing[2:]
    released = store.release("bulk", 1, ignore)
    assert released is not None
    assert released.job_id == "waits"
    summary = store.batch("batch-1")
    assert summary is not None
    assert (summary.jobs, summary.seconds, summary.cost_usd) == (3, RESULT.seconds, RESULT.cost_usd)
    store.close()


def assert_the_way_back_keeps_jobs(url: str) -> None:
    """Going back to the first schema drops what is new, and going forward again works."""
    _make_the_first_schema(url, [])
    store = open_job_store(url)
    store.add(job())
    store.close()
    _alembic(url, command.downgrade, "0001")
    store = open_job_store(url)
    assert store.get("job-1") == job()
    store.close()


def _make_the_first_schema(url: str, standing: list[Job]) -> None:
    _alembic(url, command.upgrade, "0001")
    engine = connect(url)
    with engine.begin() as connection:
        for each in standing:
            row = {name: value for name, value in row_of(each).items() if name not in ADDED_SINCE_0001}
            connection.execute(insert(jobs).values(row))
    engine.dispose()


def _alembic(url: str, act: Any, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", "shared.jobs:migrations")
    engine = connect(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        act(config, revision)
    engine.dispose()
