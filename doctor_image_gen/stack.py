"""Wires everything together: the connections every face needs, the gateway, and the embedded pipeline."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from doctor_image_gen.cached_catalogue import CachedCatalogue
from doctor_image_gen.lock import PipelineLock
from doctor_image_gen.recipes import find_recipe
from doctor_image_gen.settings import LiveDefaults, Settings
from doctor_image_gen.stages import STAGES
from services.gateway.batches import BatchTeller
from services.gateway.bell import Bell
from services.gateway.desk import Desk
from services.gateway.fan_out import FanOut
from services.gateway.intake import Intake
from services.gateway.journal import Journal
from services.gateway.reception import House, Reception
from services.gateway.release import Releaser, live_window
from services.gateway.rescue import Rescue
from services.gateway.resume import resume
from services.gateway.retention import Keeper
from services.gateway.room import Pace, Room
from services.gateway.settings import Retention
from services.gateway.tombs import Tombs
from services.gateway.undertaker import Undertaker
from shared.broker.open import open_broker
from shared.broker.port import Broker
from shared.broker.topology import INTAKE_KEY, JOURNAL
from shared.contracts.errors import Permanent, Transient
from shared.contracts.recipe import Recipe
from shared.contracts.request import JobRequest
from shared.jobs.open import open_job_store
from shared.jobs.port import JobStore
from shared.storage.open import open_store
from shared.storage.port import ArtifactStore
from shared.worker.dispatch import Origin
from shared.worker.figures import process_turnstile
from shared.worker.operation import Stage
from shared.worker.process import Loop
from shared.worker.turn import Turnstile
from shared.worker.worker import Worker

log = logging.getLogger(__name__)

STOP_PATIENCE_S = 60.0
NO_FRESH_PROCESS: dict[str, None] = {"recycle_after_steps": None, "recycle_above_bytes": None}
"""Limits that make no sense where nobody starts a fresh worker."""


@dataclass(frozen=True)
class Connections:
    """Broker, store and journal, opened as the settings say and everything declared."""

    broker: Broker
    store: ArtifactStore
    jobs: JobStore

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Raises InvalidInput, Transient or Permanent, each naming what could not be opened."""
        with ExitStack() as opened:
            broker = opened.enter_context(closing(open_broker(settings.broker_url.get_secret_value())))
            with _named_setting("data_dir" if settings.stores_in_data_dir else "storage.url"):
                store = open_store(settings.storage_or_folder)
            with _named_setting("data_dir" if settings.jobs_url is None else "jobs_url"):
                jobs = opened.enter_context(closing(open_job_store(settings.jobs_url_or_file)))
            connections = cls(broker, store, jobs)
            with _named_setting("broker_url"):
                connections.declare(settings)
            opened.pop_all()
        return connections

    def declare(self, settings: Settings) -> None:
        """Make every exchange and queue exist."""
        self.broker.declare(settings.retry.topology)

    def close(self) -> None:
        """Close all three."""
        self.broker.close()
        self.jobs.close()


@contextmanager
def _named_setting(setting: str) -> Iterator[None]:
    """Add to what does not answer which setting says where it is: nothing has ever answered there in this process."""
    try:
        yield
    except Transient as error:
        running = "" if setting == "data_dir" else ", and that the server runs"
        raise Transient(f"{str(error).removesuffix('.')}. Check the setting {setting}{running}.") from error


def gateway_name() -> str:
    """Host and process, e.g. `node7.gateway.4711`."""
    return f"{socket.gethostname()}.gateway.{os.getpid()}"


def gateway_loops(
    settings: Settings,
    connections: Connections,
    stages: Mapping[str, Stage] = STAGES,
    recipe: Callable[[str], Recipe] | None = None,
) -> tuple[Loop, ...]:
    """All that a gateway does: intake, releaser, journal, undertaker, rescue, and retention where something expires.

    Args:
        settings: of the whole product.
        connections: opened with these settings.
        stages: whose operations recipes may name.
        recipe: finds a recipe by name; by default those that ship and those of the user's folder.
    """
    name = gateway_name()
    broker, store, jobs = connections.broker, connections.store, connections.jobs
    chosen = settings.gateway
    bell, pace, tombs = Bell(), Pace(), Tombs(broker, store, jobs)
    room = Room(jobs, chosen.waiting_jobs, chosen.waiting_jobs_per_caller, pace)
    desk = Desk(jobs, room, tombs, bell, name)
    reception = Reception(store, house_of(settings, stages, recipe))
    teller = BatchTeller(broker, jobs)
    fan_out = FanOut(broker, reception, desk, teller, settings.retry)
    window = live_window(jobs, chosen.worker_silent_after_s, chosen.window)
    keepers = (Keeper(store, jobs, settings.retention),) if settings.retention != Retention() else ()
    return (
        Intake(broker, reception, desk, fan_out, settings.retry, name),
        Releaser(broker, jobs, window, bell, pace, chosen.look_after_s),
        Journal(broker, jobs, teller, tombs, bell, name),
        Undertaker(broker, store, jobs, tombs, (*stages, INTAKE_KEY, JOURNAL), name),
        Rescue(
            broker,
            jobs,
            settings.retry,
            chosen.rescue_period_s,
            chosen.worker_silent_after_s,
            lambda: connections.declare(settings),
        ),
        *keepers,
    )


def house_of(
    settings: Settings,
    stages: Mapping[str, Stage] = STAGES,
    recipe: Callable[[str], Recipe] | None = None,
) -> House:
    """What a deployment with these settings offers. Arguments as of `gateway_loops`."""
    return House(
        operations={operation.name: operation for stage in stages.values() for operation in stage.operations},
        recipe=recipe or (lambda wanted: find_recipe(settings.user_folder, wanted)),
        catalogue=CachedCatalogue(settings.user_folder),
        defaults=LiveDefaults(settings),
        photo_limits=settings.photo_limits,
    )


class Pipeline:
    """The embedded pipeline: the gateway and one worker a stage, each in a thread of this process.

    It holds the lock of its data folder, so whatever is in flight there by the job store's account was in flight in a
    process that is gone: it is published again, and goes on at its last finished step.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.users = 1
        self._broken: list[Exception] = []
        with ExitStack() as opened:
            self.connections = opened.enter_context(closing(Connections.open(settings)))
            opened.enter_context(closing(PipelineLock.take(settings.data_dir)))
            resume(self.connections.broker, self.connections.jobs, settings.retry, gateway_name())
            turnstile = process_turnstile()
            self._workers = [self._worker(stage, turnstile) for stage in STAGES]
            self._gateway = gateway_loops(settings, self.connections)
            self._opened = opened.pop_all()
        loops = (*self._gateway, *self._workers)
        self._threads = {loop: threading.Thread(target=self.run, args=(loop,), daemon=True) for loop in loops}
        for thread in self._threads.values():
            thread.start()

    def check(self) -> None:
        """Raise Permanent where a part has ended: whoever waits would wait for ever."""
        if self._broken:
            raise Permanent(f"the embedded pipeline broke: {self._broken[0]}") from self._broken[0]

    def run(self, loop: Loop) -> None:
        """Run one part in this thread, and remember what it breaks with."""
        try:
            loop.run()
        except Exception as error:
            log.exception("%s cannot go on", type(loop).__name__)
            self._broken.append(error)

    def close(self) -> None:
        """Let the current steps finish, hear what they have to tell, then close everything."""
        self._end(self._workers)
        for worker in self._workers:
            worker.hand_back()
        self._end(self._gateway)
        self._opened.close()

    def _end(self, loops: Sequence[Loop]) -> None:
        for loop in loops:
            loop.stop()
        for loop in loops:
            self._threads[loop].join(STOP_PATIENCE_S)

    def _worker(self, stage: str, turnstile: Turnstile) -> Worker:
        origin = Origin(f"{socket.gethostname()}.{stage}.{os.getpid()}", self.settings.retry)
        return Worker(
            STAGES[stage],
            self.connections.broker,
            self.connections.store,
            origin,
            usd_per_hour=self.settings.worker_usd_per_hour,
            limits=self.settings.limits.model_copy(update=NO_FRESH_PROCESS),
            beat_interval_s=self.settings.beat_interval_s,
            turnstile=turnstile,
        )


_pipelines: dict[tuple[int, Path], Pipeline] = {}
_pipelines_lock = threading.Lock()


def _join(settings: Settings) -> Pipeline:
    """The pipeline that this process runs with these very settings, or a new one."""
    place = os.getpid(), settings.data_dir
    with _pipelines_lock:
        standing = _pipelines.get(place)
        if standing is not None and standing.settings == settings:
            standing.users += 1
            return standing
        _pipelines[place] = started = Pipeline(settings)
        return started


def _leave(pipeline: Pipeline) -> None:
    """The last one to leave closes it."""
    with _pipelines_lock:
        pipeline.users -= 1
        if pipeline.users == 0:
            del _pipelines[os.getpid(), pipeline.settings.data_dir]
            pipeline.close()


class Stack:
    """Connections, and in the embedded case a pipeline behind them, shared by all who open it in this process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pipeline = _join(settings) if settings.embedded else None
        self.connections = self._pipeline.connections if self._pipeline else Connections.open(settings)
        self._closed = False

    def check(self) -> None:
        """Raise Permanent where a part of the embedded pipeline has ended: whoever waits would wait for ever."""
        if self._pipeline is not None:
            self._pipeline.check()

    def check_requests(self, requests: Sequence[JobRequest]) -> None:
        """See whether the embedded pipeline would take in each of several requests, before the first is filed.

        With a broker nothing is seen: what the gateway elsewhere offers is not known here.

        Raises:
            InvalidInput: the first that would be refused, as its job would be told.
        """
        if self._pipeline is None:
            return
        reception = Reception(self.connections.store, house_of(self.settings))
        for request in requests:
            reception.check(request)

    def close(self) -> None:
        """Close the connections; of the last one on an embedded pipeline: let the current steps finish first."""
        if self._closed:
            return
        self._closed = True
        if self._pipeline is None:
            self.connections.close()
        else:
            _leave(self._pipeline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
