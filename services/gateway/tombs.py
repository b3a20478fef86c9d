"""Keeps erased subjects erased: whatever of them comes back is sent away, and what it left is removed."""

import logging
from collections import Counter

from shared.broker.port import Broker, Outgoing
from shared.broker.topology import CONTROL
from shared.contracts.control import Control
from shared.jobs.port import JobStore
from shared.storage.layout import subject_prefix
from shared.storage.port import ArtifactStore
from shared.worker.dispatch import wire
from shared.worker.events import event_id

log = logging.getLogger(__name__)


def erase_order(subject: str) -> Outgoing:
    """Tells every worker to drop what it has of a subject."""
    control = Control(kind="erase", subject=subject)
    return Outgoing(CONTROL, "", wire(control), event_id("erase", subject), mandatory=False)


def remove_objects(store: ArtifactStore, subject: str) -> Counter[str]:
    """Delete every object of a subject; how many of each kind (`photo`, `identity`, …, `manifests`)."""
    removed: Counter[str] = Counter()
    prefix = subject_prefix(subject)
    for key in list(store.keys(prefix)):
        store.delete(key)
        removed[key.removeprefix(prefix).split("/")[0]] += 1
    return removed


class Tombs:
    """Asked by whoever meets something of a subject. Thread-safe."""

    def __init__(self, broker: Broker, store: ArtifactStore, jobs: JobStore) -> None:
        self._broker = broker
        self._store = store
        self._jobs = jobs

    def holds(self, subject: str | None) -> bool:
        """Whether the subject was erased."""
        return subject is not None and self._jobs.is_entombed(subject)

    def clear(self, subject: str) -> None:
        """Remove what has come back of an erased subject, and tell the workers once more."""
        self._broker.publish(erase_order(subject))
        rows = self._jobs.erase_subject(subject)
        objects = remove_objects(self._store, subject)
        if objects or any(rows.values()):
            log.warning("removed what had come back of an erased subject: %s, rows %s", dict(objects), dict(rows))
