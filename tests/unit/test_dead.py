"""Dead letters through the SDK, on a real SQLite job store and the embedded broker."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from doctor_image_gen.dead import DeadLetters, filter_of, wish_of
from doctor_image_gen.replay import Wish
from doctor_image_gen.replayer import Outcome, Pace
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.broker.port import Subscription
from shared.broker.topology import EVENTS, work_queues
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.errors import InvalidInput, QueueFull, Transient
from shared.contracts.event import Event
from shared.contracts.step import StepMessage
from shared.jobs.port import FiledLetter, LetterFilter, StepState
from tests.contract.jobs_samples import event, job
from tests.synthetic import SUBJECT
from tests.unit.job_files import put_jobs
from tests.unit.letter_samples import BROKEN, at, letter, message, raw_letter

PATIENCE_S = 5.0
STAGE = "upscale"


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[Connections]:
    put_jobs(tmp_path / "data" / "jobs.sqlite")
    with closing(Connections.open(Settings(data_dir=tmp_path / "data"))) as connections:
        yield connections


@pytest.fixture
def dead(connections: Connections) -> DeadLetters:
    return DeadLetters(connections, by="bob@desk")


def file(connections: Connections, *letters: DeadLetter) -> None:
    assert all(connections.jobs.file_letter(one) for one in letters)


def state_of(connections: Connections, letter_id: str) -> str:
    (filed,) = connections.jobs.letters(LetterFilter(letter_id=letter_id, state=None))
    return filed.state


def drain(subscription: Subscription, count: int) -> list[StepMessage]:
    """So many messages, and the proof that there are no more."""
    taken: list[StepMessage] = []
    while (delivery := subscription.receive(PATIENCE_S if len(taken) < count else 0.05)) is not None:
        delivery.ack()
        taken.append(StepMessage.from_json(delivery.body))
    assert len(taken) == count
    return taken


def results(outcomes: tuple[Outcome, ...]) -> list[tuple[str, str]]:
    return [(outcome.letter_id, outcome.result) for outcome in outcomes]


def test_causes_are_grouped_with_the_largest_first(connections: Connections, dead: DeadLetters) -> None:
    other = BROKEN.model_copy(update={"kind": "Transient"})
    file(connections, letter(1), letter(2), letter(3, fingerprint="f2", error=other))
    larger, smaller = dead.list()
    assert (larger.fingerprint, larger.count, larger.oldest, larger.newest) == ("f1", 2, at(1), at(2))
    assert larger.example in {"letter-1", "letter-2"}
    assert (smaller.stage, smaller.kind, smaller.error_type) == (STAGE, "Transient", "ZeroDivisionError")
    assert [group.count for group in dead.list(fingerprint="f2")] == [1]
    assert dead.list(caller="nobody") == ()


def test_a_filter_that_does_not_exist_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"^stages: there is no such field\. Did you mean stage"):
        filter_of({"stages": "swap"})
    with pytest.raises(InvalidInput, match=r"^state: "):
        filter_of({"state": "lost"})


def test_a_replay_publishes_the_step_tells_of_it_and_settles_the_letter(
    connections: Connections, dead: DeadLetters
) -> None:
    file(connections, letter(1))
    with (
        closing(connections.broker.listen(EVENTS, ("job.*.replayed",))) as ear,
        closing(connections.broker.subscribe(*work_queues(STAGE))) as queue,
    ):
        outcomes = dead.replay("letter-1")
        (replayed,) = drain(queue, 1)
        told = ear.receive(PATIENCE_S)
    assert outcomes == (Outcome("letter-1", "replayed", "job job-1 from 'two' as run 1", "job-1", 1),)
    assert (replayed.job_id, replayed.run, replayed.attempts) == ("job-1", 1, 0)
    assert replayed.lineage is not None
    assert (replayed.lineage.letter_id, replayed.lineage.by) == ("letter-1", "bob@desk")
    assert told is not None
    assert Event.from_json(told.body).kind == "replayed"
    shown = dead.show("letter-1").filed
    assert (shown.state, shown.settled_by) == ("replayed", "bob@desk")


def test_a_replayed_job_is_open_again_at_once_with_the_message_of_its_new_run(
    connections: Connections, dead: DeadLetters
) -> None:
    """So a rescue knows what to publish, other parameters included, though the broker's disk were lost this instant."""
    first = message(cursor=0, artifacts=message().artifacts, failures=(), attempts=0)
    steps = tuple(StepState(step=step.name, state="waiting") for step in first.steps)
    connections.jobs.add(job("job-1", first_message=first, steps=steps))
    for told in (event("finished", "one"), event("dead", "two", error=BROKEN)):
        connections.jobs.record(told)
    file(connections, letter(1))
    assert [outcome.run for outcome in dead.replay("job-1")] == [1]
    again = connections.jobs.get("job-1")
    assert again is not None
    assert (again.state, again.run, again.error) == ("running", 1, None)
    assert [step.state for step in again.steps] == ["finished", "waiting", "waiting"]
    assert again.released_at is not None, "it counts as under way"
    assert again.first_message is not None
    assert (again.first_message.run, again.first_message.step.name) == (1, "two")


def test_a_second_replay_does_nothing_and_says_so(connections: Connections, dead: DeadLetters) -> None:
    file(connections, letter(1))
    with closing(connections.broker.subscribe(*work_queues(STAGE))) as queue:
        dead.replay("letter-1")
        with pytest.raises(InvalidInput, match=r"^letter: 'letter-1' was replayed by bob@desk at "):
            dead.replay("letter-1")
        assert dead.replay(everything=True) == ()
        drain(queue, 1)


def test_a_crash_in_the_middle_leaves_the_letter_open_and_the_next_replay_is_the_same_run(
    connections: Connections, dead: DeadLetters
) -> None:
    """The transaction is cut between the publication and the mark, as by a kill -9."""
    file(connections, letter(1))
    published = []

    class PowerCutError(BaseException):
        pass

    def act(filed: FiledLetter) -> StepMessage | None:
        published.append(filed)
        raise PowerCutError

    with pytest.raises(PowerCutError):
        connections.jobs.settle_letter("letter-1", "replayed", "bob@desk", act)
    assert len(published) == 1
    assert state_of(connections, "letter-1") == "open"
    with closing(connections.broker.subscribe(*work_queues(STAGE))) as queue:
        assert results(dead.replay(everything=True)) == [("letter-1", "replayed")]
        (replayed,) = drain(queue, 1)
    assert replayed.run == 1


def test_while_the_broker_is_away_nothing_is_settled(connections: Connections, dead: DeadLetters) -> None:
    file(connections, letter(1), letter(2))
    connections.broker.close()
    with pytest.raises(Transient):
        dead.replay(everything=True)
    assert [state_of(connections, f"letter-{number}") for number in (1, 2)] == ["open", "open"]


def test_a_group_is_replayed_oldest_first_and_others_are_left(connections: Connections, dead: DeadLetters) -> None:
    file(connections, letter(2), letter(1), letter(3, fingerprint="f2"))
    with closing(connections.broker.subscribe(*work_queues(STAGE))) as queue:
        assert results(dead.replay(fingerprint="f1")) == [("letter-1", "replayed"), ("letter-2", "replayed")]
        assert [one.job_id for one in drain(queue, 2)] == ["job-1", "job-2"]
    assert state_of(connections, "letter-3") == "open"


def test_more_letters_than_a_page_holds_are_all_replayed_once(
    connections: Connections, dead: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pages and a bit, some of one instant; those that die again meanwhile are not taken up again."""
    monkeypatch.setattr("doctor_image_gen.dead.PAGE", 10)
    count = 23
    for number in range(count):
        file(connections, letter(number, died_at=at(number // 7)))
    seen = []
    for filed in dead.each():
        seen.append(filed.letter.letter_id)
        assert connections.jobs.file_letter(letter(1000 + len(seen), died_at=at(count)))
    assert len(seen) == len(set(seen)) == count
    assert all(int(letter_id.removeprefix("letter-")) < count for letter_id in seen)
    assert len(dead.replay(everything=True, dry_run=True)) == 2 * count
    assert len(dead.replay(everything=True)) == 2 * count
    assert dead.list() == ()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(connections: Connections, dead: DeadLetters) -> None:
    file(connections, letter(1))
    with closing(connections.broker.subscribe(*work_queues(STAGE))) as queue:
        (outcome,) = dead.replay("letter-1", from_step="one", dry_run=True)
        drain(queue, 0)
    assert (outcome.result, outcome.words) == ("planned", "job job-1 from 'one' as run 1")
    assert state_of(connections, "letter-1") == "open"


def test_a_job_s_id_stands_for_its_letters(connections: Connections, dead: DeadLetters) -> None:
    file(connections, letter(1), letter(1, letter_id="letter-1b", died_at=at(9), run=1))
    shown = dead.show("job-1")
    assert shown.filed.letter.letter_id == "letter-1b"
    assert [other.letter.letter_id for other in shown.others] == ["letter-1"]
    assert results(dead.replay("job-1")) == [("letter-1", "replayed"), ("letter-1b", "replayed")]


@pytest.mark.parametrize("call", ["show", "replay", "discard", "export"])
def test_what_is_not_there_is_named(dead: DeadLetters, call: str) -> None:
    with pytest.raises(InvalidInput, match=r"^letter: there is no dead letter 'nope', and none of a job of that id"):
        list(getattr(dead, call)("nope"))


def test_which_letters_are_meant_must_be_said(dead: DeadLetters) -> None:
    for given in ({}, {"everything": True, "fingerprint": "f1"}):
        with pytest.raises(InvalidInput, match=r"^letters: "):
            dead.replay(**given)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"^letters: both ids and a filter are given"):
        dead.discard("letter-1", fingerprint="f1")


def test_a_letter_that_cannot_be_replayed_like_that_stays_open_and_the_others_go(
    connections: Connections, dead: DeadLetters
) -> None:
    file(connections, letter(1), raw_letter("nonsense"))
    outcomes = {outcome.letter_id: outcome for outcome in dead.replay(everything=True)}
    assert outcomes["letter-1"].result == "replayed"
    assert outcomes["raw-1"].result == "refused"
    assert "still cannot be read" in outcomes["raw-1"].words
    assert state_of(connections, "raw-1") == "open"


def test_what_the_licence_policy_forbids_is_not_replayed(connections: Connections) -> None:
    """It was filed under another policy, or its replay names another model; the letter stays open."""
    plain = letter().message
    assert plain is not None
    steps = [step.model_copy(update={"engine": "flux", "params": {"model": "flux1-dev"}}) for step in plain.steps]
    file(connections, letter(message=plain.model_copy(update={"steps": tuple(steps)})))
    with pytest.raises(InvalidInput, match=r"policy here is 'commercial'.*step 'two' needs flux1-dev"):
        DeadLetters(connections, licence_policy="commercial").replay("letter-1")
    assert state_of(connections, "letter-1") == "open"
    assert DeadLetters(connections, licence_policy="research").replay("letter-1")[0].result == "replayed"


def test_where_none_can_be_replayed_the_first_reason_is_raised(connections: Connections, dead: DeadLetters) -> None:
    file(connections, letter(1), letter(2))
    with pytest.raises(InvalidInput, match=r"^from_step: job job-1 has no step 'refine'"):
        dead.replay(everything=True, from_step="refine")
    assert sum(group.count for group in dead.list()) == 2


def test_a_job_that_has_gone_on_needs_no_replay_and_its_letter_is_closed(
    connections: Connections, dead: DeadLetters
) -> None:
    connections.jobs.add(job("job-1"))
    connections.jobs.record(event("started", "base", run=1))
    file(connections, letter(1))
    (outcome,) = dead.replay("letter-1")
    assert (outcome.result, outcome.run) == ("gone on", None)
    assert "job job-1 is running in its run 1" in outcome.words
    assert state_of(connections, "letter-1") == "discarded"


def test_what_is_erased_stays_erased(connections: Connections, dead: DeadLetters) -> None:
    """A letter that was exported before comes back neither by import nor by replay."""
    file(connections, letter(1))
    lines = list(dead.export())
    connections.jobs.entomb(SUBJECT)
    with pytest.raises(InvalidInput, match=f"^subject: '{SUBJECT}' was erased"):
        dead.replay("letter-1")
    outcome = dead.import_([line.replace(b"letter-1", b"letter-2") for line in lines])
    assert (outcome.filed, outcome.standing, [number for number, _ in outcome.malformed]) == (0, 0, [1])


def test_discarded_letters_leave_the_list_and_can_still_be_shown(connections: Connections, dead: DeadLetters) -> None:
    file(connections, letter(1), letter(2), letter(3, fingerprint="f2"))
    assert dead.discard(fingerprint="f1") == 2
    assert [group.fingerprint for group in dead.list()] == ["f2"]
    assert dead.show("letter-1").filed.state == "discarded"
    assert sum(group.count for group in dead.list(state="any")) == 3
    with pytest.raises(InvalidInput, match=r"^letter: 'letter-1' was discarded by bob@desk"):
        dead.discard("letter-1")


def test_letters_survive_export_and_import_unchanged(
    connections: Connections, dead: DeadLetters, tmp_path: Path
) -> None:
    raw = raw_letter('{"scenario": "Zürich\\u2028"}\n')
    file(connections, letter(1), raw)
    lines = list(dead.export())
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    with DeadLetters.open(Settings(data_dir=tmp_path / "elsewhere")) as elsewhere:
        outcome = elsewhere.import_(lines)
        assert (outcome.filed, outcome.standing, outcome.malformed) == (2, 0, ())
        assert [filed.letter for filed in elsewhere.each()] == [filed.letter for filed in dead.each()]
        again = elsewhere.import_(lines)
        assert (again.filed, again.standing) == (0, 2)


def test_only_what_is_wanted_is_exported(connections: Connections, dead: DeadLetters) -> None:
    file(connections, letter(1), letter(2, fingerprint="f2"))
    (line,) = dead.export(fingerprint="f2")
    assert json.loads(line)["letter_id"] == "letter-2"
    assert list(dead.export("letter-2")) == [line]


def test_an_imported_letter_that_is_settled_here_stays_settled(connections: Connections, dead: DeadLetters) -> None:
    file(connections, letter(1))
    lines = list(dead.export())
    dead.discard("letter-1")
    assert dead.import_(lines).standing == 1
    assert state_of(connections, "letter-1") == "discarded"


def test_malformed_lines_are_told_by_number_and_keep_no_other_out(connections: Connections, dead: DeadLetters) -> None:
    good = letter(1).to_json()
    newer = letter(2).to_json().replace(b'"schema_version":1', b'"schema_version":7')
    outcome = dead.import_([b"nonsense\n", b"\n", good + b"\n", newer, b'{"letter_id": 5}', b"\xff\n"])
    assert outcome.filed == 1
    assert [number for number, _ in outcome.malformed] == [1, 4, 5, 6]
    assert str(outcome.malformed[1][1]) == "schema_version: this is version 7, we read 1. Run a newer worker."


def test_the_embedded_pipeline_s_letters_are_not_replayed_where_nobody_works(tmp_path: Path) -> None:
    with DeadLetters.open(Settings(data_dir=tmp_path / "data")) as dead:
        assert dead.import_([letter(1).to_json()]).filed == 1
        with pytest.raises(InvalidInput, match=r"^broker_url: the embedded pipeline ends with its process"):
            dead.replay("letter-1")
        assert dead.replay("letter-1", dry_run=True)[0].result == "planned"


def test_a_rate_spreads_replays_evenly() -> None:
    time = [100.0]
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        time[0] += seconds

    pace = Pace(5, pause, lambda: time[0])
    for _ in range(3):
        pace.wait()
    assert waits == pytest.approx([0.2, 0.2])
    time[0] += 60
    pace.wait()
    pace.wait()
    assert waits == pytest.approx([0.2, 0.2, 0.2]), "a pause of the caller's is not made up for by a rush"


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_must_be_above_zero(dead: DeadLetters, rate: float) -> None:
    with pytest.raises(InvalidInput, match=r"^rate: found"):
        dead.replays(iter(()), Wish(), rate=rate)


def test_a_full_queue_is_waited_for(connections: Connections, dead: DeadLetters) -> None:
    """The pause lies outside the transaction: meanwhile workers empty the queue and the journal writes."""
    file(connections, letter(1))
    refusals = [QueueFull("full"), QueueFull("full")]
    pauses: list[float] = []

    class FullAtFirst:
        def __getattr__(self, name: str) -> object:
            return getattr(connections.broker, name)

        def publish(self, outgoing: object) -> None:
            if refusals:
                raise refusals.pop()
            connections.broker.publish(outgoing)  # type: ignore[arg-type]

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        assert connections.jobs.file_letter(letter(10 + len(pauses))), "the database is free"

    full = Connections(FullAtFirst(), connections.store, connections.jobs)  # type: ignore[arg-type]
    patient = DeadLetters(full, by="bob@desk", pause=pause)
    assert results(patient.replay("letter-1")) == [("letter-1", "replayed")]
    assert len(pauses) == 2


def test_overrides_are_written_with_their_step() -> None:
    assert wish_of(None, {"refine.grain": 0.3, "refine": {"tone": 1}, "qa.width": 5}) == Wish(
        None, {"refine": {"grain": 0.3, "tone": 1}, "qa": {"width": 5}}
    )
    for wrong in ({"grain": 0.3}, {".grain": 1}, {"refine.": 1}):
        with pytest.raises(InvalidInput, match=f"^overrides.{next(iter(wrong))}: it names no parameter"):
            wish_of(None, wrong)


def test_the_sample_is_a_message_that_failed() -> None:
    assert message().attempts == 3
