"""A gateway on the embedded broker, an SQLite job store and a store in memory, with the loops that a test wants."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doctor_image_gen.recipes import find_recipe
from doctor_image_gen.stages import OPERATIONS, STAGES
from services.gateway.batches import BatchTeller
from services.gateway.bell import Bell
from services.gateway.defaults import GenerationDefaults
from services.gateway.desk import Desk
from services.gateway.fan_out import FanOut
from services.gateway.intake import Intake
from services.gateway.journal import Journal
from services.gateway.reception import House, Reception
from services.gateway.release import Releaser
from services.gateway.room import Pace, Room
from services.gateway.tombs import Tombs
from services.gateway.undertaker import Undertaker
from shared.broker.embedded import EmbeddedBroker
from shared.broker.port import Outgoing, Subscription
from shared.broker.topology import (
    CONTROL,
    EVENTS,
    INTAKE,
    INTAKE_KEY,
    JOURNAL,
    dead_queue,
    topology,
    work_queues,
)
from shared.contracts.control import Control
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.errors import DoctorGenError
from shared.contracts.event import Event
from shared.contracts.step import StepMessage
from shared.jobs.open import open_job_store
from shared.jobs.port import Job, JobStore
from shared.prompts.catalogue import load_catalogue
from shared.storage.digest import sha256
from shared.vision.photos import PhotoLimits
from shared.worker.process import Loop
from shared.worker.retry import RetryPolicy, RetryRule
from tests.fakes import MemoryStore
from tests.unit.job_files import put_jobs
from tests.unit.photo_files import encoded, picture

PATIENCE_S = 10.0
POLICY = RetryPolicy(
    rules={kind: RetryRule(attempts=3, base_delay_ms=1) for kind in ("Transient", "ResourceExhausted")},
    ladder_ms=(5, 10),
)
PHOTO = encoded(picture(600, 700), "PNG")
CATALOGUE = load_catalogue(None)
NAME = "gateway"


class FlakyStore(MemoryStore):
    """Raises what `trouble` holds, one error a `get`, the last one first; `broken` says which key always fails."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: list[DoctorGenError] = []
        self.broken: dict[str, DoctorGenError] = {}
        self.asked: list[str] = []

    def get(self, key: str) -> bytes | None:
        self.asked.append(key)
        if self.trouble:
            raise self.trouble.pop()
        if key in self.broken:
            raise self.broken[key]
        return super().get(key)


@dataclass
class Door:
    """What a test does with the gateway, and what it sees of it."""

    broker: EmbeddedBroker
    store: FlakyStore
    jobs: JobStore
    ear: Subscription
    defaults: list[GenerationDefaults]
    photo: dict[str, str] = field(default_factory=lambda: {"key": "inbox/a.png", "sha256": sha256(PHOTO)})

    def publish(self, **changes: Any) -> None:
        document = {"subject": "dr-1", "photos": [self.photo], "scenario": "consultant", **changes}
        self.publish_body(json.dumps(document).encode())

    def publish_body(self, body: bytes, key: str = INTAKE_KEY) -> None:
        self.broker.publish(Outgoing(INTAKE, key, body, "any"))

    def cancel(self, job_id: str) -> None:
        body = Control(kind="cancel", job_id=job_id).to_json()
        self.broker.publish(Outgoing(CONTROL, "", body, "cancel", mandatory=False))

    def tell(self, event: Event) -> None:
        self.broker.publish(Outgoing(EVENTS, event.routing_key, event.to_json(), event.event_id))

    def event(self) -> Event:
        """The next event of a job."""
        while True:
            delivery = self.ear.receive(PATIENCE_S)
            assert delivery is not None, "no event came"
            if delivery.routing_key.startswith("job."):
                return Event.from_json(delivery.body)

    def step(self, stage: str = "identity") -> StepMessage:
        """The next message to a stage."""
        subscription = self.broker.subscribe(*work_queues(stage))
        delivery = subscription.receive(PATIENCE_S)
        assert delivery is not None, "no step came"
        delivery.ack()
        subscription.close()
        return StepMessage.from_json(delivery.body)

    def dead_letter(self, owner: str) -> DeadLetter:
        """The next dead letter on its way to the undertaker, where none runs."""
        subscription = self.broker.subscribe(dead_queue(owner))
        delivery = subscription.receive(PATIENCE_S)
        assert delivery is not None, "no dead letter came"
        delivery.ack()
        subscription.close()
        return DeadLetter.from_json(delivery.body)

    def job(self, job_id: str) -> Job:
        job = self.jobs.get(job_id)
        assert job is not None, f"the job store knows no {job_id}"
        return job


@contextmanager
def opened(
    folder: Path,
    loops: tuple[str, ...] = ("intake", "releaser", "journal"),
    *,
    broker: EmbeddedBroker | None = None,
    window: int = 8,
    limits: tuple[int, int] = (1000, 1000),
    wrap: Callable[[JobStore], JobStore] = lambda jobs: jobs,
) -> Iterator[Door]:
    """The gateway with these loops running; everything ends with the context."""
    broker = broker or EmbeddedBroker()
    broker.declare(topology(retry_ladder_ms=POLICY.ladder_ms))
    store = FlakyStore()
    store.put("inbox/a.png", PHOTO, "image/png")
    defaults = [GenerationDefaults()]
    ear = broker.listen(EVENTS, ("#",))
    put_jobs(folder / "jobs.sqlite")
    jobs = open_job_store(f"sqlite:///{folder / 'jobs.sqlite'}")
    every = gateway(broker, store, wrap(jobs), defaults, window, limits)
    for name in every.keys() - set(loops):
        every[name].stop()  # its subscription would hold a message
    running = [every[name] for name in loops]
    threads = [threading.Thread(target=loop.run) for loop in running]
    for thread in threads:
        thread.start()
    yield Door(broker, store, jobs, ear, defaults)
    for loop in running:
        loop.stop()
    for thread in threads:
        thread.join(PATIENCE_S)
    broker.close()
    jobs.close()


def gateway(
    broker: EmbeddedBroker,
    store: MemoryStore,
    jobs: JobStore,
    defaults: list[GenerationDefaults],
    window: int,
    limits: tuple[int, int],
) -> dict[str, Loop]:
    """The loops by name, none of them running."""
    house = House(
        OPERATIONS, lambda name: find_recipe(None, name), lambda: CATALOGUE, lambda: defaults[0], PhotoLimits()
    )
    bell, pace, tombs, teller = Bell(), Pace(), Tombs(broker, store, jobs), BatchTeller(broker, jobs)
    desk = Desk(jobs, Room(jobs, *limits, pace), tombs, bell, NAME)
    reception = Reception(store, house)
    return {
        "intake": Intake(broker, reception, desk, FanOut(broker, reception, desk, teller, POLICY), POLICY, NAME),
        "releaser": Releaser(broker, jobs, lambda: window, bell, pace, look_after_s=0.05),
        "journal": Journal(broker, jobs, teller, tombs, bell, NAME),
        "undertaker": Undertaker(broker, store, jobs, tombs, (*STAGES, INTAKE_KEY, JOURNAL), NAME),
    }
