"""`doctorgen batch …` as typed; tests/e2e/test_operator_session.py files a real one."""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from doctor_image_gen.batch import BatchFile, requests_of
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.contracts.request import PhotoRef
from shared.jobs.port import Job
from tests.contract.jobs_samples import RESULT, TROUBLE, job
from tests.unit.letter_samples import DAWN
from tests.unit.typed import Said, Type

BATCH = {"subjects": [{"subject": "dr-1", "photos": ["me.png"]}], "scenarios": ["speaker"]}
REF = PhotoRef(key="inbox/me.png", sha256="a" * 64)


@pytest.fixture
def put(tmp_path: Path, type_in: Type) -> Callable[..., None]:
    """Puts a batch of these jobs into the journal, closed or not."""

    def put(*jobs: Job, closed: bool) -> None:
        with closing(Connections.open(Settings(data_dir=tmp_path / "data"))) as connections:
            for one in jobs:
                connections.jobs.add(one)
            (request,) = requests_of(BatchFile.parse(BATCH), "autumn", [(REF,)], DAWN)
            connections.jobs.file_batch_part(request, len(jobs))
            assert connections.jobs.close_batch("autumn", lambda _: None) == closed

    return put


def member(job_id: str, **fields: object) -> Job:
    return job(job_id, batch_id="autumn", **fields)


def test_status_says_how_a_batch_stands(type_in: Type, put: Callable[..., None]) -> None:
    put(member("job-1", state="done", result=RESULT), member("job-2"), closed=False)
    said = type_in("batch", "status", "autumn")
    assert said == Said(0, "autumn 50% of 2: 1 accepted, 1 done, 7.5 s, 0.0100 USD\n", "")
    assert json.loads(type_in("batch", "status", "autumn", "--json").out)["by_state"] == {"accepted": 1, "done": 1}


def test_watch_of_a_batch_that_is_over_says_how_it_ended(type_in: Type, put: Callable[..., None]) -> None:
    put(member("job-1", state="done", result=RESULT), member("job-2", state="dead", error=TROUBLE), closed=True)
    said = type_in("batch", "watch", "autumn")
    assert (said.status, said.err) == (1, "")
    assert said.out.splitlines() == [
        "autumn 100% of 2: 1 dead, 1 done, 7.5 s, 0.0100 USD, ended",
        "  job-2 dead: the store is away",
    ]


def test_a_batch_in_which_all_is_done_ends_with_status_0(type_in: Type, put: Callable[..., None]) -> None:
    put(member("job-1", state="done", result=RESULT), closed=True)
    assert type_in("batch", "watch", "autumn").status == 0


def test_what_cannot_be_done_is_one_sentence(type_in: Type, put: Callable[..., None]) -> None:
    put(member("job-1"), closed=False)
    Path("batch.json").write_text(json.dumps(BATCH))
    for words, message in (
        (("status", "nope"), "batch_id: there is no batch 'nope'."),
        (("watch", "nope"), "batch_id: there is no batch 'nope'."),
        (("watch", "autumn"), "batch_id: batch 'autumn' is in the process that was asked for it, out of reach"),
        (("submit", "batch.json"), "broker_url: the embedded pipeline ends with its process, so nobody would work"),
    ):
        said = type_in("batch", *words)
        assert said.status == 2
        assert said.err.startswith(f"doctorgen: {message}")
