"""A routing slip too large for a message is written with each long parameter once, and read as if nothing were."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from shared.contracts.base import MESSAGE_LIMIT_BYTES
from shared.contracts.errors import InvalidInput
from shared.contracts.step import PinnedStep, StepMessage
from tests.fakes import MemoryStore
from tests.synthetic import first_message

PARAMS = st.dictionaries(
    st.sampled_from(["prompt", "negative", "other"]),
    st.one_of(st.text(max_size=90), st.integers(), st.sampled_from(["x" * 3000, "ö" * 2500, '"$words"' * 300])),
)


def slip(*params: dict[str, JsonValue]) -> StepMessage:
    """A message whose steps have these parameters."""
    first = first_message(MemoryStore())
    steps = [
        PinnedStep(name=f"s{n}", operation="refine.x", operation_version=1, engine="flux", params=one, inputs={})
        for n, one in enumerate(params)
    ]
    return StepMessage.model_validate({**dict(first), "steps": tuple(steps)})


@settings(max_examples=60, deadline=None)
@given(st.lists(PARAMS, min_size=1, max_size=6))
def test_what_was_packed_is_read_as_it_was(params: list[dict[str, JsonValue]]) -> None:
    message = slip(*params)
    assert StepMessage.from_json(message.to_json()) == message
    assert message.size <= len(message.model_dump_json(exclude_none=True).encode())


def test_a_prompt_that_four_steps_are_told_is_written_once() -> None:
    prompt = "a doctor " * 600
    params: list[dict[str, JsonValue]] = [{"prompt": prompt, "steps": n} for n in range(4)]
    message = slip(*params)
    written = message.to_json()
    assert len(written) <= MESSAGE_LIMIT_BYTES
    assert written.count(prompt.encode()) == 1
    assert StepMessage.from_json(written) == message


def test_a_message_that_is_small_enough_is_written_as_ever() -> None:
    """So that workers of before can read it."""
    message = slip({"prompt": "a doctor " * 100}, {"prompt": "a doctor " * 100})
    assert json.loads(message.to_json()) == json.loads(message.model_dump_json(exclude_none=True))


@pytest.mark.parametrize(
    "body",
    [
        b'{"$words"',
        b'["$words"]',
        b'{"words": {}, "steps": 5, "x": "$words"}',
        b'{"words": {}, "steps": [{"params": {"prompt": {"$words": "0"}}}]}',
        b'"$words"' + b"[" * 20_000,
    ],
)
def test_what_cannot_be_unpacked_is_refused_as_any_other_that_is_no_message(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        StepMessage.from_json(body)
