"""A message from RabbitMQ in our hands."""

import threading
from collections.abc import Callable, Mapping

from pika import BasicProperties
from pika.channel import Channel
from pika.spec import Basic

COUNT_HEADER = "x-delivery-count"


class RabbitDelivery:
    """See the port. Header values that are no plain strings or numbers are left out.

    `channel` and `tag` are where the server knows the message; `rank` is the place of its queue in the subscription.
    """

    def __init__(
        self,
        channel: Channel,
        method: Basic.Deliver | Basic.GetOk,
        properties: BasicProperties,
        body: bytes,
        rank: int,
        settle: Callable[["RabbitDelivery", bool], None],
    ) -> None:
        headers = dict(properties.headers or {})
        count = headers.pop(COUNT_HEADER, 0)
        self.channel = channel
        self.tag: int = method.delivery_tag
        self.rank = rank
        self.body: bytes = body
        self.routing_key: str = method.routing_key
        self.message_id: str | None = properties.message_id
        self.redelivered: bool = method.redelivered
        self.deliveries: int = count if isinstance(count, int) else 0
        self.headers: Mapping[str, str] = {
            name: str(value) for name, value in headers.items() if isinstance(value, (str, int))
        }
        self._settle = settle
        self._settled = False
        self._lock = threading.Lock()

    def ack(self) -> None:
        self._once(ack=True)

    def requeue(self) -> None:
        self._once(ack=False)

    def _once(self, *, ack: bool) -> None:
        with self._lock:
            first, self._settled = not self._settled, True
        if first:
            self._settle(self, ack)
