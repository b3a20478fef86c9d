"""`doctorgen subject …` and `doctorgen retention …` as typed; tests/e2e/test_erase.py proves the erasure itself."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from doctor_image_gen.lock import PipelineLock
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.jobs.port import Job
from shared.storage.artifacts import store_artifact
from tests.contract.jobs_samples import job
from tests.unit.letter_samples import letter
from tests.unit.typed import Said, Type

SUBJECT = "doctor-1"
NOTHING = "  objects: none\n  jobs: none\n  letters: none\n"


@pytest.fixture
def put(tmp_path: Path, type_in: Type) -> Callable[..., None]:
    """Puts a photo, jobs and a letter of the subject where the commands look."""

    def put(*jobs: Job) -> None:
        with closing(Connections.open(Settings(data_dir=tmp_path / "data"))) as connections:
            store_artifact(connections.store, SUBJECT, "photo", b"a face", "image/png")
            connections.jobs.file_letter(letter(1, subject=SUBJECT))
            for one in jobs:
                connections.jobs.add(one)

    return put


def test_show_counts_what_there_is(type_in: Type, put: Callable[..., None]) -> None:
    assert type_in("subject", "show", SUBJECT) == Said(0, f"subject {SUBJECT}\n{NOTHING}", "")
    put(job("job-1", state="dead"), job("job-2", state="done"))
    said = type_in("subject", "show", SUBJECT)
    assert said.out == f"subject {SUBJECT}\n  objects: 1 photo\n  jobs: 1 dead, 1 done\n  letters: 1 open\n"
    assert json.loads(type_in("subject", "show", SUBJECT, "--json").out) == {
        "subject": SUBJECT,
        "erased": False,
        "objects": {"photo": 1},
        "jobs": {"dead": 1, "done": 1},
        "letters": {"open": 1},
    }


def test_erase_says_what_it_removed_and_keeps_the_person_out_until_allowed(
    type_in: Type, put: Callable[..., None]
) -> None:
    put(job("job-1", state="dead"))
    said = type_in("subject", "erase", SUBJECT, "--yes")
    report = "  objects: 1 photo\n  rows: 1 jobs, 1 letters\n  messages: 0\n  saved pictures: 0\n"
    assert said == Said(0, f"erased subject {SUBJECT}\n{report}", "")
    erased = type_in("subject", "show", SUBJECT).out
    assert erased == f"subject {SUBJECT}, erased: nothing of it is taken in\n{NOTHING}"
    assert type_in("subject", "allow", SUBJECT) == Said(0, f"'{SUBJECT}' may be taken in again\n", "")
    assert type_in("subject", "show", SUBJECT).out == f"subject {SUBJECT}\n{NOTHING}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["subject", "erase", SUBJECT],
            f"--yes: Erase everything of '{SUBJECT}', for good? Nobody is there to answer.",
        ),
        (["subject", "erase", "../x", "--yes"], "subject: '../x' is no subject's id. It has letters, digits,"),
        (["subject", "show", ""], "subject: '' is no subject's id."),
        (["subject", "allow", SUBJECT], f"subject: '{SUBJECT}' was not erased. There is nothing to allow."),
        (["retention", "run"], "retention: nothing has a time. Set for instance DOCTORGEN_RETENTION__PHOTO_DAYS=30."),
    ],
)
def test_what_cannot_be_done_removes_nothing(
    type_in: Type, put: Callable[..., None], words: list[str], message: str
) -> None:
    put(job("job-1", state="dead"))
    said = type_in(*words)
    assert said.status == 2
    assert said.err.startswith(f"doctorgen: {message}")
    assert "objects: 1 photo\n  jobs: 1 dead\n  letters: 1 open" in type_in("subject", "show", SUBJECT).out


def test_a_pipeline_that_runs_elsewhere_is_not_erased_under(
    type_in: Type, put: Callable[..., None], tmp_path: Path
) -> None:
    put()
    with closing(PipelineLock.take(tmp_path / "data")):
        said = type_in("subject", "erase", SUBJECT, "--yes")
    assert said.status == 2
    assert said.err.startswith("doctorgen: data_dir: this process runs the pipeline on ")
    assert "1 photo" in type_in("subject", "show", SUBJECT).out


def test_retention_deletes_what_is_past_its_time(
    type_in: Type, put: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put()
    monkeypatch.setenv("DOCTORGEN_RETENTION__PHOTO_DAYS", "30")
    assert type_in("retention", "run") == Said(0, "deleted: none\n", "")
    monkeypatch.setenv("DOCTORGEN_RETENTION__PHOTO_DAYS", "1e-9")
    assert json.loads(type_in("retention", "run", "--json").out) == {"photo": 1}
    assert type_in("retention", "run").out == "deleted: none\n"
