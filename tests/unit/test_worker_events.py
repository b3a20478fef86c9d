"""An event keeps its id when it is told again, so that journals count each happening once."""

import pytest

from shared.contracts.event import EventKind
from shared.contracts.step import StepMessage
from shared.worker.events import step_event
from tests.fakes import MemoryStore
from tests.synthetic import first_message


@pytest.fixture
def message() -> StepMessage:
    return first_message(MemoryStore())


def later(message: StepMessage) -> StepMessage:
    """The same step, tried again after its worker died."""
    return message.model_copy(update={"attempts": message.attempts + 1})


@pytest.mark.parametrize("kind", ["done", "dead", "cancelled", "expired", "refused"])
def test_a_run_ends_once_whichever_attempt_tells_of_it(message: StepMessage, kind: EventKind) -> None:
    first, again = (step_event(each, kind, "worker") for each in (message, later(message)))
    assert first.event_id == again.event_id


@pytest.mark.parametrize("kind", ["done", "dead", "cancelled", "expired", "refused"])
def test_the_end_of_a_replay_is_another_end(message: StepMessage, kind: EventKind) -> None:
    replay = message.model_copy(update={"run": 1})
    assert step_event(message, kind, "worker").event_id != step_event(replay, kind, "worker").event_id


@pytest.mark.parametrize("kind", ["started", "retrying", "finished"])
def test_each_attempt_at_a_step_is_a_happening_of_its_own(message: StepMessage, kind: EventKind) -> None:
    assert step_event(message, kind, "worker").event_id != step_event(later(message), kind, "worker").event_id
