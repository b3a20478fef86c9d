"""Publishes accepted jobs when their turn comes: the outbox between the job store and the stages' queues."""

import logging
import threading
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from services.gateway.bell import Bell
from services.gateway.consumer import pause_s
from services.gateway.room import Pace
from shared.broker.port import Broker
from shared.broker.topology import LANES
from shared.contracts.base import now
from shared.contracts.beat import Beat
from shared.contracts.errors import DoctorGenError
from shared.jobs.port import Job, JobStore
from shared.worker.dispatch import step_outgoing

log = logging.getLogger(__name__)

SMALLEST_WINDOW = 8
SPARE = 2
AT_WORK = frozenset({"idle", "working"})


def window_of(beats: Iterable[Beat], at: datetime, silent_after_s: float) -> int:
    """How many jobs of a lane may be in flight: the workers that beat and take work, and two; at least eight.

    Enough that no worker waits for the gateway, few enough that a job of another caller overtakes a backlog.
    """
    heard_since = at - timedelta(seconds=silent_after_s)
    return max(SMALLEST_WINDOW, SPARE + sum(beat.state in AT_WORK and beat.at >= heard_since for beat in beats))


class Releaser:
    """Releases jobs in the thread that calls `run`, until `stop`: interactive ones first, callers in turn.

    Sleeps until the bell rings (a job was accepted, or one ended) or `look_after_s` have passed, which finds what other
    gateways' bells rang for. Any number of gateways may release side by side.
    """

    def __init__(
        self, broker: Broker, jobs: JobStore, window: Callable[[], int], bell: Bell, pace: Pace, look_after_s: float
    ) -> None:
        self._broker = broker
        self._jobs = jobs
        self._window = window
        self._bell = bell
        self._pace = pace
        self._look_after_s = look_after_s
        self._stopping = threading.Event()

    def run(self) -> None:
        """Release until `stop`."""
        failures = 0
        while not self._stopping.is_set():
            try:
                self._release_all()
            except DoctorGenError as error:
                failures += 1
                log.warning("no job can be released (%d): %s", failures, error)
                self._stopping.wait(pause_s(failures))
            else:
                failures = 0
                self._bell.wait(self._look_after_s)

    def stop(self) -> None:
        """Release no further job."""
        self._stopping.set()
        self._bell.ring()

    def _release_all(self) -> None:
        window = self._window()
        while not self._stopping.is_set():
            released = next((job for lane in LANES if (job := self._jobs.release(lane, window, self._publish))), None)
            if released is None:
                return
            self._pace.released(released.caller)

    def _publish(self, job: Job) -> None:
        if job.first_message is not None:
            self._broker.publish(step_outgoing(job.first_message))


def live_window(jobs: JobStore, silent_after_s: float, wanted: int | None) -> Callable[[], int]:
    """The window as the settings want it, or else as the workers' beats suggest."""
    return lambda: wanted or window_of(jobs.workers(), now(), silent_after_s)
