"""The broker port on RabbitMQ, with pika."""

from shared.broker.rabbitmq.broker import RabbitBroker

__all__ = ["RabbitBroker"]
