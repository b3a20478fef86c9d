"""The broker port inside one process, on kombu's memory transport."""

from shared.broker.embedded.broker import EmbeddedBroker

__all__ = ["EmbeddedBroker"]
