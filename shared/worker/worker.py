"""The life of a worker, the same for all stages: consume, skip or run, commit, publish, acknowledge."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from time import monotonic

from shared.broker.port import Broker, Delivery
from shared.broker.topology import queue_name
from shared.contracts.base import now
from shared.contracts.errors import Cancelled, DeadlineExceeded, InvalidInput, Transient
from shared.contracts.step import StepMessage
from shared.contracts.verdict import Verdict
from shared.storage.artifacts import fetch
from shared.storage.port import ArtifactStore
from shared.worker.cancellation import Cancellations
from shared.worker.dispatch import Dispatch, Origin, advanced, completed, failed, unreadable
from shared.worker.events import outgoing_event, step_event
from shared.worker.operation import Stage
from shared.worker.step import Engines, Phase, Prepared, StepContext, advance, perform, prepare, record_of

log = logging.getLogger(__name__)

Observer = Callable[[Phase, StepMessage], None]
IO_THREADS = 8
PROGRESS_INTERVAL_S = 0.25
BROKER_PAUSE_S = 1.0


def _nobody(_phase: Phase, _message: StepMessage) -> None:
    """The observer of a worker that nobody observes."""


class _HandedBackError(Exception):
    """The delivery was given back at shutdown while its step ran; whatever the step makes is dropped."""


class Worker:
    """Works off one stage's queue, one step at a time, in the thread that calls `run`.

    `stop` lets the current step finish; `hand_back` gives its delivery back at once and uncounted.
    """

    def __init__(
        self,
        stage: Stage,
        broker: Broker,
        store: ArtifactStore,
        origin: Origin,
        *,
        usd_per_hour: float,
        observe: Observer = _nobody,
        rng: Random | None = None,
    ) -> None:
        self.stage = stage
        self._broker = broker
        self._store = store
        self._origin = origin
        self._usd_per_hour = usd_per_hour
        self._observe = observe
        self._rng = rng or Random()
        self._engines = Engines(stage)
        self._io = ThreadPoolExecutor(IO_THREADS, thread_name_prefix=f"{stage.name}-io")
        self._stopping = threading.Event()
        self._settling = threading.Lock()
        self._current: Delivery | None = None
        self._subscription = broker.subscribe(queue_name(stage.name))
        self._cancelled = Cancellations(broker)

    def run(self) -> None:
        """Consume until `stop`."""
        try:
            while not self._stopping.is_set():
                delivery = self._subscription.receive()
                if delivery is not None:
                    self._handle(delivery)
        finally:
            self._cancelled.close()
            self._io.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Take no further message; `run` returns once the current step is settled."""
        self._stopping.set()
        self._subscription.close()

    def hand_back(self) -> None:
        """Give the current delivery back, if any: another worker gets it, and it counts as no attempt."""
        with self._settling:
            if self._current is not None:
                self._current.requeue()
                self._current = None

    def _handle(self, delivery: Delivery) -> None:
        self._current = delivery
        try:
            message = StepMessage.from_json(delivery.body)
        except InvalidInput as error:
            dispatch = unreadable(self.stage.name, delivery, error, self._origin.worker)
            self._settle(dispatch, None)
            return
        self._reached("received", message)
        try:
            dispatch = self._attempt(message)
        except _HandedBackError:
            return
        self._settle(dispatch, message)

    def _attempt(self, message: StepMessage) -> Dispatch:
        prepared: Prepared | None = None
        try:
            self._still_wanted(message)
            prepared = prepare(message, self._engines)
            manifest, reused = perform(prepared, self._context(message))
            record = record_of(message, manifest, reused=reused)
            ahead = advance(message, manifest, record)
            if not message.is_last:
                return advanced(message, record, ahead, self._origin)
            verdict = Verdict.from_json(fetch(self._store, ahead.artifacts[ahead.verdict][0]))
            return completed(message, record, ahead, verdict.summary(), self._origin)
        except _HandedBackError:
            raise
        except Exception as error:
            log.warning("step %s of job %s failed", message.step.name, message.job_id, exc_info=True)
            return failed(message, error, self._origin, self._rng, prepared.key if prepared else None)

    def _settle(self, dispatch: Dispatch, message: StepMessage | None) -> None:
        """Publish, then acknowledge. What the broker will not take now stays ours and is delivered again."""
        with self._settling:
            delivery, self._current = self._current, None
        if delivery is None:
            return
        try:
            first = self._broker.send(dispatch.first)
            then = [self._broker.send(outgoing) for outgoing in dispatch.then]
            first.result()
            self._reached("published", message)
            for confirmation in then:
                confirmation.result()
        except Transient:
            log.warning("the broker took no message; the step is delivered again", exc_info=True)
            delivery.requeue()
            self._stopping.wait(BROKER_PAUSE_S)
            return
        self._reached("settling", message)
        delivery.ack()
        self._reached("settled", message)

    def _context(self, message: StepMessage) -> StepContext:
        told = monotonic()

        def progress(fraction: float) -> None:
            nonlocal told
            self._still_wanted(message)
            if monotonic() - told >= PROGRESS_INTERVAL_S:
                told = monotonic()
                event = step_event(message, "progress", self._origin.worker, fraction=round(fraction, 3))
                self._broker.send(outgoing_event(event))

        return StepContext(
            store=self._store,
            io=self._io,
            worker=self._origin.worker,
            usd_per_hour=self._usd_per_hour,
            reached=self._reached,
            progress=progress,
        )

    def _still_wanted(self, message: StepMessage) -> None:
        if self._current is None:
            raise _HandedBackError
        if self._cancelled.covers(message):
            raise Cancelled(f"job {message.job_id} was cancelled")
        if message.deadline is not None and message.deadline < now():
            raise DeadlineExceeded(f"the job's deadline, {message.deadline.isoformat()}, has passed")

    def _reached(self, phase: Phase, message: StepMessage | None) -> None:
        if message is None:
            return
        if phase == "started":
            self._broker.send(outgoing_event(step_event(message, "started", self._origin.worker)))
        self._observe(phase, message)
