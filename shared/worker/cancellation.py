"""Which jobs are no longer wanted, as told on the control exchange."""

import threading
from collections import OrderedDict

from shared.broker.port import Broker
from shared.broker.topology import CONTROL
from shared.contracts.control import Control
from shared.contracts.errors import InvalidInput

REMEMBERED = 100_000


class Cancellations:
    """Listens in a thread of its own from `start` to `close`. Remembers the newest hundred thousand jobs."""

    def __init__(self, broker: Broker) -> None:
        self._subscription = broker.listen(CONTROL, ("",))
        self._jobs: OrderedDict[str, None] = OrderedDict()
        self._thread = threading.Thread(target=self._listen, name="cancellations", daemon=True)
        self._closed = threading.Event()
        self._thread.start()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._jobs

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        self._subscription.close()
        self._thread.join()

    def _listen(self) -> None:
        while not self._closed.is_set():
            delivery = self._subscription.receive()
            if delivery is None:
                continue
            try:
                control = Control.from_json(delivery.body)
            except InvalidInput:
                continue
            self._jobs[control.job_id] = None
            while len(self._jobs) > REMEMBERED:
                self._jobs.popitem(last=False)
