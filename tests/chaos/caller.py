"""Files the jobs of a run as a careful caller does: again while there is trouble, and when the broker lost its disk."""

import time
from collections.abc import Callable
from random import Random

from doctor_image_gen.client import Client, id_of
from doctor_image_gen.stack import Connections
from shared.contracts.errors import DoctorGenError, Transient
from tests.chaos.house import LIMITS
from tests.chaos.orders import Order
from tests.chaos.watch import Watch

FILED_TWICE = 0.1
PAUSE_S = 0.3
FILE_AGAIN_AFTER_S = 15.0
STALLED_AFTER_S = 150.0


class Caller:
    """For one thread. `filed` holds the orders by job id.

    `disk_lost_at` says when the broker last lost all its messages, by the monotonic clock; minus infinity: never.
    """

    def __init__(self, connections: Connections, watch: Watch, rng: Random, disk_lost_at: Callable[[], float]) -> None:
        self.filed: dict[str, Order] = {}
        self._filed_at: dict[str, float] = {}
        self._disk_lost_at = disk_lost_at
        self._connections = connections
        self._client = Client(connections, LIMITS)
        self._watch = watch
        self._rng = rng

    def file(self, order: Order) -> None:
        """File an order, now and then twice: a request that is delivered twice is one job."""
        job_id = id_of(order.request)
        self.filed[job_id] = order
        self._watch.expect(job_id)
        for _ in range(2 if self._rng.random() < FILED_TWICE else 1):
            self._publish(job_id)

    def wait_until_fewer_than(self, bound: int) -> bool:
        """Wait until fewer jobs than these have yet to end; False where for a long time none did.

        An order that the broker lost with its disk before it was accepted is filed again: nothing was promised yet.
        Any other that the journal never hears of stays lost, for the audit to find.
        """
        while not self._watch.wait_until(lambda: len(self._watch.outstanding) < bound, FILE_AGAIN_AFTER_S):
            if self._watch.stands_still_for_s > STALLED_AFTER_S:
                return False
            for job_id in self._watch.outstanding:
                if self._filed_at[job_id] < self._disk_lost_at() and not self._is_known(job_id):
                    self._publish(job_id)
        return True

    def _is_known(self, job_id: str) -> bool:
        try:
            return self._connections.jobs.get(job_id) is not None
        except DoctorGenError:
            return True  # the database has its own faults; ask later

    def _publish(self, job_id: str) -> None:
        order = self.filed[job_id]
        while True:
            self._filed_at[job_id] = time.monotonic()
            try:
                photo = order.request.photos[0].key
                self._connections.store.put(photo, order.photo.read_bytes(), "image/png")
                self._client.submit(order.request)
            except Transient:
                time.sleep(PAUSE_S)
            else:
                return
