"""When a request that could not be taken in is tried again: on which of intake's retry queues, or not at all."""

from collections.abc import Mapping
from random import Random

from shared.broker.holding import HOLDS_HEADER, holds_for
from shared.broker.port import Delivery, Outgoing
from shared.broker.topology import INTAKE_KEY, queue_name, retry_queue
from shared.worker.errors import classify
from shared.worker.events import event_id
from shared.worker.retry import RetryPolicy

ATTEMPTS_HEADER = "x-attempts"


def attempts_of(delivery: Delivery) -> int:
    """How often the request was tried before."""
    return int(delivery.headers.get(ATTEMPTS_HEADER, "0"))


def after_failure(delivery: Delivery, error: Exception, policy: RetryPolicy, rng: Random) -> Outgoing | None:
    """The request on its way to a retry queue; None where it has been tried often enough."""
    attempts = attempts_of(delivery) + 1
    delay_ms = policy.delay_ms(INTAKE_KEY, classify(error).__name__, attempts, 0.0, rng)
    if delay_ms is None:
        return None
    return _waiting(delivery, delay_ms, policy, {ATTEMPTS_HEADER: str(attempts)})


def in_a_while(delivery: Delivery, wait_s: float, policy: RetryPolicy, headers: Mapping[str, str]) -> Outgoing:
    """The request, to come back when about so many seconds have passed."""
    rung = next((rung for rung in policy.ladder_ms if rung >= wait_s * 1000), policy.ladder_ms[-1])
    return _waiting(delivery, rung, policy, headers)


def _waiting(delivery: Delivery, delay_ms: int, policy: RetryPolicy, headers: Mapping[str, str]) -> Outgoing:
    together = {**delivery.headers, **headers}
    name = event_id(delivery.body.hex(), *sorted(together.items()))
    if policy.native_ms is None:
        return Outgoing("", retry_queue(INTAKE_KEY, None, delay_ms), delivery.body, name, together)
    holds = {HOLDS_HEADER: str(holds_for(delay_ms, policy.native_ms))}
    return Outgoing("", queue_name(INTAKE_KEY), delivery.body, name, together | holds)
