"""What holds of a job that makes several attempts at its picture, whatever is told of it and in whatever order."""

from contextlib import closing
from functools import reduce
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.evidence import current_step
from services.gateway.resume import resume
from shared.broker.embedded import EmbeddedBroker
from shared.broker.topology import topology
from shared.contracts.attempt import Attempt, PinnedGate
from shared.contracts.event import Event
from shared.jobs.journal import ENDS, apply, replayed, tried_of
from shared.jobs.port import Job
from shared.worker.retry import RetryPolicy
from tests.contract.jobs_samples import PICTURE, RESULT, at, event, first_message, job, record_of
from tests.unit.job_files import open_jobs
from tests.unit.test_jobs_journal_properties import of_run, shuffled

GATE = PinnedGate(back_to="base", attempts=4, identity_weight_step=0.1, identity_weight_most=1.2)
MESSAGE = first_message().model_copy(update={"gate": GATE})
STEPS = ("encode", "base", "score")
AGAIN = ("base", "score")


def attempt(number: int, cost_usd: float = 0.5) -> Attempt:
    return Attempt(
        number=number, image=PICTURE, verdict=PICTURE, passed=False, identity_score=0.4, seconds=9.0, cost_usd=cost_usd
    )


def gated() -> Job:
    return job(first_message=MESSAGE)


def told(kind: str, step: str, tried: int = 0, **fields: object) -> Event:
    details = {"at": at(1 + tried), **({"tried": tried} if tried else {}), **fields}
    return event(kind, step, **details)  # type: ignore[arg-type]


def back(number: int) -> Event:
    return told("regenerating", "score", number - 1, attempted=attempt(number))


TRIED = st.integers(0, 3)
NEWS = st.builds(
    told,
    st.sampled_from(["started", "progress", "finished", "retrying"]),
    st.sampled_from(STEPS),
    TRIED,
    attempt=st.integers(1, 3),
    fraction=st.none() | st.floats(0.0, 1.0),
    record=st.none() | st.builds(record_of, st.sampled_from(STEPS), seconds=st.floats(0.0, 100.0)),
)
BACK = st.integers(1, 3).map(back)
DONE = TRIED.map(lambda tried: told("done", "score", tried, result=RESULT))
STORIES = st.lists(NEWS | BACK, max_size=14)
STORIES_WITH_AN_END = st.tuples(STORIES, DONE).map(lambda parts: [*parts[0], parts[1]])
enough = settings(max_examples=80, deadline=None)


@enough
@given(STORIES_WITH_AN_END, st.data())
def test_neither_order_nor_repetition_matters(story: list[Event], data: st.DataObject) -> None:
    assert reduce(apply, shuffled(data, story), gated()) == reduce(apply, story, gated())


@enough
@given(STORIES_WITH_AN_END, STORIES, st.data())
def test_neither_matters_within_a_new_run(story: list[Event], before: list[Event], data: st.DataObject) -> None:
    """Whatever became of the run before, and with whichever attempt the new one began."""
    start = reduce(apply, before, gated())
    assert reduce(apply, shuffled(data, of_run(story, 1)), start) == reduce(apply, of_run(story, 1), start)


@enough
@given(STORIES)
def test_attempts_only_count_up_and_within_one_nothing_goes_backwards(story: list[Event]) -> None:
    for before, later in pairwise(accumulate(story, apply, initial=gated())):
        assert tried_of(before) <= tried_of(later)
        for was, is_now in zip(before.steps, later.steps, strict=True):
            if was.tried == is_now.tried:
                assert was.state != "finished" or is_now.state == "finished"
                assert was.fraction <= is_now.fraction
            else:
                assert was.step in AGAIN, "what comes before the gate's step is never done again"


def test_a_job_that_goes_back_is_at_the_gate_s_step_and_not_finished() -> None:
    story = [told("finished", step, record=record_of(step)) for step in STEPS]
    gone = reduce(apply, [*story, back(1)], gated())
    assert gone.state not in ENDS.values()
    assert [step.state for step in gone.steps] == ["finished", "waiting", "waiting"]
    found = current_step(gone)
    assert found is not None
    assert found.name == "base"


def test_a_job_that_was_replayed_at_its_last_step_and_goes_back_is_looked_for_at_the_gate_s_step() -> None:
    """Not where its run began: there it would be taken for lost, and its message published beside the other."""
    message = MESSAGE.model_copy(update={"run": 1, "cursor": 2})
    story = [told("finished", step, record=record_of(step)) for step in STEPS[:2]]
    again = replayed(reduce(apply, [*story, told("dead", "score")], gated()), message)
    gone = reduce(apply, of_run([told("finished", "score", record=record_of("score")), back(1)], 1), again)
    found = current_step(gone)
    assert found is not None
    assert found.name == "base"


def test_what_is_still_told_of_an_attempt_before_changes_no_step() -> None:
    later = reduce(apply, [back(1), told("started", "base", 1)], gated())
    assert apply(later, told("finished", "base", record=record_of("base"))).steps == later.steps


def test_a_replay_within_the_second_attempt_shows_the_second_attempt() -> None:
    story = [told("finished", step, record=record_of(step)) for step in STEPS]
    story += [back(1), told("finished", "base", 1, record=record_of("base")), told("dead", "score", 1)]
    gate = GATE.model_copy(update={"finished": 1, "record": PICTURE})
    message = MESSAGE.model_copy(update={"gate": gate, "run": 1, "cursor": 2})
    again = replayed(reduce(apply, story, gated()), message)
    assert [(step.state, step.tried) for step in again.steps] == [("finished", None), ("finished", 1), ("waiting", 1)]
    started = apply(again, told("started", "score", 1).model_copy(update={"run": 1}))
    assert started.steps[2].state == "running"


def test_a_store_keeps_attempts_and_counts_what_they_cost_of_a_job_that_never_got_done(tmp_path: Path) -> None:
    with closing(open_jobs(tmp_path / "jobs.sqlite")) as store:
        store.add(job(first_message=MESSAGE, batch_id="batch-1"))
        paid = record_of("encode").model_copy(update={"cost_usd": 0.25})
        for one in (told("finished", "encode", record=paid), back(1), back(1), back(2), told("cancelled", "score", 2)):
            store.record(one)
        standing, summary = store.get("job-1"), store.batch("batch-1")
        assert standing is not None
        assert [one.number for one in standing.attempts] == [1, 2]
        assert [one.kind for one in store.events("job-1")].count("regenerating") == 2
        assert summary is not None
        assert summary.cost_usd == pytest.approx(0.25 + 2 * 0.5)


def test_a_process_that_ends_in_the_second_attempt_is_told_of_as_of_the_first(tmp_path: Path) -> None:
    """The same step, the same number of crashes: another happening all the same."""
    with (
        closing(open_jobs(tmp_path / "jobs.sqlite")) as store,
        closing(EmbeddedBroker()) as broker,
    ):
        broker.declare(topology())
        store.add(gated())
        store.release("interactive", 9, lambda _: None)
        store.record(told("finished", "encode", record=record_of("encode")))
        for tried in (0, 1):
            store.record(told("started", "base", tried))
            resume(broker, store, RetryPolicy(), "w")
            standing = store.get("job-1")
            assert standing is not None
            assert (standing.steps[1].state, standing.steps[1].attempts) == ("retrying", 1)
            store.record(back(tried + 1))
