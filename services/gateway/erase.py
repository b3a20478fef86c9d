"""Erases a subject: afterwards no artifact, manifest, row, queued or dead message of that person is left."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from services.gateway.answers import cancelled
from services.gateway.batches import BatchTeller
from services.gateway.consumer import publish_all
from services.gateway.evidence import BEATS_NEEDED, Sightings
from services.gateway.mentions import Mentions
from services.gateway.tombs import erase_order, remove_objects
from shared.broker.port import Broker
from shared.contracts.base import Instant
from shared.contracts.event import TERMINAL
from shared.jobs.port import Job, JobStore, LetterFilter
from shared.storage.port import ArtifactStore
from shared.worker.events import outgoing_event

PASSES = 5
LOOK_AGAIN_S = 0.5


@dataclass(frozen=True)
class ErasureReport:
    """What was removed: objects by kind (`inbox`, `photo`, …, `manifests`), rows by kind, messages, saved pictures.

    `still_running` names jobs that a worker had in hand to the last. It was told to drop them; what it leaves all the
    same is removed by the gateway as soon as the worker tells of it.
    """

    subject: str
    objects: Mapping[str, int]
    rows: Mapping[str, int]
    messages: int
    pictures: int
    still_running: tuple[str, ...] = ()


def erase_subject(
    subject: str,
    broker: Broker,
    store: ArtifactStore,
    jobs: JobStore,
    *,
    queues: Sequence[str],
    results: Path | None = None,
    patience_s: float = 60.0,
    silent_after_s: float = 30.0,
    pause: Callable[[float], None] = sleep,
    clock: Callable[[], float] = monotonic,
) -> ErasureReport:
    """Erase everything of a person; what was removed. Done again it finds nothing, and harms nothing.

    In this order: a tombstone, so that nothing of the person is taken in or kept from now on; the jobs under way are
    ended and every worker told to drop them; the queues are swept; then, once no worker has anything of the person in
    hand any more, objects and rows are removed, again and again until a look finds nothing.

    Args:
        subject: the person's id.
        broker: where the messages are.
        store: where the artifacts are.
        jobs: the job store.
        queues: the names of all queues that were declared.
        results: where the SDK puts pictures for which no place was named; those of the subject's jobs go, too.
        patience_s: how long to wait for workers that have a job of the subject in hand.
        silent_after_s: a worker that has not beaten for so long is gone.
        pause: waits so many seconds.
        clock: seconds, of a clock that does not go back.

    Raises:
        Transient: broker, store or job store are away. The tombstone stands; erase once more.
    """
    jobs.entomb(subject)
    its_jobs = jobs.of_subject(subject)
    running = {job.job_id for job in its_jobs if job.state not in TERMINAL}
    _end(its_jobs, broker, jobs)
    broker.publish(erase_order(subject))
    mentions = Mentions(subject, {key for job in its_jobs if job.request for key in job.request.own_keys})
    _look_through_letters(jobs, mentions)
    messages = _sweep(broker, mentions, queues)
    until = clock() + patience_s
    look = _Look(jobs, running, Sightings(silent_after_s, clock))
    while not look.is_over() and clock() < until:
        pause(LOOK_AGAIN_S)

    objects, rows = Counter[str](), Counter[str]()
    pictures = _remove_pictures(results, [job.job_id for job in its_jobs])
    for _ in range(PASSES):
        found = remove_objects(store, subject) + _remove_originals(store, mentions.originals)
        gone = Counter({kind: count for kind, count in jobs.erase_subject(subject).items() if count})
        swept = _sweep(broker, mentions, queues)
        objects, rows, messages = objects + found, rows + gone, messages + swept
        if not found and not gone and not swept:
            break
    for batch_id in {job.batch_id for job in its_jobs if job.batch_id}:
        BatchTeller(broker, jobs).moved(batch_id)
    return ErasureReport(subject, dict(objects), dict(rows), messages, pictures, tuple(sorted(look.in_hand)))


def _end(its_jobs: Iterable[Job], broker: Broker, jobs: JobStore) -> None:
    """Whoever follows a job hears its end."""
    for job in its_jobs:
        if job.state not in TERMINAL:
            event = cancelled(job, "erasure")
            jobs.record(event)
            publish_all(broker, (outgoing_event(event),))


def _sweep(broker: Broker, mentions: Mentions, queues: Sequence[str]) -> int:
    return sum(broker.sweep(queue, mentions.doom) for queue in queues)


def _look_through_letters(jobs: JobStore, mentions: Mentions) -> None:
    """A request that was given up is no job, and no message either once its letter is filed."""
    wanted = LetterFilter(subject=mentions.subject, state=None)
    page = jobs.letters(wanted)
    while page:
        for filed in page:
            mentions.doom(filed.letter.body or "")
        page = jobs.letters(wanted, after=page[-1].letter)


class _Look:
    """Looks which of some jobs live workers have in hand, until each worker has beaten twice more without one."""

    def __init__(self, jobs: JobStore, ids: Collection[str], sightings: Sightings) -> None:
        self._jobs = jobs
        self._ids = ids
        self._sightings = sightings
        self._newest: dict[str, Instant] = {}
        self._beats: dict[str, int] = {}
        self.in_hand: set[str] = set()

    def is_over(self) -> bool:
        """Look once; whether no more looks are needed."""
        if not self._ids:
            return True
        alive = self._sightings.alive(self._jobs.workers())
        for beat in alive:
            changed = self._newest.get(beat.worker, beat.at) != beat.at
            self._beats[beat.worker] = self._beats.get(beat.worker, 0) + changed
            self._newest[beat.worker] = beat.at
        self.in_hand = {held.job_id for beat in alive for held in beat.in_hand if held.job_id in self._ids}
        return not self.in_hand and all(self._beats[beat.worker] >= BEATS_NEEDED for beat in alive)


def _remove_originals(store: ArtifactStore, keys: Iterable[str]) -> Counter[str]:
    standing = [key for key in sorted(keys) if key in store.keys(key)]
    for key in standing:
        store.delete(key)
    return Counter({"inbox": len(standing)} if standing else {})


def _remove_pictures(folder: Path | None, ids: Iterable[str]) -> int:
    pictures = [path for job_id in ids for path in folder.glob(f"*-{job_id}.png")] if folder else []
    for picture in pictures:
        picture.unlink(missing_ok=True)
    return len(pictures)
