"""Follows the jobs of a run by the journal, which outlives broker and listeners."""

import threading
import time
from collections.abc import Callable, Mapping

from shared.contracts.errors import DoctorGenError
from shared.contracts.event import TERMINAL
from shared.jobs.port import Job, JobStore
from tests.chaos.ledger import Ledger

LOOK_EVERY_S = 0.25


class Watch:
    """Looks at the job store a few times a second, in a thread of its own, for jobs that have ended.

    `finished` says when each was seen to have ended, by the monotonic clock.
    """

    def __init__(self, jobs: JobStore, ledger: Ledger) -> None:
        self._jobs = jobs
        self._ledger = ledger
        self._changed = threading.Condition()
        self._expected: dict[str, None] = {}
        self._finished: dict[str, float] = {}
        self._began = time.monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._thread.start()

    @property
    def finished(self) -> Mapping[str, float]:
        """The jobs that have ended, and when."""
        with self._changed:
            return dict(self._finished)

    @property
    def outstanding(self) -> tuple[str, ...]:
        """The jobs that are expected to end yet."""
        with self._changed:
            return tuple(self._expected)

    @property
    def stands_still_for_s(self) -> float:
        """How long ago the last job ended, in seconds."""
        with self._changed:
            return time.monotonic() - max(self._finished.values(), default=self._began)

    def expect(self, job_id: str) -> None:
        """Look out for a job from now on."""
        with self._changed:
            self._expected[job_id] = None

    def wait_until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until something holds, asked anew whenever a job ends; False when the time is up first."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def wake(self) -> None:
        """Have all who wait look again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Look no longer."""
        self._closing.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            with self._changed:
                expected = tuple(self._expected)
            try:
                still_open = {job.job_id for job in self._jobs.unfinished()}
                ended = [job_id for job_id in expected if job_id not in still_open and self._has_ended(job_id)]
            except DoctorGenError:
                continue  # the database has its own faults; the next look sees as much
            if ended:
                self._note(ended)

    def _has_ended(self, job_id: str) -> bool:
        job: Job | None = self._jobs.get(job_id)
        return job is not None and job.state in TERMINAL

    def _note(self, ended: list[str]) -> None:
        at = time.monotonic()
        with self._changed:
            for job_id in ended:
                self._expected.pop(job_id, None)
                self._finished[job_id] = at
                self._ledger.note("finished", job_id)
            self._changed.notify_all()
