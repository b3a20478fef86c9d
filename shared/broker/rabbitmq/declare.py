"""How the port's queues are spelled to RabbitMQ: quorum queues that lose nothing on the way to the dead letters."""

import re
from collections.abc import Callable

from pika.channel import Channel

from shared.broker.holding import holds_for
from shared.broker.port import Queue, Topology
from shared.contracts.errors import Permanent

# Without a dead-letter queue behind it a queue drops what exceeds its limit, and RabbitMQ 4 sets 20 unless told.
NEVER = 1_000_000
DELAYS_SINCE = (4, 3)


def queue_arguments(queue: Queue, delivery_limit: int) -> dict[str, object]:
    """Give the arguments to declare a queue with.

    Dead-lettering is at-least-once, which RabbitMQ grants only with `reject-publish`. The delivery limit counts
    what RabbitMQ counts (crashes and hand-backs; since 4.3 no polite hand-backs) and catches messages that kill
    their consumer before it can count itself.

    Native delayed retry is spelled as the RabbitMQ 4.3 manual has it (quorum queues, delayed retry): of type `failed`
    it delays what was rejected or lost with its consumer, and not what was handed back politely. Each delay counts as a
    delivery, so the limit is higher by as many as the longest wait takes. No such server was at hand to run it on.
    """
    arguments: dict[str, object] = {"x-queue-type": "quorum", "x-delivery-limit": NEVER}
    if queue.dead_letter is not None:
        exchange, routing_key = queue.dead_letter
        arguments |= {
            "x-delivery-limit": delivery_limit,
            "x-overflow": "reject-publish",
            "x-dead-letter-strategy": "at-least-once",
            "x-dead-letter-exchange": exchange,
            "x-dead-letter-routing-key": routing_key,
        }
    if queue.ttl_ms is not None:
        arguments["x-message-ttl"] = queue.ttl_ms
    if queue.max_length is not None:
        arguments |= {"x-max-length": queue.max_length, "x-overflow": "reject-publish"}
    if queue.retry_ms is not None:
        first_ms, longest_ms = queue.retry_ms
        arguments |= {
            "x-delivery-limit": delivery_limit + holds_for(longest_ms, queue.retry_ms),
            "x-delayed-retry-type": "failed",
            "x-delayed-retry-min": first_ms,
            "x-delayed-retry-max": longest_ms,
        }
    return arguments


def declare(topology: Topology, delivery_limit: int, channel: Channel, done: Callable[[None], None]) -> None:
    """Send all declarations in order, without waiting for each; `done` is called when the server is through."""
    for exchange in topology.exchanges:
        channel.exchange_declare(exchange.name, exchange.type, durable=True)
    for queue in topology.queues:
        channel.queue_declare(queue.name, durable=True, arguments=queue_arguments(queue, delivery_limit))
        for exchange_name, routing_key in queue.bindings:
            channel.queue_bind(queue.name, exchange_name, routing_key)
    channel.basic_qos(callback=lambda _frame: done(None))


def check_delayed_retry(version: str) -> None:
    """Make sure that a server of this version delays retries by itself.

    Raises:
        Permanent: it does not, or its version cannot be read.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < DELAYS_SINCE:
        raise Permanent(
            f"Native delayed retry needs RabbitMQ {DELAYS_SINCE[0]}.{DELAYS_SINCE[1]} or later; this server says it is "
            f"{version!r}. Set retry.delayed_retry to queues, or upgrade the server."
        )


def ask_version(channel: Channel, done: Callable[[str], None]) -> None:
    """Ask which version the server is."""
    done(str(channel.connection.server_properties.get("version", "")))


def count(queue: str, channel: Channel, done: Callable[[int], None]) -> None:
    """Ask how many messages wait in a queue."""
    channel.queue_declare(queue, passive=True, callback=lambda frame: done(frame.method.message_count))
