"""Which jobs and subjects are no longer wanted, as told on the control exchange."""

import threading
from collections import OrderedDict

from shared.broker.port import Broker
from shared.broker.topology import CONTROL
from shared.contracts.control import Control
from shared.contracts.errors import InvalidInput
from shared.contracts.step import StepMessage

REMEMBERED = 100_000


class Cancellations:
    """Listens in a thread of its own from the start to `close`. Remembers the newest hundred thousand of each kind."""

    def __init__(self, broker: Broker) -> None:
        self._subscription = broker.listen(CONTROL, ("",))
        self._jobs = Remembered()
        self._subjects = Remembered()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="cancellations", daemon=True)
        self._thread.start()

    def covers(self, message: StepMessage) -> bool:
        """Whether the message's job was cancelled or its subject erased."""
        return message.job_id in self._jobs or message.subject in self._subjects

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
            if control.job_id is not None:
                self._jobs.add(control.job_id)
            if control.subject is not None:
                self._subjects.add(control.subject)


class Remembered:
    """The newest hundred thousand names that were added."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def add(self, name: str) -> None:
        """Remember a name, and forget the oldest where there are too many."""
        self._names[name] = None
        if len(self._names) > REMEMBERED:
            self._names.popitem(last=False)
