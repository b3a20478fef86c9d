"""The one idea: a result is addressed by what went into it, and by nothing else."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.step import PinnedStep
from shared.worker.keys import step_key
from shared.worker.operation import Stage
from shared.worker.step import Engines, prepare
from tests.fakes import MemoryStore
from tests.synthetic import APPEND, TEXT, first_message

DIGEST, OTHER = "a" * 64, "b" * 64


def pinned(**changes: Any) -> PinnedStep:
    fields: dict[str, Any] = {
        "name": "refine",
        "operation": "refine.photoreal",
        "operation_version": 1,
        "engine": "portable",
        "params": {"grain": 0.5, "tone": 1},
        "seed": 7,
        "inputs": {"image": "face.image"},
    }
    return PinnedStep(**{**fields, **changes})


def key(**changes: Any) -> str:
    return step_key(pinned(**changes), {"net": DIGEST}, {"image": (DIGEST,)})


@pytest.mark.parametrize(
    "changes",
    [
        {"operation": "refine.other"},
        {"operation_version": 2},
        {"engine": "flux"},
        {"params": {"grain": 0.6, "tone": 1}},
        {"seed": 8},
        {"seed": None},
    ],
)
def test_every_ingredient_of_the_step_changes_its_key(changes: dict[str, Any]) -> None:
    assert key(**changes) != key()


def test_models_and_inputs_change_the_key() -> None:
    step = pinned()
    assert step_key(step, {"net": OTHER}, {"image": (DIGEST,)}) != key()
    assert step_key(step, {"net": DIGEST}, {"image": (OTHER,)}) != key()


def test_another_revision_of_its_engine_makes_a_waiting_step_anew_and_refuses_it_not() -> None:
    """It was pinned before, and what older code made of it is no result of this one."""
    message = first_message(MemoryStore())
    inputs = {"text": tuple(one.sha256 for one in message.artifacts["request.photos"])}
    keys = []
    for revision in (1, 2, 3):
        stage = Stage("refine", (replace(TEXT, engines={"portable": replace(APPEND, revision=revision)}),))
        prepared = prepare(message, Engines(stage))
        assert prepared.key == step_key(message.step, prepared.models, inputs, revision)
        keys.append(prepared.key)
    assert keys[0] == step_key(message.step, prepared.models, inputs)
    assert len(set(keys)) == 3


def test_the_order_of_several_blobs_in_one_input_matters() -> None:
    step = pinned()
    assert step_key(step, {}, {"photos": (DIGEST, OTHER)}) != step_key(step, {}, {"photos": (OTHER, DIGEST)})


def test_name_and_place_of_the_step_do_not_matter() -> None:
    """Two recipes that ask for the same thing share its result."""
    assert key(name="again", inputs={"image": "elsewhere.image"}) == key()


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.booleans(), max_size=5))
def test_the_order_in_which_parameters_are_written_does_not_matter(params: dict[str, Any]) -> None:
    backwards = dict(reversed(params.items()))
    assert key(params=params) == key(params=backwards)


def test_the_key_is_the_same_in_every_version_of_the_code() -> None:
    """A pinned value: were the canonical form to change, every stored result would be orphaned in silence."""
    assert key() == "ff9ec6e882e1b718fd10aa72450e4cd0679f48f5d0144b06f4c7ea775ed26575"
