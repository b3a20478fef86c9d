"""Does what a plan says: strikes each fault when its moment has come, and notes when it was over."""

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random

from doctor_image_gen.stack import Connections
from shared.contracts.artifacts import Manifest
from shared.contracts.errors import DoctorGenError
from shared.storage.layout import manifest_key
from shared.storage.manifests import read_manifest
from tests.chaos.house import SIDES, House
from tests.chaos.inside import HANG
from tests.chaos.ledger import Entry, Ledger
from tests.chaos.plan import Fault, Plan
from tests.chaos.supervisor import Slot
from tests.chaos.watch import Watch

DOOM_PATIENCE_S = 6.0
HANG_PATIENCE_S = 90.0
LOOK_AGAIN_S = 0.2
LAST_PICTURE, VERDICT = "upscale", "qa"
DELAY_S = 0.2
SAFE_TO_KILL_AFTER_S = 3.0
"""As long the broker must have stood since it last heard of new queues; see tests.servers.rabbitmq."""


@dataclass(frozen=True)
class Struck:
    """A fault that has struck. Times are of the monotonic clock."""

    fault: Fault
    how: str
    began_at: float
    ended_at: float


class Striker:
    """Strikes the plan's rows of faults, each in a thread of its own, until `stop` or all is done."""

    def __init__(
        self, plan: Plan, house: House, connections: Connections, slots: Mapping[str, Sequence[Slot]], watch: Watch
    ) -> None:
        self._house = house
        self._connections = connections
        self._slots = slots
        self._watch = watch
        self._ledger = Ledger(house.ledger, "striker")
        self._jobs = plan.amounts.jobs
        self._rng = Random(f"strike/{plan.seed}")
        self._stopping = threading.Event()
        self._broken: list[BaseException] = []
        self._lock = threading.Lock()
        self._struck: list[Struck] = []
        self._threads = [threading.Thread(target=self._work_off, args=(row,), daemon=True) for row in plan.rows]

    @property
    def struck(self) -> tuple[Struck, ...]:
        """What has struck so far, in the order of the ends."""
        with self._lock:
            return tuple(self._struck)

    @property
    def disk_lost_at(self) -> float:
        """When the broker had last lost its disk and stood again; minus infinity where it never did."""
        return max((each.ended_at for each in self.struck if each.fault.kind == "disk"), default=-math.inf)

    @property
    def is_through(self) -> bool:
        """Whether every fault has struck."""
        return not any(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Strike nothing more; raises what went wrong in striking itself."""
        self._stopping.set()
        self._watch.wake()
        for thread in self._threads:
            thread.join()
        if self._broken:
            raise self._broken[0]

    def _work_off(self, row: Sequence[Fault]) -> None:
        try:
            for fault in row:
                self._watch.wait_until(partial(self._is_due, fault))
                if self._stopping.is_set():
                    return
                began = time.monotonic()
                how, ended = self._strike(fault)
                self._ledger.note("struck", f"{fault.kind} {fault.target}: {how}, {ended - began:.1f} s")
                with self._lock:
                    self._struck.append(Struck(fault, how, began, ended))
        except BaseException as error:  # noqa: BLE001 - raised again by `stop`
            self._broken.append(error)
            self._watch.wake()

    def _is_due(self, fault: Fault) -> bool:
        return self._stopping.is_set() or len(self._watch.finished) >= fault.after * self._jobs

    def _strike(self, fault: Fault) -> tuple[str, float]:
        match fault.kind:
            case "worker" | "gateway":
                return self._kill(self._one_of(fault.target or "gateway"), fault.how)
            case "drain":
                slot = self._one_of(fault.target)
                return fault.how, _end_of(slot.send(signal.SIGTERM), slot)
            case "broker":
                self._stopping.wait(SAFE_TO_KILL_AFTER_S)
                self._house.rabbit.kill()
                self._house.rabbit.start()
            case "disk":
                self._stopping.wait(SAFE_TO_KILL_AFTER_S)
                self._house.lose_the_brokers_disk()
            case "storage":
                self._house.ceph.stop_gateway()
                self._stopping.wait(fault.lasts_s)
                self._house.ceph.start_gateway()
            case "network":
                self._disturb(fault)
            case "database":
                self._house.postgres.disconnect_everybody()
            case "hang":
                slot = self._one_of(fault.target)
                return fault.how, _end_of(slot.die_at(HANG, HANG_PATIENCE_S), slot)
            case "corruption":
                self._cut_short(fault.how)
        return fault.how, time.monotonic()

    def _one_of(self, group: str) -> Slot:
        return self._rng.choice(self._slots[group])

    def _kill(self, slot: Slot, how: str) -> tuple[str, float]:
        if how != "random":
            death = slot.die_at(how, DOOM_PATIENCE_S)
            if death is not None:
                return how, death.at
        return "random", _end_of(slot.send(signal.SIGKILL), slot)

    def _disturb(self, fault: Fault) -> None:
        proxies = {
            "broker": self._house.broker_proxies,
            "storage": self._house.storage_proxies,
            "database": self._house.database_proxies,
        }[fault.target]
        hit = proxies[: self._rng.randint(1, SIDES)]
        begin, end = self._ways(fault.how)
        for proxy in hit:
            begin(proxy)
        self._stopping.wait(fault.lasts_s)
        for proxy in hit:
            end(proxy)

    def _cut_short(self, what: str) -> None:
        """Halve something that a job under way has left: the output of its last finished step, or its manifest."""
        store = self._connections.store
        while not self._stopping.is_set():
            with suppress(DoctorGenError):
                found = self._last_manifest()
                if found is not None:
                    made = next(iter(found.outputs.values()))[0]
                    key = made.key if what == "artifact" else manifest_key(found.subject, found.step_key)
                    data = store.get(key)
                    if data is not None:
                        store.replace(key, data[: len(data) // 2], made.media_type)
                        return
            self._stopping.wait(LOOK_AGAIN_S)

    def _last_manifest(self) -> Manifest | None:
        """Of a job under way, chosen at random: what its last finished step left, unless that is its end already."""
        jobs, store = self._connections.jobs, self._connections.store
        running = [job for job in jobs.unfinished() if job.state == "running" and job.subject is not None]
        if not running:
            return None
        job = self._rng.choice(running)
        finished = [event for event in jobs.events(job.job_id) if event.kind == "finished" and event.record]
        if not finished or finished[-1].step in {LAST_PICTURE, VERDICT} or not job.subject or not finished[-1].record:
            return None
        return read_manifest(store, job.subject, finished[-1].record.key)

    def _ways(self, how: str) -> tuple[Callable[..., None], Callable[..., None]]:
        """How a disturbance of a proxy begins and ends."""
        broken, whole = self._house.broken_storage, self._house.ceph.port
        return {
            "black hole": (lambda proxy: proxy.black_hole(), lambda proxy: proxy.pass_through()),
            "half gone": (lambda proxy: proxy.black_hole(), lambda proxy: (proxy.reset(), proxy.pass_through())),
            "reset": (lambda proxy: proxy.reset(), lambda proxy: proxy.reset()),
            "slow": (lambda proxy: proxy.delay(DELAY_S), lambda proxy: proxy.pass_through()),
            "refused": (lambda proxy: proxy.refuse(), lambda proxy: proxy.pass_through()),
            "errors": (
                lambda proxy: (proxy.lead_to(broken), proxy.reset()),
                lambda proxy: (proxy.lead_to(whole), proxy.reset()),
            ),
        }[how]


def _end_of(death: Entry | None, slot: Slot) -> float:
    if death is None:
        raise RuntimeError(f"{slot.name} does not end when it is told to")
    return death.at
