"""Delays without retry queues, for a broker that holds back what failed (RabbitMQ 4.3, native delayed retry).

The broker chooses each delay by itself: the first one times the number of a message's deliveries, up to the longest. So
that our own policy decides how long a message waits, it says in a header how often it is to be failed first; whoever
receives it before does no more than fail it. What it carries (attempts, their accounts) is written anew each time,
which a message that is only handed back could not be.
"""

from collections.abc import Iterator
from itertools import accumulate, count

from shared.broker.port import Delivery

HOLDS_HEADER = "x-holds"


def holds_for(delay_ms: float, retry_ms: tuple[int, int]) -> int:
    """How often a message has to be failed, at least once, so that it waits for `delay_ms` in all.

    Args:
        delay_ms: how long it is to wait.
        retry_ms: the broker's first and longest delay.
    """
    return next(number for number, waited in enumerate(_waited_ms(retry_ms), start=1) if waited >= delay_ms)


def held_ms(holds: int, retry_ms: tuple[int, int]) -> int:
    """How long a message waits that is failed so often (once or more)."""
    return next(waited for number, waited in enumerate(_waited_ms(retry_ms), start=1) if number == holds)


def holds_of(delivery: Delivery) -> int:
    """How often a message is to be failed before anybody works on it."""
    told = delivery.headers.get(HOLDS_HEADER, "0")
    return int(told) if told.isdecimal() else 0


def is_held(delivery: Delivery) -> bool:
    """Whether it is not time yet: the receiver fails the message and forgets it."""
    return delivery.deliveries < holds_of(delivery)


def _waited_ms(retry_ms: tuple[int, int]) -> Iterator[int]:
    first_ms, longest_ms = retry_ms
    return accumulate(min(first_ms * deliveries, longest_ms) for deliveries in count(1))
