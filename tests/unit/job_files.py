"""Empty job stores without their migration, which would take longer than most tests; tests/contract does migrate."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from shared.jobs.open import open_job_store
from shared.jobs.port import JobStore


def put_jobs(path: Path) -> None:
    """An empty job store at this path, unless one stands there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_migrated())


def open_jobs(path: Path) -> JobStore:
    """The job store at this path, or a new one."""
    put_jobs(path)
    return open_job_store(f"sqlite:///{path}")


@cache
def _migrated() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.sqlite"
        open_job_store(f"sqlite:///{path}").close()
        return path.read_bytes()
