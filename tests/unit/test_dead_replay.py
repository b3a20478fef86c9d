"""What a replay publishes: pure decisions on a letter, its job and the operator's wish."""

from typing import Any

import pytest

from doctor_image_gen.replay import GoneOnError, Plan, Wish, plan_replay
from doctor_image_gen.stages import OPERATIONS as ALL_OPERATIONS
from shared.contracts.dead_letter import LINEAGE_HEADER, DeadLetter
from shared.contracts.errors import InvalidInput, Permanent
from shared.contracts.event import Event
from shared.contracts.step import Lineage, StepMessage
from shared.jobs.port import Job, JobState
from shared.worker.operation import Operation
from tests import synthetic
from tests.contract.jobs_samples import event, request
from tests.unit.letter_samples import DAWN, OPERATIONS, at, letter, message, raw_letter

NOW = at(60)


def plan(
    dead: DeadLetter, wish: Wish | None = None, job: Job | None = None, operations: dict[str, Operation] = OPERATIONS
) -> Plan:
    return plan_replay(dead, job, wish or Wish(), "bob@desk", NOW, operations)


def again(dead: DeadLetter, wish: Wish | None = None, job: Job | None = None) -> StepMessage:
    replayed = plan(dead, wish, job).message
    assert replayed is not None
    return replayed


def job(state: JobState, run: int = 0) -> Job:
    return Job(job_id="job-1", caller="tester", state=state, run=run, steps=(), created_at=DAWN, updated_at=DAWN)


def test_a_replay_starts_a_new_run_at_the_step_that_failed() -> None:
    dead = letter()
    assert dead.message is not None
    replayed = again(dead)
    assert replayed == dead.message.model_copy(
        update={
            "run": 1,
            "lineage": Lineage(letter_id="letter-1", by="bob@desk", at=NOW),
            "attempts": 0,
            "plan": 0,
            "failures": (),
        }
    )


def test_the_step_is_published_first_and_then_the_event_that_opens_the_job_again() -> None:
    step, told = plan(letter()).outgoing
    assert (step.exchange, step.routing_key) == ("doctorgen.steps", "upscale.interactive")
    assert StepMessage.from_json(step.body) == again(letter())
    replayed = Event.from_json(told.body)
    assert (replayed.kind, replayed.run, replayed.step, replayed.job_id) == ("replayed", 1, "two", "job-1")
    assert (told.exchange, told.routing_key) == ("doctorgen.events", "job.job-1.replayed")


def test_planned_again_it_is_the_same_run_and_the_same_event() -> None:
    """A crash between publishing and settling makes an operator replay the letter again."""
    first, second = plan(letter()), plan(letter())
    assert [outgoing.message_id for outgoing in first.outgoing] == [outgoing.message_id for outgoing in second.outgoing]


def test_an_earlier_step_forgets_what_later_ones_made_and_keeps_the_rest() -> None:
    dead = letter(message=message(cursor=2))
    replayed = again(dead, Wish("two"))
    assert replayed.step.name == "two"
    assert set(replayed.artifacts) == {"request.photos", "one.text"}
    assert set(again(dead, Wish("one")).artifacts) == {"request.photos"}


@pytest.mark.parametrize(
    ("run", "known", "expected"), [(0, None, 1), (3, None, 4), (3, job("dead", 3), 4), (0, job("dead", 5), 6)]
)
def test_the_run_is_newer_than_any_before(run: int, known: Job | None, expected: int) -> None:
    assert again(letter(run=run, message=message(run=run)), job=known).run == expected


def test_other_parameters_are_checked_and_put_into_the_step() -> None:
    replayed = again(letter(), Wish("one", {"one": {"word": "x"}, "two": {"fail": 2}}))
    one, two, three = replayed.steps
    assert one.params == {"word": "x", "fail": 0, "broken": False}
    assert two.params == {"word": "!", "fail": 2, "broken": False}
    assert three == message().steps[2]
    assert replayed.run == 1


def test_a_picture_replayed_at_another_size_is_judged_by_that_size() -> None:
    """As one that is asked for at another size."""
    upscale, judge = ALL_OPERATIONS["upscale.image"], ALL_OPERATIONS["qa.score"]
    first = message().steps[0].model_copy(update={"engine": "portable", "inputs": {}, "seed": None})
    size = {"width": 4096, "height": 4096}
    steps = tuple(
        first.model_copy(
            update={"name": operation.name.split(".")[0], "operation": operation.name, "params": size, "inputs": inputs}
        )
        for operation, inputs in ((upscale, {}), (judge, {"image": "upscale.image"}))
    )
    dead = letter(message=message(cursor=0, steps=steps, result="upscale.image", verdict="qa.verdict"))
    again = plan(dead, Wish(None, {"upscale": {"width": 2048}}), operations=ALL_OPERATIONS).message
    assert again is not None
    assert [(step.params["width"], step.params["height"]) for step in again.steps] == [(2048, 4096)] * 2


def test_what_will_be_done_is_told_in_words() -> None:
    late = letter(message=message(deadline=at(5)))
    wish = Wish("one", {"one": {"word": "x"}})
    words = "job job-1 from 'one' as run 1, one.word='x', without its deadline, which has passed"
    assert plan(late, wish).words == words
    assert plan(letter()).words == "job job-1 from 'two' as run 1"


@pytest.mark.parametrize(("deadline", "kept"), [(at(59), False), (at(60), False), (at(61), True)])
def test_only_a_deadline_that_has_passed_is_dropped(deadline: Any, kept: bool) -> None:
    assert (again(letter(message=message(deadline=deadline))).deadline is not None) == kept


def test_steps_still_to_be_done_are_pinned_to_the_versions_of_now() -> None:
    newer = {
        name: Operation(name, 2, one.inputs, one.outputs, one.seeded, one.engines) for name, one in OPERATIONS.items()
    }
    planned = plan(letter(), operations=newer)
    assert planned.message is not None
    assert [step.operation_version for step in planned.message.steps] == [1, 2, 2], "the first is done already"
    assert "upscale.append version 2 instead of 1" in planned.words


def test_a_step_of_which_nothing_is_known_here_is_left_as_it_is() -> None:
    """The operator's machine may have fewer recipes' operations than the workers."""
    planned = plan(letter(), operations={})
    assert planned.message is not None
    assert planned.message.steps == message().steps


@pytest.mark.parametrize(
    ("wish", "field", "words"),
    [
        (Wish("tow"), "from_step", "job job-1 has no step 'tow'. Did you mean two?"),
        (Wish("three"), "from_step", "'three' comes after 'two', which has not been done. Name one of: one, two."),
        (Wish(None, {"tree": {}}), "overrides.tree", "job job-1 has no step of that name. Did you mean three?"),
        (
            Wish(None, {"one": {"word": "x"}}),
            "overrides.one",
            "the replay starts after it, at 'two', so it would change nothing. Replay from 'one'.",
        ),
        (Wish(None, {"two": {"wort": "x"}}), "overrides.two.wort", "there is no such field. Did you mean word?"),
        (Wish(None, {"two": {"fail": -1}}), "overrides.two.fail", "greater than or equal to 0, found -1"),
    ],
)
def test_a_wish_that_does_not_fit_the_job_is_refused(wish: Wish, field: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        plan(letter(), wish)
    assert refused.value.field == field
    assert words in str(refused.value)


def test_parameters_of_an_operation_that_is_not_known_here_cannot_be_changed() -> None:
    with pytest.raises(InvalidInput, match=r"^overrides\.two: its operation upscale\.append with engine portable is"):
        plan(letter(), Wish(None, {"two": {"word": "x"}}), operations={})


def test_a_message_that_lacks_what_its_steps_read_says_what_is_missing() -> None:
    with pytest.raises(InvalidInput, match=r"the message holds no 'one.text', which 'two' reads\. Replay from 'one'"):
        plan(letter(message=message(artifacts={})))


def test_a_message_that_has_become_too_large_is_refused() -> None:
    with pytest.raises(Permanent, match="exceeds the 16384 of a message"):
        plan(letter(), Wish(None, {"two": {"word": "x" * 16_384}}))


@pytest.mark.parametrize(("state", "run"), [("done", 0), ("done", 1), ("running", 1), ("accepted", 2)])
def test_a_job_that_has_gone_on_needs_no_replay(state: JobState, run: int) -> None:
    with pytest.raises(GoneOnError, match=f"job job-1 is {state} in its run {run}; this letter is of run 0"):
        plan(letter(), job=job(state, run))


@pytest.mark.parametrize("state", ["accepted", "running", "dead", "refused", "expired"])
def test_a_job_that_did_not_end_well_may_be_replayed(state: JobState) -> None:
    assert again(letter(), job=job(state)).run == 1


def test_a_cancelled_job_is_not_replayed() -> None:
    with pytest.raises(InvalidInput, match=r"its job job-1 was cancelled\. Submit the job again"):
        plan(letter(), job=job("cancelled"))


def test_a_request_that_intake_gave_up_goes_in_again_with_its_lineage() -> None:
    asked = request(job_id="job-7")
    planned = plan(raw_letter(asked.to_json()))
    (outgoing,) = planned.outgoing
    assert (outgoing.exchange, outgoing.routing_key) == ("doctorgen.intake", "intake")
    assert outgoing.body == asked.to_json()
    assert outgoing.headers == {LINEAGE_HEADER: "raw-1"}
    assert planned.message is None


def test_a_batch_that_intake_gave_up_goes_in_again() -> None:
    body = (
        '{"schema_version":1,"batch_id":"b","part":1,"parts":1,"caller":"me","subjects":[{"subject":"dr-1","photos":'
        f'[{{"key":"inbox/a.png","sha256":"{"a" * 64}"}}]}}],"scenarios":["consultant"]}}'
    )
    (outgoing,) = plan(raw_letter(body)).outgoing
    assert (outgoing.exchange, outgoing.routing_key) == ("doctorgen.intake", "batch")


def test_an_event_that_the_journal_could_not_read_is_told_again() -> None:
    told = event("started", "base")
    (outgoing,) = plan(raw_letter(told.to_json(), "doctorgen.journal")).outgoing
    assert (outgoing.exchange, outgoing.routing_key) == ("doctorgen.events", "job.job-1.started")
    assert Event.from_json(outgoing.body) == told


def test_a_step_that_a_newer_version_can_read_is_replayed_as_any_other() -> None:
    """Its body was kept when an older worker could not read it."""
    dead = raw_letter(message().to_json(), "doctorgen.upscale.interactive")
    replayed = again(dead)
    assert (replayed.run, replayed.step.name, replayed.attempts) == (1, "two", 0)
    assert replayed.lineage == Lineage(letter_id="raw-1", by="bob@desk", at=NOW)


@pytest.mark.parametrize(
    ("body", "queue", "words"),
    [
        ("nonsense", "doctorgen.intake", "(JobRequest: Invalid JSON"),
        ('{"subjects": []}', "doctorgen.intake", "(batch_id: Field required (and 2 more))"),
        ("nonsense", "doctorgen.swap.bulk", "(StepMessage: Invalid JSON"),
        ('{"schema_version": 7}', "doctorgen.swap.bulk", "(schema_version: this is version 7, we read 1). Run a newer"),
        ("{}", "doctorgen.journal", "(event_id: Field required"),
        ("{}", "elsewhere", "raw-1 holds what still cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused_and_says_why(body: str, queue: str, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        plan(raw_letter(body, queue))
    assert refused.value.field == "letter"
    assert words in str(refused.value)
    assert str(refused.value).endswith("Export it to see its body; discard it if it is nobody's.")


@pytest.mark.parametrize(
    ("wish", "field"),
    [(Wish("one"), "from_step"), (Wish(None, {"one": {}}), "overrides"), (Wish("a", {"b": {}}), "from_step")],
)
def test_a_request_has_no_steps_to_start_from_or_to_change(wish: Wish, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        plan(raw_letter(request().to_json()), wish)
    assert refused.value.field == field


def test_the_synthetic_route_is_what_these_tests_think_it_is() -> None:
    """Guards the tests above against looking at another route."""
    assert [step.name for step in message().steps] == ["one", "two", "three"]
    assert message().step.operation == synthetic.PLAIN.name
