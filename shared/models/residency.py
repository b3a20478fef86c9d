"""Which models are in memory: one place decides, within a budget, least recently used out first.

A model is loaded into host memory and moved to the device from there. Where the device lacks room, the models that
nobody uses are moved to host memory, the least recently used one first; where that lacks room as well, the least
recently used one there is dropped. The bytes of a model that is being moved count in both places, since it is in both.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from time import monotonic
from traceback import clear_frames
from typing import Protocol, TypeVar, cast, runtime_checkable

from shared.contracts.errors import ResourceExhausted

log = logging.getLogger(__name__)

Model = TypeVar("Model")
Model_co = TypeVar("Model_co", covariant=True)
Result = TypeVar("Result")


def gigabytes(size: int) -> str:
    """A number of bytes as people read it, in units of 10^9 bytes."""
    return f"{size / 1e9:.2f} GB"


@dataclass(frozen=True)
class Smaller:
    """A way to run the same model with less memory: a lower precision, or parts that take turns on the device."""

    name: str
    device_bytes: int
    host_bytes: int


class Resident(Protocol[Model_co]):
    """A model that can be loaded, moved and dropped. Making one reads nothing yet.

    One thread at a time calls its methods, not always the same one.
    """

    @property
    def name(self) -> str:
        """What people call it, with its precision: "FLUX.1 [dev], bf16"."""

    @property
    def bytes(self) -> int:
        """What its weights take, the same in host memory and on the device. Known before it is loaded."""

    @property
    def smaller(self) -> Sequence[Smaller]:
        """What to propose where it does not fit; may be empty."""

    def load(self) -> Model_co:
        """Read it into host memory; what this gives is what its users get."""

    def to_device(self) -> None:
        """Move it from host memory to the device. The same object as before, for whoever holds it."""

    def to_host(self) -> None:
        """Move it from the device to host memory."""

    def drop(self) -> None:
        """Let go of it, wherever it is, also after a load or a move that failed half-way. Must not raise."""


@runtime_checkable
class InParts(Protocol):
    """What a Resident has beyond that if its parts take turns on the device. Its `bytes` are those in host memory."""

    @property
    def device_bytes(self) -> int:
        """What it takes on the device at most."""

    @property
    def host_bytes(self) -> int:
        """What of it stays in host memory meanwhile."""


@dataclass(frozen=True)
class Budget:
    """How many bytes the models may take in each place, working memory for the steps left aside."""

    device_bytes: int
    host_bytes: int


class Place(StrEnum):
    """Where a model is."""

    NOWHERE = "nowhere"
    HOST = "host"
    DEVICE = "device"


@dataclass(frozen=True)
class Figures:
    """What has been done since the start, and what is held now, in bytes and seconds.

    When nothing is under way, `loads - drops` models are in memory, and their weights are `bytes_loaded -
    bytes_dropped`. That is `device_bytes + host_bytes`, and less where parts of a model take turns on the device.
    """

    loads: int = 0
    moves_to_device: int = 0
    evictions_to_host: int = 0
    drops: int = 0
    bytes_loaded: int = 0
    bytes_to_device: int = 0
    bytes_to_host: int = 0
    bytes_dropped: int = 0
    seconds_loading: float = 0.0
    seconds_moving: float = 0.0
    seconds_waiting: float = 0.0
    device_bytes: int = 0
    host_bytes: int = 0


@dataclass
class _Entry:
    """A model's line in the books."""

    key: str
    resident: Resident[object]
    bytes: int = 0
    device_bytes: int = 0
    host_bytes: int = 0
    place: Place = Place.NOWHERE
    model: object = None
    users: int = 0  # who has it, and who waits for it: it must not be put out
    busy: bool = False  # somebody brings it, moves it or drops it
    used: int = 0  # when it was last given back, in turns
    spoilt: bool = False  # nobody is to have it any more

    def measure(self) -> None:
        """As it is before adapters are added to it."""
        self.bytes = self.resident.bytes
        self.device_bytes, self.host_bytes = _in_use(self.resident)

    @property
    def to_park(self) -> int:
        """What it takes of host memory to move it there from the device."""
        return self.bytes - self.host_bytes


@dataclass(frozen=True)
class _Need:
    """Room that is wanted for a model in both places."""

    entry: _Entry
    device_bytes: int
    host_bytes: int


@dataclass(frozen=True)
class _Eviction:
    entry: _Entry
    to_host: bool


@dataclass(eq=False)
class Residency:
    """Keeps the models of one process and one device. Used by many threads at once.

    Args:
        budget: what may be held.
        wait_s: how long a user waits for models that others use to be given back.
        clock: seconds that only ever rise.
    """

    budget: Budget
    wait_s: float = 300.0
    clock: Callable[[], float] = monotonic
    _entries: dict[str, _Entry] = field(default_factory=dict, init=False)
    _held: dict[Place, int] = field(default_factory=lambda: {Place.HOST: 0, Place.DEVICE: 0}, init=False)
    _figures: Figures = field(default_factory=Figures, init=False)
    _turn: int = field(default=0, init=False)
    _changed: threading.Condition = field(
        default_factory=lambda: threading.Condition(threading.Lock()), init=False
    )  # guards all of the above

    @contextmanager
    def use(self, key: str, loader: Callable[[], Resident[Model]]) -> Iterator[Model]:
        """The model on the device, which stays there until the block ends. Hold no reference to it beyond.

        Args:
            key: names the weights and their precision; whoever says the same key gets the same object.
            loader: makes the Resident. Not called where the key is known.

        Raises:
            ResourceExhausted: it can never fit (nothing was loaded or put out), or what others use was not given back
                in time.
            Exception: what loading or moving it raised. It is in no place then, and its bytes are free.
        """
        deadline = self.clock() + self.wait_s
        entry = self._want(key, loader)
        try:
            self._bring(entry, deadline)
            yield cast(Model, entry.model)
        finally:
            self._give_back(entry)

    def on_device(self) -> frozenset[str]:
        """The keys of the models on the device."""
        with self._changed:
            return frozenset(entry.key for entry in self._entries.values() if entry.place is Place.DEVICE)

    def on_host(self) -> frozenset[str]:
        """The keys of the models in host memory."""
        with self._changed:
            return frozenset(entry.key for entry in self._entries.values() if entry.place is Place.HOST)

    def figures(self) -> Figures:
        """What was done and what is held, at this instant."""
        with self._changed:
            return replace(self._figures, device_bytes=self._held[Place.DEVICE], host_bytes=self._held[Place.HOST])

    def grow(self, key: str, more: int) -> None:
        """Book `more` bytes for a model that the caller uses, before adapters are added to it; fewer, taken out after.

        Where its parts take turns, they are booked in both places.

        Raises:
            ResourceExhausted: there is no room, or what others use was not given back in time. Nothing was booked.
        """
        with self._changed:
            entry = self._entries[key]
            on_host = more if entry.host_bytes else 0
            if more > 0:
                self._make_room(_Need(entry, more, on_host), self.clock() + self.wait_s)
            self._held[Place.DEVICE] += more
            self._held[Place.HOST] += on_host
            entry.bytes += more
            entry.device_bytes += more
            entry.host_bytes += on_host
            self._count(**{"bytes_loaded" if more > 0 else "bytes_dropped": abs(more)})
            self._changed.notify_all()

    def spoil(self, key: str) -> None:
        """A model that the caller uses is not as it was loaded any more: it goes once its last user gives it back.

        Whoever asks for the key from now on has it loaded anew.
        """
        with self._changed:
            entry = self._entries.pop(key)
            entry.spoilt, entry.key = True, f"{key}, spoilt {id(entry)}"
            self._entries[entry.key] = entry

    def drop_idle(self) -> int:
        """Drop every model that nobody uses; how many. For after a step ran out of memory, and for the end."""
        with self._changed:
            dropped = 0
            while idle := self._idle():
                with self._busy(idle[0]):
                    self._drop(idle[0])
                dropped += 1
            return dropped

    # From here on, whoever calls holds the lock, unless a docstring says that it is taken.

    def _want(self, key: str, loader: Callable[[], Resident[object]]) -> _Entry:
        """The key's entry, with one user more, or the refusal. Takes the lock."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is None:
                resident = loader()
                _check_fits(resident, self.budget)
                entry = self._entries[key] = _Entry(key, resident)
            entry.users += 1
            return entry

    def _give_back(self, entry: _Entry) -> None:
        """One user less. Takes the lock."""
        with self._changed:
            entry.users -= 1
            if entry.place is Place.DEVICE:  # who waited in vain has not used it
                self._turn += 1
                entry.used = self._turn
                if entry.spoilt and not entry.users:
                    with self._busy(entry):
                        self._drop(entry)
            self._forget_if_gone(entry)
            self._changed.notify_all()

    def _bring(self, entry: _Entry, deadline: float) -> None:
        """Have the model on the device, once for all who ask. Takes the lock."""
        with self._changed:
            while entry.busy:
                self._changed.wait()
            if entry.place is Place.DEVICE:
                return
            with self._busy(entry):
                if entry.place is Place.NOWHERE:
                    entry.measure()
                self._make_room(_Need(entry, entry.device_bytes, _host_need(entry)), deadline)
                self._admit(entry)

    def _make_room(self, need: _Need, deadline: float) -> None:
        """Put out idle models until this one has room in every place it passes through.

        Waiting, it holds no room anywhere: two that wait for each other's room cannot be.
        """
        while self._free(Place.DEVICE) < need.device_bytes or self._free(Place.HOST) < need.host_bytes:
            eviction = self._next_eviction(need)
            if eviction is not None:
                self._evict(eviction)
                continue
            started = self.clock()
            if started >= deadline:
                raise self._too_late(need)
            self._changed.wait(deadline - started)
            self._count(seconds_waiting=self.clock() - started)

    def _free(self, place: Place) -> int:
        total = self.budget.device_bytes if place is Place.DEVICE else self.budget.host_bytes
        return total - self._held[place]

    def _idle(self, place: Place | None = None) -> list[_Entry]:
        """Models in memory that may be put out, the least recently used one first."""
        places = {Place.HOST, Place.DEVICE} if place is None else {place}
        idle = (one for one in self._entries.values() if one.place in places and not one.users and not one.busy)
        return sorted(idle, key=lambda one: one.used)

    def _next_eviction(self, need: _Need) -> _Eviction | None:
        """What to put out next to make room for this one; None where all of it would not be enough."""
        on_host, on_device = self._idle(Place.HOST), self._idle(Place.DEVICE)
        device_free = self._free(Place.DEVICE) - need.device_bytes
        host_free = self._free(Place.HOST) - need.host_bytes
        parked = sum(one.bytes for one in on_host)
        staying = sum(one.host_bytes for one in on_device)
        if host_free + parked + staying < 0 or device_free + sum(one.device_bytes for one in on_device) < 0:
            return None
        if host_free < 0:
            holding = [*on_host, *(one for one in on_device if one.host_bytes)]
            return _Eviction(holding[0], to_host=False)
        victim = on_device[0]
        if host_free >= victim.to_park:
            return _Eviction(victim, to_host=True)
        if host_free + parked >= victim.to_park:
            return _Eviction(on_host[0], to_host=False)  # it went there before the victim was used last
        return _Eviction(victim, to_host=False)

    def _evict(self, eviction: _Eviction) -> None:
        entry = eviction.entry
        with self._busy(entry):
            if not (eviction.to_host and self._park(entry)):
                self._drop(entry)

    def _park(self, entry: _Entry) -> bool:
        """Move a model to host memory; False where that failed."""
        self._held[Place.HOST] += entry.to_park
        try:
            self._slowly("moved to host memory", entry, entry.resident.to_host)
        except Exception:
            self._held[Place.HOST] -= entry.to_park
            log.warning("%s could not be moved to host memory and is dropped", entry.resident.name, exc_info=True)
            return False
        self._held[Place.DEVICE] -= entry.device_bytes
        entry.place = Place.HOST
        self._count(evictions_to_host=1, bytes_to_host=entry.to_park)
        return True

    def _drop(self, entry: _Entry) -> None:
        on_device = entry.place is Place.DEVICE
        entry.model = None
        try:
            self._slowly("dropped", entry, entry.resident.drop)
        finally:
            self._held[Place.DEVICE] -= entry.device_bytes if on_device else 0
            self._held[Place.HOST] -= entry.host_bytes if on_device else entry.bytes
            entry.place = Place.NOWHERE
            self._count(drops=1, bytes_dropped=entry.bytes)

    def _admit(self, entry: _Entry) -> None:
        """Load a model, where it is nowhere, and move it to the device. There is room for it."""
        passes_host = _host_need(entry)
        self._held[Place.DEVICE] += entry.device_bytes
        self._held[Place.HOST] += passes_host
        try:
            if entry.place is Place.NOWHERE:
                entry.model = self._slowly("loaded", entry, entry.resident.load)
                entry.place = Place.HOST
                passes_host = 0  # from here on it is the model's own
                self._count(loads=1, bytes_loaded=entry.bytes)
            self._slowly("moved to the device", entry, entry.resident.to_device)
        except BaseException as error:
            clear_frames(error.__traceback__)  # which hold on to what was loaded or moved in part
            self._back_out(entry, passes_host)
            raise
        self._held[Place.HOST] -= entry.to_park
        entry.place = Place.DEVICE
        self._count(moves_to_device=1, bytes_to_device=entry.device_bytes)

    def _back_out(self, entry: _Entry, passes_host: int) -> None:
        """After a load or a move that failed: the model may be anywhere or in halves, so it is let go of."""
        try:
            if entry.place is Place.HOST:
                self._drop(entry)
            else:
                self._slowly("dropped", entry, entry.resident.drop)
        finally:
            self._held[Place.HOST] -= passes_host
            self._held[Place.DEVICE] -= entry.device_bytes

    @contextmanager
    def _busy(self, entry: _Entry) -> Iterator[None]:
        """Nobody else touches the entry meanwhile, though the lock may be let go."""
        entry.busy = True
        try:
            yield
        finally:
            entry.busy = False
            self._forget_if_gone(entry)
            self._changed.notify_all()

    def _slowly(self, done: str, entry: _Entry, action: Callable[[], Result]) -> Result:
        """Do what takes long without the lock; count how long it took, and tell of it in the log when it is done."""
        started = self.clock()
        self._changed.release()
        try:
            result = action()
        finally:
            self._changed.acquire()
            seconds = self.clock() - started
            self._count(**{"seconds_loading" if done == "loaded" else "seconds_moving": seconds})
        log.info("%s (%s) was %s in %.1f s", entry.resident.name, gigabytes(entry.bytes), done, seconds)
        return result

    def _forget_if_gone(self, entry: _Entry) -> None:
        if entry.place is Place.NOWHERE and not entry.users and not entry.busy:
            self._entries.pop(entry.key, None)

    def _count(self, **more: float) -> None:
        self._figures = replace(
            self._figures, **{name: getattr(self._figures, name) + amount for name, amount in more.items()}
        )

    def _too_late(self, need: _Need) -> ResourceExhausted:
        entry = need.entry
        others = [one for one in self._entries.values() if one is not entry and (one.users or one.busy)]
        names = ", ".join(f"{one.resident.name} ({gigabytes(one.bytes)})" for one in others)
        return ResourceExhausted(
            f"{entry.resident.name} needs {gigabytes(need.device_bytes)}, and within {self.wait_s:g} s there was no "
            f"room: {gigabytes(self._free(Place.DEVICE))} of {gigabytes(self.budget.device_bytes)} on the device are "
            f"free, {gigabytes(self._free(Place.HOST))} of {gigabytes(self.budget.host_bytes)} in host memory; in use "
            f"are {names or 'no other models'}. Run fewer steps at once in this process, or give it more memory."
        )


def _in_use(resident: Resident[object]) -> tuple[int, int]:
    """What it takes on the device, and what it keeps of host memory then."""
    return (resident.device_bytes, resident.host_bytes) if isinstance(resident, InParts) else (resident.bytes, 0)


def _host_need(entry: _Entry) -> int:
    """What a model takes of host memory on its way to the device, beyond what it holds there now: none once loaded."""
    return entry.bytes if entry.place is Place.NOWHERE else 0


def _check_fits(resident: Resident[object], budget: Budget) -> None:
    """Refuse what can never fit, with what would.

    Raises:
        ResourceExhausted: the device or host memory is too small for it even when empty.
    """
    device_bytes, _ = _in_use(resident)
    if device_bytes <= budget.device_bytes and resident.bytes <= budget.host_bytes:
        return
    fitting = [
        one
        for one in resident.smaller
        if one.device_bytes <= budget.device_bytes and one.host_bytes <= budget.host_bytes
    ]
    plans = " or ".join(
        f"{one.name} ({gigabytes(one.device_bytes)} on the device, {gigabytes(one.host_bytes)} in host memory)"
        for one in fitting
    )
    raise ResourceExhausted(
        f"{resident.name} needs {gigabytes(device_bytes)} on the device, and {gigabytes(resident.bytes)} of "
        f"host memory to be loaded; models may take {gigabytes(budget.device_bytes)} there and "
        f"{gigabytes(budget.host_bytes)} here. "
        + (f"What would fit: {plans}." if plans else "No smaller plan of it would fit: it takes a larger machine.")
    )
