"""What any job store must do with dead letters."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from shared.contracts.base import MESSAGE_LIMIT_BYTES, now
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.errors import InvalidInput, Transient
from shared.contracts.step import ErrorAccount, Lineage, StepMessage
from shared.jobs.port import FiledLetter, JobStore, LetterFilter
from tests.contract.jobs_fixtures import StoreSuite, at_once, ids
from tests.contract.jobs_samples import DIGEST, RESULT, TROUBLE, at, event, first_message, job

THREADS = 8
ALL = LetterFilter(state=None)


def letter(letter_id: str = "letter-1", *, error: ErrorAccount = TROUBLE, **fields: Any) -> DeadLetter:
    """A letter of the swap stage."""
    return DeadLetter(
        **{
            "letter_id": letter_id,
            "fingerprint": "cause-1",
            "queue": "doctorgen.swap.bulk",
            "died_at": at(1),
            "worker": "w1",
            "job_id": "job-1",
            "attempts": 3,
            "error": error,
            **fields,
        }
    )


def trouble(**fields: str) -> ErrorAccount:
    """An error of another kind, type or message."""
    return TROUBLE.model_copy(update=fields)


class LettersContract(StoreSuite):
    """Subclasses give `url`: an empty database."""

    def test_a_letter_comes_back_as_it_was_filed(self, store: JobStore) -> None:
        filed = letter(
            batch_id="batch-1",
            caller="clinic-a",
            subject="doctor-1",
            run=2,
            step="base",
            step_key=DIGEST,
            input_digests={"identity": (DIGEST,)},
            message=first_message(),
        )
        assert store.file_letter(filed)
        assert store.letters(ALL) == (FiledLetter(letter=filed),)

    def test_a_letter_filed_twice_stands_once_as_it_was_first(self, store: JobStore) -> None:
        store.file_letter(letter())
        assert not store.file_letter(letter(error=trouble(message="another story")))
        assert [filed.letter for filed in store.letters(ALL)] == [letter()]

    def test_a_letter_filed_again_after_it_was_settled_stays_settled(self, store: JobStore) -> None:
        store.file_letter(letter())
        settled = store.settle_letter("letter-1", "discarded", "ann", nothing)
        assert not store.file_letter(letter())
        assert store.letters(ALL) == (settled,)

    def test_a_letter_of_a_job_that_is_not_known_is_kept(self, store: JobStore) -> None:
        assert store.file_letter(letter(job_id="nobody-knows-it"))
        assert store.file_letter(letter("letter-2", job_id=None, body="not a message"))
        assert len(store.letters(ALL)) == 2

    def test_any_characters_of_any_length_survive(self, store: JobStore) -> None:
        """Also in what letters are found by, where PostgreSQL takes neither NUL nor long words."""
        words = "Ärztin \x00\u2028\"'\\" * 100
        error = trouble(kind=words, type=words, message=words[:999])
        filed = letter(error=error, worker="w\x00", queue="\x00" * 300, body="\x00語" * 5000)
        assert store.file_letter(filed)
        assert [found.letter for found in store.letters(LetterFilter(kind=words))] == [filed]
        assert store.letter_groups(LetterFilter(kind=words))[0].example_message == words[:999]

    def test_a_body_at_the_size_limit_survives(self, store: JobStore) -> None:
        filed = letter(body="語" * MESSAGE_LIMIT_BYTES)
        store.file_letter(filed)
        assert store.letters(ALL)[0].letter == filed

    def test_the_oldest_letters_come_first(self, store: JobStore) -> None:
        for minute in (3, 1, 2):
            store.file_letter(letter(f"letter-{minute}", died_at=at(minute)))
        assert letter_ids(store, ALL) == ["letter-1", "letter-2", "letter-3"]
        assert [filed.letter.letter_id for filed in store.letters(ALL, 2)] == ["letter-1", "letter-2"]

    def test_pages_follow_one_another_without_gap_or_overlap(self, store: JobStore) -> None:
        """Many letters may have died at the same instant."""
        names = [f"letter-{number}" for number in range(7)]
        for number, name in enumerate(names):
            store.file_letter(letter(name, died_at=at(number // 3)))
        seen: list[str] = []
        page = store.letters(ALL, 2)
        while page:
            seen += [filed.letter.letter_id for filed in page]
            page = store.letters(ALL, 2, after=page[-1].letter)
        assert seen == names

    @pytest.mark.parametrize("limit", [0, -1])
    def test_a_limit_below_one_is_refused(self, store: JobStore, limit: int) -> None:
        with pytest.raises(InvalidInput, match=f"limit: {limit} dead letters were asked for"):
            store.letters(ALL, limit)

    @pytest.mark.parametrize(
        "wanted",
        [
            LetterFilter(letter_id="letter-1"),
            LetterFilter(stage="swap"),
            LetterFilter(step="base"),
            LetterFilter(kind="Permanent"),
            LetterFilter(fingerprint="cause-7"),
            LetterFilter(job_id="job-7"),
            LetterFilter(batch_id="batch-7"),
            LetterFilter(caller="clinic-7"),
            LetterFilter(subject="doctor-7"),
            LetterFilter(stage="swap", caller="clinic-7", kind="Permanent"),
        ],
        ids=lambda wanted: "+".join(sorted(wanted.model_fields_set)),
    )
    def test_a_filter_finds_the_letters_that_agree_with_every_field(
        self, store: JobStore, wanted: LetterFilter
    ) -> None:
        meant = letter(
            step="base",
            error=trouble(kind="Permanent"),
            fingerprint="cause-7",
            job_id="job-7",
            batch_id="batch-7",
            caller="clinic-7",
            subject="doctor-7",
        )
        store.file_letter(meant)
        store.file_letter(letter("letter-2", queue="doctorgen.qa.bulk", job_id=None))
        assert letter_ids(store, wanted) == ["letter-1"]
        assert sum(group.count for group in store.letter_groups(wanted)) == 1

    def test_a_filter_that_disagrees_in_one_field_finds_nothing(self, store: JobStore) -> None:
        store.file_letter(letter())
        assert letter_ids(store, LetterFilter(stage="swap", fingerprint="cause-2")) == []

    def test_without_a_word_on_the_state_only_open_letters_are_meant(self, store: JobStore) -> None:
        for number in (1, 2, 3):
            store.file_letter(letter(f"letter-{number}"))
        store.settle_letter("letter-1", "discarded", "ann", nothing)
        store.settle_letter("letter-2", "replayed", "ann", nothing)
        assert letter_ids(store, LetterFilter()) == ["letter-3"]
        assert letter_ids(store, LetterFilter(state="discarded")) == ["letter-1"]
        assert letter_ids(store, LetterFilter(state="replayed")) == ["letter-2"]
        assert letter_ids(store, ALL) == ["letter-1", "letter-2", "letter-3"]

    def test_the_stage_is_that_of_the_step_or_else_of_the_queue(self, store: JobStore) -> None:
        store.file_letter(letter("letter-1", message=first_message()))
        store.file_letter(letter("letter-2", queue="doctorgen.intake"))
        store.file_letter(letter("letter-3", queue="somewhere"))
        assert [group.stage for group in store.letter_groups(ALL)] == ["intake", "qa", "somewhere"]

    def test_groups_are_of_one_cause_and_the_largest_comes_first(self, store: JobStore) -> None:
        for minute in range(3):
            away = trouble(message=f"{minute} away")
            store.file_letter(letter(f"many-{minute}", fingerprint="cause-2", died_at=at(minute), error=away))
        no_key = trouble(kind="Permanent", type="KeyError", message="no such key")
        store.file_letter(letter("few", died_at=at(9), error=no_key))
        many, few = store.letter_groups(LetterFilter())
        assert (many.count, many.oldest, many.newest) == (3, at(0), at(2))
        assert (many.stage, many.kind, many.error_type, many.fingerprint) == (
            "swap", "Transient", "ConnectionError", "cause-2",
        )  # fmt: skip
        assert many.example in {"many-0", "many-1", "many-2"}
        assert many.example_message == f"{many.example[-1]} away"
        assert (few.count, few.example, few.example_message, few.error_type) == (1, "few", "no such key", "KeyError")

    def test_where_nothing_died_there_is_no_group(self, store: JobStore) -> None:
        assert store.letter_groups(LetterFilter()) == ()

    def test_settling_acts_and_marks_the_letter(self, store: JobStore) -> None:
        store.file_letter(letter())
        acted: list[FiledLetter] = []
        before = now()
        settled = store.settle_letter("letter-1", "replayed", "ann\x00", noting(acted))
        assert acted == [FiledLetter(letter=letter())]
        assert settled is not None
        assert (settled.letter, settled.state, settled.settled_by) == (letter(), "replayed", "ann\x00")
        assert settled.settled_at is not None
        assert before <= settled.settled_at <= now()
        assert store.letters(ALL) == (settled,)

    def test_settling_twice_acts_once(self, store: JobStore) -> None:
        store.file_letter(letter())
        acted: list[FiledLetter] = []
        first = store.settle_letter("letter-1", "replayed", "ann", noting(acted))
        assert store.settle_letter("letter-1", "discarded", "bob", noting(acted)) is None
        assert len(acted) == 1
        assert store.letters(ALL) == (first,)

    def test_threads_settling_the_same_letters_act_once_on_each(self, store: JobStore) -> None:
        names = [f"letter-{number}" for number in range(20)]
        for name in names:
            store.file_letter(letter(name))
        acted: list[FiledLetter] = []

        def settle_all(_: int) -> int:
            settled = [store.settle_letter(name, "replayed", "ann", noting(acted)) for name in names]
            return len([one for one in settled if one])

        assert sum(at_once(settle_all, THREADS)) == len(names)
        assert sorted(filed.letter.letter_id for filed in acted) == sorted(names)

    def test_an_act_that_fails_leaves_the_letter_open(self, store: JobStore) -> None:
        store.file_letter(letter())

        def act(_: FiledLetter) -> StepMessage | None:
            raise Transient("the queue is full")

        with pytest.raises(Transient, match="the queue is full"):
            store.settle_letter("letter-1", "replayed", "ann", act)
        assert store.letters(LetterFilter()) == (FiledLetter(letter=letter()),)

    def test_a_letter_that_is_not_there_is_not_settled(self, store: JobStore) -> None:
        acted: list[FiledLetter] = []
        assert store.settle_letter("letter-1", "discarded", "ann", noting(acted)) is None
        assert acted == []

    def test_settling_a_letter_as_open_is_a_mistake(self, store: JobStore) -> None:
        store.file_letter(letter())
        with pytest.raises(ValueError, match="settled as `replayed` or `discarded`"):
            store.settle_letter("letter-1", "open", "ann", nothing)

    def test_a_replay_opens_its_job_again_with_the_message_that_was_published(self, store: JobStore) -> None:
        """From the message's step on, and counted as in flight until its new run ends."""
        store.add(job())
        for told in (event("finished", "encode"), event("finished", "base"), event("dead", "score", error=TROUBLE)):
            store.record(told)
        store.file_letter(letter())
        again = first_message().model_copy(update={"run": 1, "cursor": 1, "lineage": lineage(at(7))})
        store.settle_letter("letter-1", "replayed", "ann", lambda _: again)
        opened = store.get("job-1")
        assert opened is not None
        assert (opened.state, opened.run, opened.error, opened.first_message) == ("running", 1, None, again)
        assert [step.state for step in opened.steps] == ["finished", "waiting", "waiting"]
        assert (opened.released_at, opened.updated_at) == (at(7), at(7))
        assert ids(store.released()) == ["job-1"]
        assert store.record(event("dead", "score", error=TROUBLE, attempt=2)) == opened
        done = store.record(event("done", run=1, result=RESULT))
        assert done is not None
        assert done.state == "done"
        assert store.released() == ()

    def test_a_replay_of_a_job_that_never_had_a_message_counts_in_its_messages_lane(self, store: JobStore) -> None:
        store.add(job(state="refused", first_message=None, error=TROUBLE))
        store.file_letter(letter())
        again = first_message().model_copy(update={"run": 1, "priority": "bulk"})
        store.settle_letter("letter-1", "replayed", "ann", lambda _: again)
        assert (store.in_flight("bulk"), ids(store.released())) == (1, ["job-1"])

    def test_a_replay_of_a_job_that_is_not_known_settles_the_letter_alone(self, store: JobStore) -> None:
        store.file_letter(letter())
        settled = store.settle_letter("letter-1", "replayed", "ann", lambda _: first_message())
        assert settled is not None
        assert store.get("job-1") is None

    def test_a_replay_that_fails_leaves_its_job_as_it_was(self, store: JobStore) -> None:
        store.add(job())
        before = store.record(event("dead", "encode", error=TROUBLE))
        store.file_letter(letter())

        def act(_: FiledLetter) -> StepMessage | None:
            raise Transient("the queue is full")

        with pytest.raises(Transient, match="the queue is full"):
            store.settle_letter("letter-1", "replayed", "ann", act)
        assert store.get("job-1") == before

    def test_a_newer_runs_letter_leaves_the_older_as_it_is(self, store: JobStore) -> None:
        store.file_letter(letter("run-0", step="base"))
        older = store.settle_letter("run-0", "replayed", "ann", nothing)
        store.file_letter(letter("run-1", step="base", run=1, died_at=at(2)))
        assert store.letters(ALL) == (older, FiledLetter(letter=letter("run-1", step="base", run=1, died_at=at(2))))

    def test_a_letter_of_an_erased_subject_is_not_kept(self, store: JobStore) -> None:
        store.entomb("doctor-1")
        assert not store.file_letter(letter(subject="doctor-1"))
        assert store.file_letter(letter("letter-2", subject="doctor-2"))
        assert letter_ids(store, ALL) == ["letter-2"]


def lineage(when: datetime) -> Lineage:
    """Where a replay of the letter comes from."""
    return Lineage(letter_id="letter-1", by="ann", at=when)


def nothing(_: FiledLetter) -> None:
    """An act that publishes nothing."""


def noting(acted: list[FiledLetter]) -> Callable[[FiledLetter], None]:
    """An act that notes the letter and publishes nothing."""
    return acted.append


def letter_ids(store: JobStore, wanted: LetterFilter) -> list[str]:
    """The ids of the letters that a filter finds."""
    return [filed.letter.letter_id for filed in store.letters(wanted)]
