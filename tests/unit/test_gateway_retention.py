"""Retention: each kind of artifact goes when its time has come, and with it the manifests that vouch for it."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from services.gateway.retention import Keeper, expire, oldest_kept
from services.gateway.settings import Retention
from shared.contracts.artifacts import ArtifactRef, Manifest
from shared.contracts.base import now
from shared.jobs.port import JobStore
from shared.storage.artifacts import store_artifact
from shared.storage.manifests import read_manifest, write_manifest
from tests.contract.jobs_samples import DAWN, event, job
from tests.fakes import MemoryStore
from tests.unit.job_files import open_jobs

KINDS = ("photo", "identity", "intermediate", "result", "verdict")
KEY = "ab" * 32


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobStore]:
    with closing(open_jobs(tmp_path / "jobs.sqlite")) as store:
        yield store


class Aged(MemoryStore):
    """A store whose blobs are as old as a test says."""

    def put_aged(self, key: str, days: float) -> str:
        self.put(key, b"x", "image/png")
        self.age(key, days)
        return key

    def age(self, key: str, days: float) -> None:
        self.written_at[key] = now() - timedelta(days=days)


@pytest.fixture
def store() -> Aged:
    return Aged()


def manifest(ref: ArtifactRef) -> Manifest:
    return Manifest(
        step_key=KEY,
        job_id="job-1",
        subject="dr-1",
        step="encode",
        operation="identity.encode",
        operation_version=1,
        engine="portable",
        models={},
        params={},
        inputs={},
        outputs={"identity": (ref,)},
        facts={},
        worker="w1",
        started_at=DAWN,
        seconds=1.0,
        cost_usd=0.0,
    )


def test_what_has_no_limit_is_kept_for_ever(store: Aged, jobs: JobStore) -> None:
    for kind in KINDS:
        store.put_aged(f"subjects/dr-1/{kind}/a.png", 9999)
    assert oldest_kept(Retention(), now()) == {}
    assert expire(store, jobs, Retention(), now()) == {}
    assert len(store.blobs) == len(KINDS)


def test_each_kind_has_its_own_time(store: Aged, jobs: JobStore) -> None:
    """Verdicts go with their results, photos in the inbox with the photos."""
    for subject in ("dr-1", "dr-2"):
        for kind in KINDS:
            for days in (5, 15, 25, 35):
                store.put_aged(f"subjects/{subject}/{kind}/{days}.png", days)
    store.put_aged("inbox/5.png", 5)
    store.put_aged("inbox/15.png", 15)
    retention = Retention(photo_days=10, identity_days=20, result_days=30)
    gone = expire(store, jobs, retention, now())
    assert gone == {"photo": 6, "identity": 4, "result": 2, "verdict": 2, "inbox": 1}
    left = {key.split("/", 2)[2] for key in store.blobs if key.startswith("subjects/dr-1/")}
    assert left == {
        *(f"intermediate/{days}.png" for days in (5, 15, 25, 35)),
        *(f"{kind}/{days}.png" for kind in ("result", "verdict") for days in (5, 15, 25)),
        *("photo/5.png", "identity/5.png", "identity/15.png"),
    }
    assert "inbox/5.png" in store.blobs
    assert expire(store, jobs, retention, now()) == {}


def test_an_artifact_s_manifest_goes_with_it_so_that_its_step_is_done_again(store: Aged, jobs: JobStore) -> None:
    ref = store_artifact(store, "dr-1", "identity", b"embedding", "application/json")
    write_manifest(store, manifest(ref))
    store.age(ref.key, 15)
    young = Retention(identity_days=20)
    assert expire(store, jobs, young, now()) == {}
    assert read_manifest(store, "dr-1", KEY) is not None
    assert expire(store, jobs, Retention(identity_days=10), now()) == {"identity": 1, "manifests": 1}
    assert read_manifest(store, "dr-1", KEY) is None


def test_manifests_of_what_is_kept_stay_and_so_do_those_that_cannot_be_read(store: Aged, jobs: JobStore) -> None:
    ref = store_artifact(store, "dr-1", "identity", b"embedding", "application/json")
    write_manifest(store, manifest(ref))
    store.put("subjects/dr-1/manifests/broken.json", b"{", "application/json")
    store.put_aged("subjects/dr-1/photo/a.png", 99)
    assert expire(store, jobs, Retention(photo_days=10), now()) == {"photo": 1}
    assert {key.split("/")[2] for key in store.blobs} == {"identity", "manifests"}
    assert len(store.blobs) == 3


def test_previews_go_with_the_intermediates_though_no_manifest_names_them(store: Aged, jobs: JobStore) -> None:
    """A preview is found by its place and its age; the manifest of the step that showed it stays."""
    kept = store_artifact(store, "dr-1", "result", b"picture", "image/png")
    write_manifest(store, manifest(kept))
    preview = store_artifact(store, "dr-1", "intermediate", b"small picture", "image/jpeg")
    store.age(preview.key, 8)
    assert expire(store, jobs, Retention(intermediate_days=7), now()) == {"intermediate": 1}
    assert preview.key not in store.blobs
    assert read_manifest(store, "dr-1", KEY) is not None


def test_a_subject_with_a_job_under_way_is_left_for_another_time(store: Aged, jobs: JobStore) -> None:
    """The job may be about to read what has become old."""
    store.put_aged("subjects/doctor-1/photo/a.png", 99)
    jobs.add(job("job-1"))
    assert expire(store, jobs, Retention(photo_days=10), now()) == {}
    jobs.record(event("done"))
    assert expire(store, jobs, Retention(photo_days=10), now()) == {"photo": 1}


def test_rows_of_jobs_that_ended_long_ago_go_with_their_events(store: Aged, jobs: JobStore) -> None:
    jobs.add(job("job-1"))
    jobs.record(event("done"))
    jobs.add(job("job-2"))
    at = DAWN + timedelta(days=11)
    assert expire(store, jobs, Retention(job_days=30), at) == {}
    assert expire(store, jobs, Retention(job_days=10), at) == {"jobs": 1, "events": 1}
    assert [left.job_id for left in jobs.recent()] == ["job-2"]


def test_the_keeper_expires_at_once_and_ends_when_it_is_told_to(store: Aged, jobs: JobStore) -> None:
    store.put_aged("subjects/dr-1/photo/a.png", 99)

    keeper = Keeper(store, jobs, Retention(photo_days=10))
    deleted = store.delete

    def delete(key: str) -> None:
        deleted(key)
        keeper.stop()

    store.delete = delete  # type: ignore[method-assign] # tells when the work is done
    keeper.run()
    assert store.blobs == {}
