"""How the port's queues are spelled to RabbitMQ: quorum queues that lose nothing on the way to the dead letters."""

from collections.abc import Callable

from pika.channel import Channel

from shared.broker.port import Queue, Topology

# Without a dead-letter queue behind it a queue drops what exceeds its limit, and RabbitMQ 4 sets 20 unless told.
NEVER = 1_000_000


def queue_arguments(queue: Queue, delivery_limit: int) -> dict[str, object]:
    """Give the arguments to declare a queue with.

    Dead-lettering is at-least-once, which RabbitMQ grants only with `reject-publish`. The delivery limit counts
    what RabbitMQ counts (crashes and hand-backs; since 4.3 no polite hand-backs) and catches messages that kill
    their consumer before it can count itself.
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


def count(queue: str, channel: Channel, done: Callable[[int], None]) -> None:
    """Ask how many messages wait in a queue."""
    channel.queue_declare(queue, passive=True, callback=lambda frame: done(frame.method.message_count))
