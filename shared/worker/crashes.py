"""Tells a crash from a lost connection: both make the broker deliver a message again."""

from collections import OrderedDict

from shared.broker.holding import holds_of
from shared.broker.port import Delivery

REMEMBERED = 1_000


class Received:
    """Counts how often this process got each message. What it got before, it did not crash on."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, int] = OrderedDict()

    def crashes(self, delivery: Delivery) -> int:
        """How many earlier deliveries of the message ended in the death of a worker, for all we know.

        Those on which it was only held back are none of them.
        """
        earlier = max(0, delivery.deliveries - holds_of(delivery))
        if delivery.message_id is None:
            return earlier
        ours = self._times.pop(delivery.message_id, 0)
        self._times[delivery.message_id] = ours + 1
        if len(self._times) > REMEMBERED:
            self._times.popitem(last=False)
        return max(0, earlier - ours)
