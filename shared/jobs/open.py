"""Opens the job store a URL names. Importing this module imports no database library."""

from shared.jobs.port import JobStore


def open_job_store(url: str) -> JobStore:
    """A job store with its schema brought up to date.

    `sqlite:///relative/path` or `sqlite:////absolute/path`: the file and its folder are made where they are missing.
    `postgresql://user:password@host:port/database`: the database must exist.

    Raises:
        InvalidInput: the URL, with `jobs_url` as the field; the password is never repeated.
        Transient: the database cannot be reached.
        Permanent: the database was migrated by a newer version of the product, or refuses.
    """
    # SQLAlchemy takes longer to import than `doctorgen --help` may take in all.
    from shared.jobs.database import connect  # noqa: PLC0415
    from shared.jobs.migrate import upgrade_engine  # noqa: PLC0415
    from shared.jobs.sql import SqlJobStore  # noqa: PLC0415

    engine = connect(url)
    try:
        upgrade_engine(engine)
    except BaseException:
        engine.dispose()
        raise
    return SqlJobStore(engine)
