"""A message from RabbitMQ in our hands."""

import threading
from collections.abc import Callable, Mapping
from typing import Literal

from pika import BasicProperties
from pika.channel import Channel
from pika.spec import Basic

Verdict = Literal["ack", "requeue", "fail"]

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
        settle: Callable[["RabbitDelivery", Verdict], None],
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
        self._once("ack")

    def requeue(self) -> None:
        self._once("requeue")

    def fail(self) -> None:
        self._once("fail")

    def settle_on_channel(self, verdict: Verdict) -> None:
        """Tell the server. Only in the I/O thread, while the channel is open."""
        if verdict == "ack":
            self.channel.basic_ack(self.tag)
        elif verdict == "requeue":
            self.channel.basic_nack(self.tag, requeue=True)
        else:
            # Since 4.3 RabbitMQ counts and delays what is rejected, and not what is nacked.
            self.channel.basic_reject(self.tag, requeue=True)

    def _once(self, verdict: Verdict) -> None:
        with self._lock:
            first, self._settled = not self._settled, True
        if first:
            self._settle(self, verdict)
