"""What will go wrong, and when: pure data, all of it following from a seed.

A fault strikes once a certain share of the jobs is done, so that it always meets a pipeline at work, however fast
the machine is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from random import Random
from typing import Literal

FIRST, LAST = 0.02, 0.92
"""The shares of the jobs between which faults strike."""

PHASES = ("received", "skipped", "started", "computed", "artifacts", "manifest", "published", "settling", "settled")
NETWORK = (
    ("broker", "black hole"),
    ("storage", "black hole"),
    ("broker", "reset"),
    ("storage", "reset"),
    ("broker", "slow"),
    ("storage", "slow"),
    ("broker", "refused"),
    ("storage", "errors"),
    ("database", "black hole"),
    ("broker", "half gone"),
    ("database", "reset"),
)
"""Which connections, and what becomes of them. `half gone`: a black hole for some, ended by a reset."""

Kind = Literal["worker", "gateway", "drain", "broker", "storage", "network", "database", "hang", "corruption", "disk"]


@dataclass(frozen=True)
class Amounts:
    """How much of everything."""

    jobs: int = 500
    worker_kills: int = 150
    broker_kills: int = 10
    storage_outages: int = 5
    network_faults: int = 20
    gateway_kills: int = 20
    drains: int = 20
    database_cuts: int = 10
    hangs: int = 4
    corruptions: int = 16
    disk_losses: int = 2


@dataclass(frozen=True)
class Fault:
    """One fault. `how` is a phase for a kill at a named point, and "random" for one at any moment."""

    kind: Kind
    after: float = field(metadata={"unit": "share of the jobs that are done before it strikes"})
    how: str = ""
    target: str = ""
    lasts_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Rows of faults, each in order; those of one row strike one after another, those of different rows side by side.

    To the processes, to what surrounds them, to the steps and what they made.
    """

    seed: int
    amounts: Amounts
    processes: tuple[Fault, ...]
    surroundings: tuple[Fault, ...]
    steps: tuple[Fault, ...]

    @property
    def rows(self) -> tuple[tuple[Fault, ...], ...]:
        """All rows."""
        return self.processes, self.surroundings, self.steps


def make_plan(seed: int, amounts: Amounts, stages: Sequence[str]) -> Plan:
    """The plan of a seed. Half of the workers' kills are at named phases, each phase in turn, the others at random."""
    rng = Random(f"chaos/{seed}")
    at_phases = islice(cycle(PHASES), amounts.worker_kills // 2)
    at_random = ["random"] * (amounts.worker_kills - amounts.worker_kills // 2)
    processes = [Fault("worker", _moment(rng), how, rng.choice(stages)) for how in (*at_phases, *at_random)]
    processes += [Fault("gateway", _moment(rng), "random") for _ in range(amounts.gateway_kills)]
    everybody = (*stages, "gateway")
    processes += [Fault("drain", _moment(rng), "SIGTERM", rng.choice(everybody)) for _ in range(amounts.drains)]

    surroundings = [Fault("broker", _moment(rng), "kill -9", "broker") for _ in range(amounts.broker_kills)]
    surroundings += [
        Fault("storage", _moment(rng), "stopped", "storage", rng.uniform(2, 8)) for _ in range(amounts.storage_outages)
    ]
    surroundings += [
        Fault("network", _moment(rng), how, target, rng.uniform(1, 5))
        for target, how in islice(cycle(NETWORK), amounts.network_faults)
    ]
    surroundings += [Fault("disk", _moment(rng), "lost", "broker") for _ in range(amounts.disk_losses)]
    surroundings += [
        Fault("database", _moment(rng), "sessions ended", "database") for _ in range(amounts.database_cuts)
    ]
    # The first stage computes little: what it makes is the same for all jobs of a subject.
    steps = [Fault("hang", _moment(rng), "for ever", rng.choice(stages[1:])) for _ in range(amounts.hangs)]
    wrongs = islice(cycle(("artifact", "manifest")), amounts.corruptions)
    steps += [Fault("corruption", _moment(rng), wrong, "storage") for wrong in wrongs]
    return Plan(seed, amounts, _in_order(processes), _in_order(surroundings), _in_order(steps))


def _moment(rng: Random) -> float:
    return round(rng.uniform(FIRST, LAST), 4)


def _in_order(faults: list[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=lambda fault: fault.after))
