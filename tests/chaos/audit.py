"""Judges a run: what was lost, doubled or changed, what was done more than once, and how long recovery took."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from shared.contracts.event import TERMINAL, Event
from shared.jobs.port import Job, JobStore
from shared.storage.artifacts import fetch
from shared.storage.port import ArtifactStore
from tests.chaos.faults import Struck
from tests.chaos.ledger import Entry
from tests.chaos.orders import Order, Reference


@dataclass(frozen=True)
class Ends:
    """How the jobs ended. Everything but `jobs` holds the ids of jobs for which a promise was broken."""

    jobs: int
    lost: tuple[str, ...]
    ended_otherwise: tuple[str, ...]
    finished_twice: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Repetition:
    """Computations. `steps` counts the different ones, `runs` those begun, `cut_short` those that a death ended.

    `seconds` is what all but the longest of each step took.
    """

    steps: int
    runs: int
    cut_short: int
    steps_run_again: int
    seconds: float


@dataclass(frozen=True)
class Recovery:
    """How long after faults of a kind the next job ended, in seconds."""

    count: int
    median_s: float
    longest_s: float


def audit_ends(orders: Mapping[str, Order], jobs: JobStore, store: ArtifactStore, reference: Reference) -> Ends:
    """Hold every job that was ordered to the promises."""
    standing = {job_id: jobs.get(job_id) for job_id in orders}
    events = {job_id: jobs.events(job_id) for job_id in orders}
    done = {job_id: job for job_id, job in standing.items() if job is not None and job.state == "done"}
    return Ends(
        jobs=len(orders),
        lost=tuple(name for name, job in standing.items() if job is None or job.state not in TERMINAL),
        ended_otherwise=tuple(
            f"{name} is {job.state}: {job.error.message if job.error else ''}"
            for name, job in standing.items()
            if job is not None and job.state in TERMINAL and job.state != "done"
        ),
        finished_twice=tuple(f"{name}: {twice}" for name, told in events.items() if (twice := ended_twice(told))),
        changed=tuple(name for name, job in done.items() if _image(job, store) != reference.image(orders[name])),
    )


def ended_twice(events: Sequence[Event]) -> str:
    """The different ends of one run that the journal kept, in words; empty where each run has one at most."""
    ends: dict[int, dict[str, str]] = defaultdict(dict)
    for event in events:
        if event.kind in TERMINAL:
            ends[event.run][event.event_id] = f"{event.kind} (attempt {event.attempt}, {event.worker})"
    return "; ".join(" and ".join(told.values()) for told in ends.values() if len(told) > 1)


def _image(job: Job, store: ArtifactStore) -> bytes:
    assert job.result is not None
    return fetch(store, job.result.image)


def audit_repetition(entries: Sequence[Entry]) -> Repetition:
    """Count computations, and what those beyond the first cost.

    A computation lasts until its process says that it is over, or dies, or begins another.
    """
    by_process: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.act in {"started", "computed", "died", "ended"}:
            by_process[entry.pid].append(entry)
    runs: dict[str, list[float]] = defaultdict(list)
    cut_short = 0
    for acts in by_process.values():
        for entry, following in pairwise(acts):
            if entry.act == "started":
                runs[entry.what].append(following.at - entry.at)
                cut_short += following.act == "died"
    return Repetition(
        steps=len(runs),
        runs=sum(map(len, runs.values())),
        cut_short=cut_short,
        steps_run_again=sum(len(durations) > 1 for durations in runs.values()),
        seconds=sum(sum(durations) - max(durations) for durations in runs.values()),
    )


def audit_recovery(struck: Sequence[Struck], finished: Mapping[str, float]) -> dict[str, Recovery]:
    """By kind of fault: from its end to the next end of a job. Faults that no end follows are left out."""
    times = sorted(finished.values())
    waits: dict[str, list[float]] = defaultdict(list)
    for each in struck:
        following = next((at for at in times if at >= each.ended_at), None)
        if following is not None:
            waits[title_of(each)].append(following - each.ended_at)
    return {title: Recovery(len(found), median(found), max(found)) for title, found in sorted(waits.items())}


def title_of(struck: Struck) -> str:
    """The kind of a fault in words."""
    how = "at random" if struck.how == "random" else f"when {struck.how}"
    return {
        "worker": f"worker killed {how}",
        "gateway": "gateway killed",
        "drain": "worker told to end (SIGTERM)",
        "network": f"network to the {struck.fault.target}: {struck.how}",
        "broker": "broker killed and restarted",
        "storage": "storage stopped",
        "database": "database sessions ended",
        "disk": "broker's disk lost",
        "hang": "step hung until its deadline",
        "corruption": f"{struck.how} cut short",
    }[struck.fault.kind]
