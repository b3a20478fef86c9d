"""The job store on SQLAlchemy: SQLite and PostgreSQL. Each part of it keeps one concern."""

from shared.jobs.batches import Batches
from shared.jobs.beats import Beats
from shared.jobs.letters import Letters
from shared.jobs.records import Records
from shared.jobs.releasing import Releasing
from shared.jobs.subjects import Subjects


class SqlJobStore(Records, Releasing, Letters, Beats, Batches, Subjects):
    """A job store on a database whose schema stands."""

    def close(self) -> None:
        self._engine.dispose()
