"""The workers' signs of life, in SQL."""

import json

from sqlalchemy import delete, select

from shared.contracts.base import Instant
from shared.contracts.beat import Beat
from shared.jobs.session import SqlPart
from shared.jobs.tables import workers


class Beats(SqlPart):
    """Keeps each worker's newest beat."""

    def beat(self, beat: Beat, heard_at: Instant) -> None:
        told = {"at": beat.at, "heard_at": heard_at, "state": beat.state, "document": beat.model_dump_json()}
        insert = self._insert(workers).values(worker=json.dumps(beat.worker), **told)
        with self._writing() as connection:
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["worker"], set_=told, where=workers.c.at < insert.excluded.at
                )
            )

    def workers(self) -> tuple[Beat, ...]:
        with self._reading() as connection:
            documents = connection.execute(select(workers.c.document).where(workers.c.state != "gone")).scalars().all()
        beats = (Beat.from_json(document) for document in documents)
        return tuple(sorted(beats, key=lambda beat: beat.worker))

    def forget_workers(self, heard_before: Instant) -> int:
        with self._writing() as connection:
            return connection.execute(delete(workers).where(workers.c.heard_at < heard_before)).rowcount
