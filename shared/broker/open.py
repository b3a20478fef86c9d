"""Opens the broker that a URL names. The adapter, and the library under it, are imported only when asked for."""

from urllib.parse import urlsplit

from shared.broker.port import Broker
from shared.contracts.errors import InvalidInput


def open_broker(url: str) -> Broker:
    """Open a broker.

    Args:
        url: `amqp://user:password@host:port/vhost` (or `amqps://`) for RabbitMQ, several separated by commas for the
            nodes of a cluster; `memory://` for one inside this process that nobody else sees, or `memory://name` for
            one that all who give that name share.

    Raises:
        InvalidInput: the URL is none of these.
    """
    scheme = url.partition("://")[0]
    if scheme in {"amqp", "amqps"}:
        from shared.broker.rabbitmq import RabbitBroker  # noqa: PLC0415 - see the module's docstring

        return RabbitBroker(url)
    if scheme == "memory":
        from shared.broker.embedded import EmbeddedBroker  # noqa: PLC0415 - see the module's docstring

        return EmbeddedBroker(urlsplit(url).netloc or None)
    raise InvalidInput(
        "broker_url",
        f"the scheme is {scheme[:20]!r}" if "://" in url else "there is no scheme",
        "Give amqp://user:password@host:5672/vhost, amqps://… or memory://.",
    )
