"""Manifests on top of a store: what counts as the proof that a step is done."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.contracts.artifacts import Manifest
from shared.storage.folder import FolderStore
from shared.storage.layout import manifest_key
from shared.storage.manifests import JSON, read_manifest, write_manifest

KEY = "a" * 64
MANIFEST = Manifest(
    step_key=KEY,
    job_id="job",
    subject="dr-a",
    step="upscale",
    operation="upscale.image",
    operation_version=1,
    engine="portable",
    models={},
    params={"factor": 4},
    inputs={},
    outputs={},
    facts={},
    worker="w",
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    seconds=1.5,
    cost_usd=0.01,
)
WHOLE = MANIFEST.to_json()


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path, durable=False)


def test_a_written_manifest_is_read_back(store: FolderStore) -> None:
    write_manifest(store, MANIFEST)
    assert read_manifest(store, "dr-a", KEY) == MANIFEST


def test_a_step_without_a_manifest_is_yet_to_be_done(store: FolderStore, caplog: pytest.LogCaptureFixture) -> None:
    write_manifest(store, MANIFEST)
    assert read_manifest(store, "dr-a", "b" * 64) is None
    assert read_manifest(store, "dr-b", KEY) is None
    assert caplog.records == []


BROKEN = {
    "empty": b"",
    "cut short": WHOLE[:-1],
    "no JSON": b"\x89PNG",
    "a field is missing": WHOLE.replace(b'"worker":"w",', b""),
    "of another step": MANIFEST.model_copy(update={"step_key": "c" * 64}).to_json(),
    "of another subject": MANIFEST.model_copy(update={"subject": "dr-b"}).to_json(),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_manifest_of_the_step_counts_as_absent_is_reported_and_replaced(
    store: FolderStore, caplog: pytest.LogCaptureFixture, broken: bytes
) -> None:
    store.put(manifest_key("dr-a", KEY), broken, JSON)
    assert read_manifest(store, "dr-a", KEY) is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert manifest_key("dr-a", KEY) in record.getMessage()

    write_manifest(store, MANIFEST)
    assert read_manifest(store, "dr-a", KEY) == MANIFEST


def test_a_manifest_that_stands_is_kept(store: FolderStore) -> None:
    write_manifest(store, MANIFEST)
    write_manifest(store, MANIFEST.model_copy(update={"worker": "another", "job_id": "later"}))
    assert read_manifest(store, "dr-a", KEY) == MANIFEST
