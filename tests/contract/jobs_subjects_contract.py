"""What any job store must do to erase a subject, and rows past their time."""

from shared.jobs.port import JobStore, LetterFilter
from shared.jobs.subjects import CHUNK
from tests.contract.jobs_batches_contract import part
from tests.contract.jobs_fixtures import StoreSuite, ids
from tests.contract.jobs_letters_contract import letter, letter_ids
from tests.contract.jobs_samples import RESULT, TROUBLE, at, event, job

ALL = LetterFilter(state=None)


class SubjectsContract(StoreSuite):
    """Subclasses give `url`: an empty database."""

    def test_a_subject_is_entombed_until_it_is_exhumed(self, store: JobStore) -> None:
        assert not store.is_entombed("doctor-1")
        for _ in range(2):
            store.entomb("doctor-1")
        assert store.is_entombed("doctor-1")
        assert not store.is_entombed("doctor-2")
        for _ in range(2):
            store.exhume("doctor-1")
        assert not store.is_entombed("doctor-1")

    def test_the_jobs_of_a_subject_come_oldest_first_whatever_became_of_them(self, store: JobStore) -> None:
        for minute in (3, 1, 2):
            store.add(job(f"job-{minute}", created_at=at(minute)))
        store.add(job("job-4", subject="doctor-2"))
        store.add(job("job-5", subject=None))
        store.record(event("done", job_id="job-2", result=RESULT))
        assert ids(store.of_subject("doctor-1")) == ["job-1", "job-2", "job-3"]
        assert store.of_subject("nobody") == ()

    def test_everything_of_a_subject_is_removed_and_counted(self, store: JobStore) -> None:
        for job_id, subject in (("job-1", "doctor-1"), ("job-2", "doctor-1"), ("job-3", "doctor-2")):
            store.add(job(job_id, subject=subject))
            store.record(event("started", "encode", job_id=job_id))
            store.record(event("dead", "encode", job_id=job_id, error=TROUBLE))
            store.file_letter(letter(f"letter-{job_id}", job_id=job_id, subject=subject))
        assert store.erase_subject("doctor-1") == {"jobs": 2, "events": 4, "letters": 2}
        assert (store.get("job-1"), store.events("job-1"), store.of_subject("doctor-1")) == (None, (), ())
        assert letter_ids(store, ALL) == ["letter-job-3"]
        assert len(store.events("job-3")) == 2

    def test_letters_go_that_name_the_subject_or_its_job_or_hold_its_name_in_a_body(self, store: JobStore) -> None:
        store.add(job("job-1"))
        unreadable = '{"schema_version": 9, "subject": "%s", "photos": []}'
        store.file_letter(letter("its-own", job_id=None, subject="doctor-1"))
        store.file_letter(letter("its-jobs", job_id="job-1"))
        store.file_letter(letter("in-a-body", job_id=None, body=unreadable % "doctor-1"))
        for other in ("doctor-12", "Doctor-1", "a-doctor-1"):
            store.file_letter(letter(f"of-{other}", job_id=None, body=unreadable % other))
        assert store.erase_subject("doctor-1")["letters"] == 3
        assert sorted(letter_ids(store, ALL)) == ["of-Doctor-1", "of-a-doctor-1", "of-doctor-12"]

    def test_a_waiting_job_of_an_erased_subject_is_never_released(self, store: JobStore) -> None:
        store.add(job("job-1"))
        store.add(job("job-2", subject="doctor-2"))
        store.erase_subject("doctor-1")
        published: list[str] = []
        while store.release("interactive", 10, lambda released: published.append(released.job_id)):
            pass
        assert (published, store.waiting()) == (["job-2"], 0)

    def test_an_event_that_comes_after_the_erasure_brings_nothing_back(self, store: JobStore) -> None:
        store.add(job())
        store.erase_subject("doctor-1")
        assert store.record(event("started", "encode")) is None
        assert store.events("job-1") == ()

    def test_erasing_twice_or_nobody_removes_nothing(self, store: JobStore) -> None:
        store.add(job())
        store.erase_subject("doctor-1")
        nothing = {"jobs": 0, "events": 0, "letters": 0}
        assert store.erase_subject("doctor-1") == store.erase_subject("nobody") == nothing

    def test_an_erased_job_may_be_added_anew(self, store: JobStore) -> None:
        store.add(job())
        store.erase_subject("doctor-1")
        assert store.add(job()) == job() == store.get("job-1")

    def test_jobs_that_ended_before_are_removed_with_events_and_letters(self, store: JobStore) -> None:
        for minute in (1, 2, 3):
            store.add(job(f"job-{minute}"))
            store.record(event("dead", "encode", job_id=f"job-{minute}", at=at(minute), error=TROUBLE))
            store.file_letter(letter(f"letter-{minute}", job_id=f"job-{minute}", died_at=at(minute)))
        assert store.erase_older(at(3)) == {"jobs": 2, "events": 2, "letters": 2}
        assert ids(store.recent()) == ["job-3"]
        assert letter_ids(store, ALL) == ["letter-3"]

    def test_a_job_that_has_not_ended_stays_however_old(self, store: JobStore) -> None:
        store.add(job("waits"))
        store.add(job("runs"))
        store.record(event("started", "encode", job_id="runs"))
        store.file_letter(letter("of-a-job-opened-again", job_id="runs"))
        assert store.erase_older(at(1000)) == {"jobs": 0, "events": 0, "letters": 0}
        assert len(store.unfinished()) == 2

    def test_more_jobs_than_one_transaction_takes_are_removed(self, store: JobStore) -> None:
        for number in range(CHUNK + 2):
            store.add(job(f"job-{number}", state="cancelled", updated_at=at(number)))
        assert store.erase_older(at(CHUNK + 1))["jobs"] == CHUNK + 1
        assert ids(store.recent()) == [f"job-{CHUNK + 1}"]

    def test_old_letters_of_no_job_are_removed(self, store: JobStore) -> None:
        store.file_letter(letter("old", job_id=None, died_at=at(1)))
        store.file_letter(letter("unknown", job_id="nobody-knows-it", died_at=at(1)))
        store.file_letter(letter("young", job_id=None, died_at=at(5)))
        assert store.erase_older(at(5))["letters"] == 2
        assert letter_ids(store, ALL) == ["young"]

    def test_batches_without_jobs_are_forgotten_and_others_are_not(self, store: JobStore) -> None:
        store.file_batch_part(part(batch_id="empty"), 1)
        store.file_batch_part(part(batch_id="batch-1"), 1)
        store.add(job(batch_id="batch-1"))
        store.erase_older(at(60 * 24 * 365 * 50))
        assert store.batch("empty") is None
        assert store.batch("batch-1") is not None

    def test_a_caller_that_still_waits_keeps_its_turn(self, store: JobStore) -> None:
        store.add(job("job-1", caller="clinic-a"))
        store.erase_older(at(1000))
        assert store.release("interactive", 1, lambda _: None) is not None
