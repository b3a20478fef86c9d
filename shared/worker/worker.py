"""The life of a worker, the same for all stages: consume, skip or run, commit, publish, acknowledge."""

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from time import monotonic

import psutil

from shared.broker.holding import is_held
from shared.broker.port import Broker, Delivery
from shared.broker.topology import work_queues
from shared.contracts.base import now
from shared.contracts.beat import Beat, InHand, WorkerState
from shared.contracts.errors import (
    Cancelled,
    DeadlineExceeded,
    DevicePoisoned,
    InvalidInput,
    Permanent,
    StepTimedOut,
    StoreAway,
    Transient,
)
from shared.contracts.step import StepMessage, StepRecord
from shared.storage.layout import manifest_key
from shared.storage.port import ArtifactStore
from shared.worker.cancellation import Cancellations
from shared.worker.crashes import Received
from shared.worker.dispatch import (
    Dispatch,
    Origin,
    advanced,
    crashed,
    failed,
    repaired,
    step_outgoing,
    unreadable,
)
from shared.worker.ending import best_so_far, ended, salvaged
from shared.worker.errors import classify
from shared.worker.events import outgoing_event, step_event
from shared.worker.limits import WorkerLimits
from shared.worker.operation import Stage
from shared.worker.previews import Previews
from shared.worker.pulse import Pulse
from shared.worker.step import (
    CorruptInputError,
    Engines,
    Phase,
    Prepared,
    StepContext,
    advance,
    perform,
    prepare,
    reaching,
    record_of,
)
from shared.worker.step_thread import StepThread
from shared.worker.turn import Turnstile
from shared.worker.watch import Watch

log = logging.getLogger(__name__)

Observer = Callable[[Phase, StepMessage], None]
IO_THREADS = 8
PROGRESS_INTERVAL_S = 0.25
BROKER_PAUSE_S = 1.0
STORE_PAUSE_S = 1.0
LONGEST_STORE_PAUSE_S = 15.0
EXPECTED = (InvalidInput, Cancelled, DeadlineExceeded)
"""Ends of a step that are no fault of ours: a line in the log, no traceback."""


def nobody(_phase: Phase, _message: StepMessage) -> None:
    """The observer of a worker that nobody observes."""


class WorkerSpentError(Exception):
    """The worker must not go on: a step hangs in it, or its device can no longer be used. A fresh one should."""


class _HandedBackError(Exception):
    """The delivery was given back at shutdown while its step ran; whatever the step makes is dropped."""


class _NotYetError(Exception):
    """The step waits for its turn and shall not any longer: its message goes back."""


class Worker:
    """Works off one stage's queues, one step at a time, interactive jobs first.

    The thread that calls `run` talks; another computes, so that a step that hangs can be left behind. `stop` lets the
    current step finish; `hand_back` gives its message back at once and uncounted. Workers that share a device share a
    turnstile; a step that waits there when the worker is stopped is handed back.
    """

    def __init__(
        self,
        stage: Stage,
        broker: Broker,
        store: ArtifactStore,
        origin: Origin,
        *,
        usd_per_hour: float,
        limits: WorkerLimits | None = None,
        beat_interval_s: float = 5.0,
        observe: Observer = nobody,
        turnstile: Turnstile | None = None,
        store_pause_s: float = STORE_PAUSE_S,
        rng: Random | None = None,
    ) -> None:
        self.stage = stage
        self.warm = False
        self._engines = Engines(stage)
        self._broker = broker
        self._store = store
        self._origin = origin
        self._usd_per_hour = usd_per_hour
        self._limits = limits or WorkerLimits()
        self._beat_interval_s = beat_interval_s
        self._observe = observe
        self._turnstile = turnstile or Turnstile(frozenset)
        self._store_pause_s = store_pause_s
        self._rng = rng or Random()
        self._io = ThreadPoolExecutor(IO_THREADS, thread_name_prefix=f"{stage.name}-io")
        self._stopping = threading.Event()
        self._settling = threading.Lock()
        self._current: Delivery | None = None
        self._in_hand: InHand | None = None
        self._received = Received()
        self._started_at = now()
        self._steps_done = 0
        self._gone = False
        self._subscription = broker.subscribe(*work_queues(stage.name))
        self._cancelled = Cancellations(broker)

    def run(self) -> None:
        """Consume until `stop`, or until the worker's limits say that a fresh one should take its place.

        Raises:
            WorkerSpentError: a step hangs, or the device is poisoned. Its message is settled.
        """
        steps = StepThread(f"{self.stage.name}-step")
        pulse = Pulse(self._broker, self.beat, self._beat_interval_s)
        try:
            while not self._stopping.is_set() and not self._limits.is_spent(self._steps_done, _resident_bytes()):
                delivery = self._subscription.receive()
                if delivery is not None:
                    self._handle(delivery, steps)
        finally:
            self._subscription.close()
            self._gone = True
            pulse.close()
            steps.close()
            self._cancelled.close()
            self._io.shutdown(wait=False, cancel_futures=True)

    @property
    def is_draining(self) -> bool:
        """Whether it takes no further message."""
        return self._stopping.is_set()

    def warm_up(self, engines: Collection[str]) -> None:
        """Load the models of these engines, so that the first step need not."""
        self._engines.warm(engines)
        self.warm = True

    def stop(self) -> None:
        """Take no further message; `run` returns once the current step is settled."""
        self._stopping.set()
        self._subscription.close()

    def hand_back(self) -> None:
        """Give the current message back, if any, as a new one: another worker gets it, and it counts as no attempt."""
        with self._settling:
            delivery, self._current = self._current, None
        if delivery is not None:
            self._give_back(delivery)

    def beat(self) -> Beat:
        """What the worker says of itself now."""
        in_hand = self._in_hand
        return Beat(
            worker=self._origin.worker,
            stage=self.stage.name,
            at=now(),
            started_at=self._started_at,
            state=self._state(),
            in_hand=(in_hand,) if in_hand else (),
            steps_done=self._steps_done,
            rss_bytes=_resident_bytes(),
        )

    def _state(self) -> WorkerState:
        if self._gone:
            return "gone"
        if self._stopping.is_set():
            return "draining"
        return "working" if self._in_hand else "idle"

    def _handle(self, delivery: Delivery, steps: StepThread) -> None:
        if is_held(delivery):
            delivery.fail()
            return
        self._current = delivery
        try:
            message = StepMessage.from_json(delivery.body)
        except InvalidInput as error:
            self._settle(unreadable(self.stage.name, delivery, error, self._origin.worker), None)
            return
        self._in_hand = InHand(job_id=message.job_id, step=message.step.name, since=now())
        self._reached("received", message)
        try:
            self._work_off(message, delivery, steps)
        finally:
            self._in_hand = None
            self._steps_done += 1

    def _work_off(self, message: StepMessage, delivery: Delivery, steps: StepThread) -> None:
        crashes = self._received.crashes(delivery)
        dead = crashed(message, crashes, self._origin, self._rng)
        if dead is not None:
            self._bury(dead, message)
            return
        message = message.model_copy(update={"attempts": message.attempts + crashes})
        deadline_s = self._limits.deadline_s(self.stage.name)
        watch, previews = Watch(), Previews(self._store, self._io, message.subject)
        attempt = steps.submit(lambda: self._attempt(message, watch, previews))
        try:
            self._settle(watch.result(attempt, deadline_s), message)
        except TimeoutError as error:
            late = StepTimedOut(f"the step ran longer than {deadline_s:g} s, the deadline of '{self.stage.name}'")
            self._settle_failed(message, late)
            raise WorkerSpentError(str(late)) from error
        except _HandedBackError:
            return
        except _NotYetError:
            self.hand_back()
        except StoreAway:
            log.warning("the object store is away; %s waits for it", self._origin.worker, exc_info=True)
            self.hand_back()
            self._wait_for_the_store()
        except DevicePoisoned as error:
            self._settle_failed(message, error)
            raise WorkerSpentError(str(error)) from error
        finally:
            previews.close()

    def _attempt(self, message: StepMessage, watch: Watch, previews: Previews) -> Dispatch:
        prepared: Prepared | None = None
        record: StepRecord | None = None
        try:
            self._still_wanted(message, to_compute=message.gate is None)  # what stands may be a picture to keep
            prepared = prepare(message, self._engines)
            manifest, reused = perform(prepared, self._context(message, watch, previews))
            record = record_of(message, manifest, reused=reused)
            ahead = advance(message, manifest, record)
            if not message.is_last:
                return advanced(message, record, ahead, self._origin)
            return ended(message, record, ahead, self._store, self._origin, found=reused)
        except (_HandedBackError, _NotYetError, StoreAway):
            raise
        except EXPECTED as error:
            log.info("step %s of job %s ends: %s", message.step.name, message.job_id, error)
            late = isinstance(error, DeadlineExceeded)
            best = best_so_far(message, self._store, self._origin) if late else None
            key = prepared.key if prepared else None
            return best or self._salvaged(message, failed(message, error, self._origin, self._rng, key))
        except CorruptInputError as error:
            trail = (*message.trail, record) if record else message.trail
            return self._salvaged(message, self._repair(message, error, trail))
        except Exception as error:
            if classify(error) is DevicePoisoned:
                raise DevicePoisoned(str(error)) from error
            log.warning("step %s of job %s failed", message.step.name, message.job_id, exc_info=True)
            key, plans = (prepared.key, prepared.smaller_plans) if prepared else (None, 0)
            return self._salvaged(message, failed(message, error, self._origin, self._rng, key, plans))

    def _repair(self, message: StepMessage, error: CorruptInputError, trail: Sequence[StepRecord]) -> Dispatch:
        """Take away what is corrupt and the manifest that vouches for it, and go back to the step that made it."""
        maker = error.slot.split(".")[0]
        record = next((record for record in trail if record.step == maker), None)
        log.warning("job %s: %s; its step '%s' is done again", message.job_id, error, maker)
        if record is None:
            return failed(message, error, self._origin, self._rng)
        try:
            reaching(self._store.delete, manifest_key(message.subject, record.key))
            reaching(self._store.delete, error.ref.key)
        except Permanent as refused:
            return failed(message, refused, self._origin, self._rng)
        return repaired(message, maker, error, self._origin, self._rng)

    def _salvaged(self, message: StepMessage, dispatch: Dispatch) -> Dispatch:
        return salvaged(message, dispatch, self._store, self._origin)

    def _settle_failed(self, message: StepMessage, error: Exception) -> None:
        """Settle a step that this worker will not survive; where the store is away, the next worker tries it anew."""
        try:
            dispatch = self._salvaged(message, failed(message, error, self._origin, self._rng))
        except StoreAway:
            log.warning("the object store is away; %s hands the step back", self._origin.worker, exc_info=True)
            self.hand_back()
        else:
            self._settle(dispatch, message)

    def _bury(self, dead: Dispatch, message: StepMessage) -> None:
        """Settle a step that kills its workers. While the store is away it is requeued, which forgets no crash."""
        try:
            dispatch = self._salvaged(message, dead)
        except StoreAway:
            log.warning("the object store is away; %s waits for it", self._origin.worker, exc_info=True)
            with self._settling:
                delivery, self._current = self._current, None
            if delivery is not None:
                delivery.requeue()
            self._wait_for_the_store()
        else:
            self._settle(dispatch, message)

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
            self._stopping.wait(BROKER_PAUSE_S)
            self._give_back(delivery)
            return
        self._reached("settling", message)
        delivery.ack()
        self._reached("settled", message)

    def _give_back(self, delivery: Delivery) -> None:
        """Publish the message anew, so that no delivery is counted against it; where that fails, requeue it."""
        try:
            self._broker.publish(step_outgoing(StepMessage.from_json(delivery.body)))
        except (Transient, InvalidInput):
            delivery.requeue()
        else:
            delivery.ack()

    def _wait_for_the_store(self) -> None:
        pause_s = self._store_pause_s
        while not self._stopping.wait(pause_s * self._rng.uniform(0.5, 1.0)):
            try:
                self._store.get("inbox/is-the-store-there")
            except Transient:
                pause_s = min(2 * pause_s, LONGEST_STORE_PAUSE_S)
            except Permanent:
                return  # it answers; the steps tell what it refuses
            else:
                return

    def _context(self, message: StepMessage, watch: Watch, previews: Previews) -> StepContext:
        told = monotonic()

        def progress(fraction: float) -> None:
            nonlocal told
            self._still_wanted(message)
            preview = previews.take()
            if preview is not None or monotonic() - told >= PROGRESS_INTERVAL_S:
                told = monotonic()
                details = {"fraction": round(fraction, 3), "preview": preview}
                self._broker.send(outgoing_event(step_event(message, "progress", self._origin.worker, **details)))

        def show(picture: bytes) -> None:
            self._still_wanted(message)
            previews.show(picture)

        return StepContext(
            store=self._store,
            io=self._io,
            worker=self._origin.worker,
            usd_per_hour=self._usd_per_hour,
            turn=lambda prepared: self._turn(prepared, watch),
            reached=self._reached,
            progress=progress,
            show=show,
        )

    @contextmanager
    def _turn(self, prepared: Prepared, watch: Watch) -> Iterator[None]:
        self._still_wanted(prepared.message)
        if prepared.residents is None:
            yield
            return

        def still_waits() -> None:
            self._still_wanted(prepared.message)
            if self._stopping.is_set() or watch.waited_s() > self._limits.longest_wait_s(self.stage.name):
                raise _NotYetError

        with watch.waiting():
            self._turnstile.enter(prepared.residents, still_waits)
        try:
            yield
        finally:
            self._turnstile.leave()

    def _still_wanted(self, message: StepMessage, *, to_compute: bool = True) -> None:
        if self._current is None:
            raise _HandedBackError
        if self._cancelled.covers(message):
            raise Cancelled(f"job {message.job_id} was cancelled")
        if to_compute and message.deadline is not None and message.deadline < now():
            raise DeadlineExceeded(f"the job's deadline, {message.deadline.isoformat()}, has passed")

    def _reached(self, phase: Phase, message: StepMessage | None) -> None:
        if message is None:
            return
        if phase == "started":
            self._broker.send(outgoing_event(step_event(message, "started", self._origin.worker)))
        self._observe(phase, message)


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)
