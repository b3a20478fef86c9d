"""What holds of a job whatever is told of it, in whatever order and however often."""

from collections.abc import Iterable
from functools import reduce
from itertools import accumulate, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts.event import TERMINAL, Event
from shared.jobs.journal import ENDS, apply
from shared.jobs.port import Job, JobState
from tests.contract.jobs_samples import RESULT, STEPS, TROUBLE, at, event, job, record_of

MINUTES = st.integers(0, 60).map(at)
FRACTIONS = st.floats(0.0, 1.0)
RECORDS = st.builds(record_of, st.sampled_from(STEPS), reused=st.booleans(), seconds=st.floats(0.0, 100.0))
RESULTS = st.lists(RECORDS, max_size=4).map(lambda trail: RESULT.model_copy(update={"trail": tuple(trail)}))
NEWS = st.builds(
    event,
    st.sampled_from(["accepted", "started", "progress", "finished", "retrying"]),
    st.sampled_from([*STEPS, "unheard-of"]),
    attempt=st.none() | st.integers(1, 4),
    at=MINUTES,
    fraction=st.none() | FRACTIONS,
    record=st.none() | RECORDS,
)
ENDINGS = st.builds(
    event,
    st.sampled_from(sorted(TERMINAL)),
    st.none() | st.sampled_from(STEPS),
    at=MINUTES,
    error=st.none() | st.just(TROUBLE),
    result=st.none() | RESULTS,
)
STORIES = st.lists(NEWS | ENDINGS, max_size=12)
STORIES_WITH_ONE_END = st.tuples(st.lists(NEWS, max_size=12), ENDINGS).map(lambda told: [*told[0], told[1]])
RUNS = st.integers(0, 3)
REPLAYS = st.builds(event, st.just("replayed"), at=MINUTES)
STORIES_OF_RUNS = st.lists(
    st.builds(lambda told, run: told.model_copy(update={"run": run}), NEWS | ENDINGS | REPLAYS, RUNS), max_size=12
)
enough = settings(max_examples=60, deadline=None)
"""Ten properties look at the same kinds of story, so each kind is looked at some hundreds of times."""
MAY_FOLLOW: dict[JobState, set[JobState]] = {
    "accepted": {"running", *ENDS.values()},
    "running": {*ENDS.values()},
    **{end: set() for end in ENDS.values()},
}


def shuffled(data: st.DataObject, told: list[Event]) -> list[Event]:
    """The same events in another order, some of them repeated."""
    repeated = data.draw(st.lists(st.sampled_from(told), max_size=6)) if told else []
    return data.draw(st.permutations([*told, *repeated]))


def after(told: Iterable[Event], start: Job | None = None) -> Job:
    """A new job after these events, or the one to start from."""
    return reduce(apply, told, start or job())


def of_run(told: Iterable[Event], run: int) -> list[Event]:
    """The same events as those of a run."""
    return [each.model_copy(update={"run": run}) for each in told]


@enough
@given(STORIES_WITH_ONE_END, st.data())
def test_with_one_terminal_event_neither_order_nor_repetition_matters(told: list[Event], data: st.DataObject) -> None:
    """The whole job is the same: state, steps, error, result, instants."""
    assert after(shuffled(data, told)) == after(told)


@enough
@given(STORIES, st.data())
def test_steps_never_depend_on_order_or_repetition(told: list[Event], data: st.DataObject) -> None:
    """Even where several terminal events race."""
    one, other = after(told), after(shuffled(data, told))
    assert (one.steps, one.updated_at) == (other.steps, other.updated_at)


@enough
@given(STORIES)
def test_the_job_ends_as_its_first_terminal_event_says(told: list[Event]) -> None:
    ends = [each for each in told if each.kind in TERMINAL]
    ended = after(told)
    assert (ended.state in ENDS.values()) == bool(ends)
    for first in ends[:1]:
        assert (ended.state, ended.error, ended.result) == (first.kind, first.error, first.result)


@enough
@given(STORIES)
def test_nothing_goes_backwards(told: list[Event]) -> None:
    """Not the job's state, its clock, a step's attempts or its progress; and what is finished stays finished."""
    stages = list(accumulate(told, apply, initial=job()))
    for before, later in pairwise(stages):
        assert later.state == before.state or later.state in MAY_FOLLOW[before.state]
        assert before.updated_at <= later.updated_at
        for was, is_now in zip(before.steps, later.steps, strict=True):
            assert was.attempts <= is_now.attempts
            assert was.fraction <= is_now.fraction
            assert was.state != "finished" or is_now.state == "finished"
            assert is_now.state != "waiting" or was.state == "waiting"


@enough
@given(STORIES_OF_RUNS.filter(bool))
def test_telling_an_event_again_changes_nothing(told: list[Event]) -> None:
    once = after(told)
    assert apply(once, told[-1]) == once


@enough
@given(STORIES_OF_RUNS)
def test_the_job_is_always_one_that_the_contract_allows(told: list[Event]) -> None:
    ended = after(told)
    assert Job.model_validate(ended.model_dump()) == ended


@enough
@given(STORIES_OF_RUNS)
def test_a_job_shows_its_newest_run_and_ends_as_that_runs_first_terminal_event_says(told: list[Event]) -> None:
    standing = after(told)
    newest = max((each.run for each in told), default=0)
    ends = [each for each in told if each.run == newest and each.kind in TERMINAL]
    assert standing.run == newest
    assert (standing.state in ENDS.values()) == bool(ends)
    for first in ends[:1]:
        assert (standing.state, standing.error, standing.result) == (first.kind, first.error, first.result)


@enough
@given(STORIES_OF_RUNS)
def test_every_run_ends_at_most_once(told: list[Event]) -> None:
    """Looked at after each event, a run was never seen in two terminal states."""
    seen = {(standing.run, standing.state) for standing in accumulate(told, apply, initial=job())}
    ended = [run for run, state in seen if state in ENDS.values()]
    assert len(ended) == len(set(ended))


@enough
@given(STORIES, st.lists(NEWS, max_size=12), ENDINGS, st.data())
def test_within_a_new_run_with_one_end_neither_order_nor_repetition_matters(
    before: list[Event], news: list[Event], end: Event, data: st.DataObject
) -> None:
    """Whatever became of the runs before, and whatever is still told of them."""
    ended = after(before)
    told = of_run([*news, end], 1)
    late = data.draw(st.lists(NEWS | ENDINGS, max_size=4))
    order = shuffled(data, told)
    mixed = [order[0], *data.draw(st.permutations([*order[1:], *late]))]
    assert after(mixed, ended) == after(told, ended)


@enough
@given(STORIES_OF_RUNS)
def test_runs_only_count_up_and_a_finished_step_stays_finished_in_all_of_them(told: list[Event]) -> None:
    for before, later in pairwise(accumulate(told, apply, initial=job())):
        assert before.run <= later.run
        assert before.updated_at <= later.updated_at
        for was, is_now in zip(before.steps, later.steps, strict=True):
            assert was.state != "finished" or is_now.state == "finished"
