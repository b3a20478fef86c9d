"""Deletes what has been kept long enough, by kind of artifact."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from itertools import groupby

from services.gateway.settings import Retention
from shared.contracts.artifacts import Manifest
from shared.contracts.base import now
from shared.contracts.errors import DoctorGenError, InvalidInput
from shared.contracts.event import TERMINAL
from shared.jobs.port import JobStore
from shared.storage.layout import subject_prefix
from shared.storage.port import ArtifactStore

log = logging.getLogger(__name__)

PERIOD_S = 3600.0
SUBJECTS = "subjects/"
INBOX = "inbox/"
MANIFESTS = "manifests/"


def oldest_kept(retention: Retention, at: datetime) -> dict[str, datetime]:
    """For each kind that is not kept for ever, the instant before which it goes."""
    days = {
        "photo": retention.photo_days,
        "identity": retention.identity_days,
        "intermediate": retention.intermediate_days,
        "result": retention.result_days,
        "verdict": retention.result_days,
    }
    return {kind: at - timedelta(days=count) for kind, count in days.items() if count is not None}


def expire(store: ArtifactStore, jobs: JobStore, retention: Retention, at: datetime) -> Mapping[str, int]:
    """Delete what is older than the settings allow; how many of each kind.

    An artifact's age is that of its blob in the store: one that a later job found standing is not younger for it. A
    subject with a job under way is left for another time. The manifests that vouch for an artifact go before it, so
    that its step is done again when it is wanted again. Photos in the inbox go with the photos.

    Raises:
        Transient: store or job store are away; what was deleted is deleted, call again.
    """
    kept_since = oldest_kept(retention, at)
    gone = Counter[str]()
    for subject, old in _old_by_subject(store, kept_since):
        if any(job.state not in TERMINAL for job in jobs.of_subject(subject)):
            continue
        gone["manifests"] += _forget_steps(store, subject, frozenset(old))
        for key in old:
            store.delete(key)
            gone[_kind_of(key)] += 1
    if "photo" in kept_since:
        for key in [key for key, since in store.committed(INBOX) if since < kept_since["photo"]]:
            store.delete(key)
            gone["inbox"] += 1
    if retention.job_days is not None:
        gone.update(jobs.erase_older(at - timedelta(days=retention.job_days)))
    return {kind: count for kind, count in gone.items() if count}


class Keeper:
    """Expires once an hour in the thread that calls `run`, until `stop`."""

    def __init__(self, store: ArtifactStore, jobs: JobStore, retention: Retention) -> None:
        self._store = store
        self._jobs = jobs
        self._retention = retention
        self._stopping = threading.Event()

    def run(self) -> None:
        """Expire until `stop`."""
        while not self._stopping.is_set():
            try:
                gone = expire(self._store, self._jobs, self._retention, now())
            except DoctorGenError as error:
                log.warning("what is past its time cannot be deleted now: %s", error)
            else:
                log.info("deleted what was past its time: %s", dict(gone) or "nothing")
            self._stopping.wait(PERIOD_S)

    def stop(self) -> None:
        """Expire no more."""
        self._stopping.set()


def _old_by_subject(store: ArtifactStore, kept_since: Mapping[str, datetime]) -> Iterator[tuple[str, list[str]]]:
    """Keys that are past their time, subject by subject: keys come in order, so one subject is in memory at a time."""
    if not kept_since:
        return
    old = (key for key, since in store.committed(SUBJECTS) if since < kept_since.get(_kind_of(key), since))
    for subject, keys in groupby(old, key=lambda key: key.split("/")[1]):
        yield subject, list(keys)


def _forget_steps(store: ArtifactStore, subject: str, gone: frozenset[str]) -> int:
    doomed = [key for key in store.keys(subject_prefix(subject) + MANIFESTS) if _made(store.get(key)) & gone]
    for key in doomed:
        store.delete(key)
    return len(doomed)


def _made(manifest: bytes | None) -> frozenset[str]:
    """The keys of the artifacts that a manifest vouches for; none where it cannot be read."""
    try:
        outputs = Manifest.from_json(manifest or b"").outputs.values()
    except InvalidInput:
        return frozenset()
    return frozenset(ref.key for refs in outputs for ref in refs)


def _kind_of(key: str) -> str:
    return key.split("/")[2]
