"""The retry policy as a value."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.contracts import errors
from shared.worker.limits import WorkerLimits
from shared.worker.retry import DEFAULT_RULES, RetryPolicy, RetryRule

POLICY = RetryPolicy()


def delay(
    failed: int, seed: int = 1, *, kind: str = "Transient", stage: str = "swap", since_s: float = 0.0
) -> int | None:
    return POLICY.delay_ms(stage, kind, failed, since_s, Random(seed))


def test_transient_errors_are_retried_until_the_attempts_are_used_up() -> None:
    delays = [delay(failed) for failed in range(1, 9)]
    assert all(delay is not None for delay in delays[:7])
    assert delays[7] is None


def test_errors_that_no_retry_can_mend_are_tried_once() -> None:
    assert delay(1, kind="Permanent") is None
    assert delay(1, kind="InvalidInput") is None


def test_every_rule_speaks_of_an_error_that_there_is() -> None:
    assert all(hasattr(errors, kind) for kind in DEFAULT_RULES)


def test_retrying_ends_when_its_time_is_up_however_few_the_attempts() -> None:
    policy = RetryPolicy(rules={"Transient": RetryRule(attempts=100, give_up_after_s=60)})
    assert policy.delay_ms("swap", "Transient", 2, 59, Random(1)) is not None
    assert policy.delay_ms("swap", "Transient", 2, 60, Random(1)) is None


def test_a_stage_s_own_rule_goes_before_the_general_one_and_that_before_the_default() -> None:
    policy = RetryPolicy(
        rules={"Transient": RetryRule(attempts=3)}, stages={"generate": {"Transient": RetryRule(attempts=2)}}
    )
    assert policy.rule("generate", "Transient").attempts == 2
    assert policy.rule("swap", "Transient").attempts == 3
    assert policy.rule("swap", "StepTimedOut") == DEFAULT_RULES["StepTimedOut"]


@given(st.integers(1, 7), st.integers())
def test_every_delay_is_a_rung_that_has_a_queue(failed: int, seed: int) -> None:
    assert delay(failed, seed) in POLICY.ladder_ms


def test_delays_grow_on_average_and_are_spread() -> None:
    means = []
    for failed in (1, 3, 5, 7):
        drawn = [delay(failed, seed) or 0 for seed in range(300)]
        means.append(sum(drawn) / len(drawn))
        assert len(set(drawn)) >= 2, "full jitter spreads a crowd over several rungs"
    assert means == sorted(means)
    assert means[0] < means[-1] / 10


@given(st.integers(1, 50), st.integers())
def test_no_delay_exceeds_the_cap_or_the_longest_rung(failed: int, seed: int) -> None:
    policy = RetryPolicy(rules={"Transient": RetryRule(attempts=100, cap_ms=8_000)})
    drawn = policy.delay_ms("swap", "Transient", failed, 0.0, Random(seed))
    assert drawn is not None
    assert drawn <= 8_000


def test_a_ladder_that_does_not_rise_is_refused() -> None:
    with pytest.raises(ValidationError, match="must rise"):
        RetryPolicy(ladder_ms=(1_000, 500))


@pytest.mark.parametrize("limits", [{"step_deadline_s": 1800.0}, {"stage_deadline_s": {"generate": 2000.0}}])
def test_a_step_deadline_that_the_broker_would_cut_short_is_refused(limits: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="must lie below the broker's consumer timeout of 1800 s"):
        WorkerLimits.model_validate(limits)


def test_a_worker_is_spent_after_its_steps_or_above_its_memory() -> None:
    limits = WorkerLimits(recycle_after_steps=10, recycle_above_bytes=2**30)
    assert not limits.is_spent(9, 2**30)
    assert limits.is_spent(10, 0)
    assert limits.is_spent(0, 2**30 + 1)
    assert not WorkerLimits().is_spent(10**9, 2**50)
