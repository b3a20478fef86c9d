"""The retry policy as a value."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from shared.worker.retry import RetryPolicy

POLICY = RetryPolicy()


def test_transient_errors_are_retried_until_the_attempts_are_used_up() -> None:
    delays = [POLICY.delay_ms("Transient", failed, Random(1)) for failed in range(1, 9)]
    assert all(delay is not None for delay in delays[:7])
    assert delays[7] is None


def test_errors_that_no_retry_can_mend_are_tried_once() -> None:
    assert POLICY.delay_ms("Permanent", 1, Random(1)) is None
    assert POLICY.delay_ms("InvalidInput", 1, Random(1)) is None


@given(st.integers(1, 7), st.integers())
def test_every_delay_is_a_rung_that_has_a_queue(failed: int, seed: int) -> None:
    assert POLICY.delay_ms("Transient", failed, Random(seed)) in POLICY.ladder_ms


def test_delays_grow_on_average_and_are_spread() -> None:
    means = []
    for failed in (1, 3, 5, 7):
        drawn = [POLICY.delay_ms("Transient", failed, Random(seed)) or 0 for seed in range(300)]
        means.append(sum(drawn) / len(drawn))
        assert len(set(drawn)) >= 2, "full jitter spreads a crowd over several rungs"
    assert means == sorted(means)
    assert means[0] < means[-1] / 10


@given(st.integers(1, 50), st.integers())
def test_no_delay_exceeds_the_cap_or_the_longest_rung(failed: int, seed: int) -> None:
    policy = RetryPolicy(attempts={"Transient": 100}, cap_ms=8_000)
    delay = policy.delay_ms("Transient", failed, Random(seed))
    assert delay is not None
    assert delay <= 8_000
