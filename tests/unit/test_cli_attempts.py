"""How the command line asks for attempts at a picture, and shows them."""

import argparse
import json
import re
from typing import Any

import pytest

from doctor_image_gen.cli.attempts import in_words
from doctor_image_gen.cli.parser import build_parser
from doctor_image_gen.cli.progress import Progress
from doctor_image_gen.cli.wishes import options_of
from doctor_image_gen.options import GenerationOptions
from doctor_image_gen.result import attempt_made
from shared.contracts.attempt import Attempt, AttemptError
from shared.contracts.errors import InvalidInput
from shared.contracts.event import Event, EventKind
from shared.contracts.recipe import Recipe
from tests.contract.jobs_samples import PICTURE, at

RECIPE = Recipe.from_json(
    json.dumps(
        {
            "name": "r",
            "version": 1,
            "title": "t",
            "result": "paint.image",
            "verdict": "judge.verdict",
            "gate": {"back_to": "paint"},
            "steps": [
                {"name": "who", "operation": "identity.x", "inputs": {}},
                {"name": "paint", "operation": "generate.x", "inputs": {}},
                {"name": "judge", "operation": "qa.x", "inputs": {}},
            ],
        }
    )
)
FAILED = Attempt(
    number=1,
    seed=7,
    identity_weight=0.85,
    image=PICTURE,
    verdict=PICTURE,
    passed=False,
    identity_score=0.52,
    failed=("likeness", "hands"),
    seconds=70.0,
    cost_usd=0.1,
)


def parsed(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(["generate", "--doctor-image", "me.png", *words])


def event(kind: EventKind, step: str, stage: str, **fields: Any) -> Event:
    whole = {"event_id": "e", "job_id": "j", "caller": "c", "at": at(1), "worker": "w", "attempt": 1, **fields}
    return Event(kind=kind, step=step, stage=stage, **whole)


def test_attempts_and_their_cost_are_options_of_the_request() -> None:
    options = GenerationOptions.parse(options_of(parsed("--attempts", "5", "--max-cost", "1.5")))
    assert (options.attempts, options.max_cost_usd) == (5, 1.5)
    asked = options.of_request()
    assert (asked["attempts"], asked["max_cost_usd"]) == (5, 1.5)


def test_more_attempts_than_there_may_be_are_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"^--attempts: .*less than or equal to 8"):
        GenerationOptions.parse(options_of(parsed("--attempts", "9")))


def test_an_attempt_that_an_error_broke_off_says_where_and_why() -> None:
    error = AttemptError(
        step="refine", kind="ResourceExhausted", message="out of memory", hint="Replay on a worker with more memory."
    )
    changes = {"image": None, "verdict": None, "identity_score": None, "failed": (), "number": 2, "error": error}
    told = in_words(attempt_made(FAILED.model_copy(update=changes), 1))
    assert told == "attempt 2: broke off at step 'refine': out of memory. Replay on a worker with more memory."


@pytest.mark.parametrize(
    ("changes", "kept", "words"),
    [
        ({}, 2, "attempt 1: likeness 0.52, weight 0.85, failed likeness and hands"),
        (
            {"passed": True, "failed": (), "identity_score": 0.7},
            1,
            "attempt 1: likeness 0.70, weight 0.85, passed, kept",
        ),
        (
            {"identity_score": None, "identity_weight": None, "failed": ()},
            None,
            "attempt 1: likeness not measured, failed for no stated reason",
        ),
    ],
)
def test_an_attempt_is_told_in_a_line(changes: dict[str, Any], kept: int | None, words: str) -> None:
    assert in_words(attempt_made(FAILED.model_copy(update=changes), kept)) == words


def test_the_bars_go_back_with_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    """From the gate's step on they are empty again and say which attempt it is; what was told late moves none."""
    with Progress(RECIPE, quiet=False) as progress:
        for step, stage in (("who", "identity"), ("paint", "generate"), ("judge", "qa")):
            progress.tell(event("finished", step, stage))
        progress.tell(event("regenerating", "judge", "qa", attempted=FAILED))
        progress.tell(event("progress", "paint", "generate", tried=1, fraction=0.5))
        progress.tell(event("finished", "judge", "qa"))
    shown = capsys.readouterr().err
    last = {
        stage: re.findall(rf"{stage} .*?(\d\.\d)/1 steps (.*)", shown)[-1] for stage in ("identity", "generate", "qa")
    }
    assert last["identity"][0] == "1.0"
    assert last["generate"][0] == "0.5"
    assert last["qa"][0] == "0.0"
    assert "attempt 2" in last["generate"][1]
    assert "attempt 2" in last["qa"][1]
