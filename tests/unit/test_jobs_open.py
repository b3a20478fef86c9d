"""Which URLs a job store is opened with, what opening imports, and that HEAD is the head."""

import subprocess
import sys

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from shared.contracts.errors import InvalidInput
from shared.jobs.database import connect, name_of
from shared.jobs.migrate import HEAD
from shared.jobs.open import open_job_store

MEND = r"Write sqlite:///relative/path, sqlite:////absolute/path or postgresql://user:password@host:port/database\."


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("", "this is not a database URL"),
        ("jobs.db", "this is not a database URL"),
        ("postgresql://user:secret@host:port/jobs", "this is not a database URL"),
        ("mysql://user:secret@host/jobs", "'mysql' is no database the job store speaks"),
        ("postgresql+asyncpg://user:secret@host/jobs", r"'postgresql\+asyncpg' is no database the job store speaks"),
        ("sqlite://", "a SQLite job store needs a file; this URL names none"),
        ("sqlite:///:memory:", "a SQLite job store needs a file; this URL names none"),
    ],
)
def test_a_url_that_is_not_ours_is_refused_with_the_mend_and_without_the_password(url: str, found: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^jobs_url: {found}\. {MEND}$") as raised:
        open_job_store(url)
    assert raised.value.field == "jobs_url"
    assert "secret" not in str(raised.value)


def test_a_database_is_named_without_user_and_password() -> None:
    named = name_of(connect("postgresql://user:secret@db.example/jobs?password=secret&sslmode=require"))
    assert named == "PostgreSQL database jobs at db.example:5432"


def test_the_urls_own_patience_goes_before_ours() -> None:
    _, parameters = connect("postgresql://db.example/jobs?connect_timeout=1").dialect.create_connect_args(
        connect("postgresql://db.example/jobs?connect_timeout=1").url
    )
    assert parameters["connect_timeout"] == "1"


def test_naming_the_opener_imports_no_database_library() -> None:
    """The command line names it and must start at once."""
    heavy = "import shared.jobs.open, sys; print({'sqlalchemy', 'alembic', 'psycopg'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", "shared.jobs:migrations")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]
