"""Which models are in memory, and how much memory there is."""

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.contracts.errors import Permanent, ResourceExhausted
from shared.models import process
from shared.models.device import DEVICE, TorchFacts, check_providers, require_device
from shared.models.memory import Footprint, Memory, Need, Plan, device_memory, host_memory, needs, plan_for
from shared.models.residency import Budget, Figures, Residency, Smaller

PATIENCE_S = 20.0
"""How long a test waits for another thread before it fails."""


@dataclass
class Machine:
    """Memory in which fake models really lie: it knows by itself what is where, and who was used when."""

    budget: Budget
    device: dict[str, int] = field(default_factory=dict)
    host: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    """In host memory, of models on the device."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Of all models in memory, wherever."""
    pinned: list[str] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)
    did: list[str] = field(default_factory=list)
    fails: set[str] = field(default_factory=set)
    gates: dict[str, "Gate"] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    turns: Iterator[int] = field(default_factory=count)

    def do(self, what: str, name: str) -> None:
        deed = f"{what} {name}"
        if deed in self.gates:
            self.gates[deed].pass_through()
        with self.lock:
            self.did.append(deed)
        if deed in self.fails:
            raise OSError(f"{deed} failed")

    def put(self, where: dict[str, int], name: str, size: int) -> None:
        """While it is copied a model lies in both places."""
        with self.lock:
            where[name] = size
            assert sum(self.device.values()) <= self.budget.device_bytes
            assert sum(self.host.values()) + sum(self.kept.values()) <= self.budget.host_bytes

    def check_may_go(self, where: dict[str, int], name: str) -> None:
        """Whoever is put out is neither in use nor asked for, and was used before all others there that are neither."""
        with self.lock:
            assert name not in self.wanted
            assert all(self.used[name] <= self.used[other] for other in where if other not in self.wanted)

    @contextmanager
    def using(self, residency: Residency, model: "FakeModel") -> Iterator[str]:
        """As `residency.use`, noted down: asked for, in use, given back."""
        with self.lock:
            self.wanted.append(model.name)
        try:
            with residency.use(model.name, lambda: model) as loaded:
                with self.lock:
                    self.pinned.append(model.name)
                try:
                    yield loaded
                finally:
                    with self.lock:
                        assert model.name in self.device
                        self.pinned.remove(model.name)
                        self.used[model.name] = next(self.turns)
        finally:
            with self.lock:
                self.wanted.remove(model.name)


@dataclass
class FakeModel:
    """A Resident that lies in a Machine."""

    machine: Machine
    name: str
    bytes: int
    smaller: Sequence[Smaller] = ()
    strict: bool = True

    def load(self) -> str:
        self.machine.do("load", self.name)
        self.machine.put(self.machine.host, self.name, self.bytes)
        self.machine.sizes[self.name] = self.bytes
        return f"model {self.name}"

    def to_device(self) -> None:
        self.machine.do("to device", self.name)
        assert self.name in self.machine.host
        self.machine.put(self.machine.device, self.name, self.machine.sizes[self.name])
        with self.machine.lock:
            del self.machine.host[self.name]

    def to_host(self) -> None:
        if self.strict:
            self.machine.check_may_go(self.machine.device, self.name)
        self.machine.do("to host", self.name)
        self.machine.put(self.machine.host, self.name, self.machine.sizes[self.name])
        with self.machine.lock:
            del self.machine.device[self.name]

    def drop(self) -> None:
        places = (self.machine.host, self.machine.device)
        for where in places:
            if self.strict and self.name in where and not self.machine.fails:  # after a failure its own user drops it
                self.machine.check_may_go(where, self.name)
        self.machine.do("drop", self.name)
        with self.machine.lock:
            for where in (*places, self.machine.sizes):
                where.pop(self.name, None)


@dataclass
class FakeInParts(FakeModel):
    """One whose parts take turns on the device; its adapters lie in both places."""

    device_bytes: int = 0
    host_bytes: int = 0

    def to_device(self) -> None:
        self.machine.do("to device", self.name)
        grown = self.machine.sizes[self.name] - self.bytes
        with self.machine.lock:
            self.machine.put(self.machine.device, self.name, self.device_bytes + grown)
            del self.machine.host[self.name]
            self.machine.kept[self.name] = self.host_bytes + grown

    def to_host(self) -> None:
        self.machine.check_may_go(self.machine.device, self.name)
        self.machine.do("to host", self.name)
        with self.machine.lock:
            del self.machine.kept[self.name]
            self.machine.put(self.machine.host, self.name, self.machine.sizes[self.name])
            del self.machine.device[self.name]

    def drop(self) -> None:
        """Where host memory is wanted, those on the device that keep some of it go in their own order."""
        for where in (self.machine.host, self.machine.kept):
            if self.name in where:
                self.machine.check_may_go(where, self.name)
        self.machine.do("drop", self.name)
        with self.machine.lock:
            for where in (self.machine.host, self.machine.device, self.machine.kept, self.machine.sizes):
                where.pop(self.name, None)


class Gate:
    """A door in another thread's way: tells that it came there, and lets it through when told."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def pass_through(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE_S)


class Watched(threading.Condition):
    """A condition that tells when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())
        self.waiting = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waiting.set()
        return super().wait(timeout)


@dataclass
class House:
    """A machine, its residency, and threads that are ended with the test."""

    machine: Machine
    residency: Residency
    waiting: threading.Event
    threads: ThreadPoolExecutor

    def model(self, name: str, size: int) -> FakeModel:
        return FakeModel(self.machine, name, size)

    def use(self, name: str, size: int) -> AbstractContextManager[str]:
        return self.machine.using(self.residency, self.model(name, size))

    def touch(self, name: str, size: int) -> str:
        with self.use(name, size) as loaded:
            return loaded


MakeHouse = Callable[..., House]


@pytest.fixture
def make_house() -> Iterator[MakeHouse]:
    with ThreadPoolExecutor(4) as threads:

        def make(device: int, host: int, wait_s: float = PATIENCE_S, clock: Callable[[], float] = lambda: 0.0) -> House:
            budget = Budget(device, host)
            residency = Residency(budget, wait_s, clock)
            residency._changed = watched = Watched()  # noqa: SLF001  # to see a thread wait without sleeping
            return House(Machine(budget), residency, watched.waiting, threads)

        yield make


# One thread: what is where


def test_a_model_is_loaded_once_and_stays_on_the_device(make_house: MakeHouse) -> None:
    house = make_house(10, 10)
    assert {house.touch("a", 6) for _ in range(3)} == {"model a"}
    assert house.machine.did == ["load a", "to device a"]
    assert house.residency.on_device() == {"a"}


def test_a_model_is_shared_by_key_and_the_second_loader_is_not_called(make_house: MakeHouse) -> None:
    """The FLUX base of generate and of the detailers."""
    house = make_house(10, 10)

    def unwanted() -> FakeModel:
        pytest.fail("the second loader was called")

    with (
        house.residency.use("base", lambda: house.model("base", 6)) as one,
        house.residency.use("base", unwanted) as two,
    ):
        assert one is two


def test_the_least_recently_used_goes_to_host_memory_first(make_house: MakeHouse) -> None:
    house = make_house(device=10, host=20)
    for name in ("a", "b", "a", "c"):
        house.touch(name, 5)
    assert house.residency.on_device() == {"a", "c"}
    assert house.residency.on_host() == {"b"}


def test_from_host_memory_it_comes_back_without_being_loaded(make_house: MakeHouse) -> None:
    house = make_house(device=5, host=10)
    for name in ("a", "b", "a"):
        house.touch(name, 5)
    assert house.machine.did == [
        *("load a", "to device a"),
        *("to host a", "load b", "to device b"),
        *("to host b", "to device a"),
    ]


def test_where_host_memory_is_full_the_oldest_there_is_dropped(make_house: MakeHouse) -> None:
    """Room for one parked model beside the one that is loaded."""
    house = make_house(device=5, host=10)
    for name in ("a", "b", "c"):
        house.touch(name, 5)
    assert "drop a" in house.machine.did
    assert house.residency.on_device() == {"c"}
    assert house.residency.on_host() == {"b"}


def test_without_room_to_park_it_a_model_is_dropped_from_the_device(make_house: MakeHouse) -> None:
    house = make_house(device=5, host=5)
    house.touch("a", 5)
    house.touch("b", 5)
    assert house.machine.did == ["load a", "to device a", "drop a", "load b", "to device b"]


def test_nothing_is_put_out_in_vain(make_house: MakeHouse) -> None:
    """Putting out the idle one would not be enough beside the one in use."""
    house = make_house(device=10, host=10, wait_s=0.0)
    house.touch("idle", 4)
    with house.use("used", 6), pytest.raises(ResourceExhausted), house.use("large", 8):
        pytest.fail("there was no room")
    assert house.residency.on_device() == {"idle", "used"}
    assert house.residency.figures().drops == house.residency.figures().evictions_to_host == 0


def test_a_model_that_can_never_fit_is_refused_before_anything_is_loaded_or_put_out(make_house: MakeHouse) -> None:
    house = make_house(device=16_000_000_000, host=64_000_000_000)
    house.touch("vae", 300_000_000)
    before = house.residency.figures()
    fp8 = Smaller("fp8", 11_900_000_000, 11_900_000_000)
    flux = FakeModel(house.machine, "FLUX.1 [dev], bf16", 23_800_000_000, (fp8,))
    with pytest.raises(ResourceExhausted) as caught, house.residency.use("flux", lambda: flux):
        pytest.fail("it was given out")
    assert str(caught.value) == (
        "FLUX.1 [dev], bf16 needs 23.80 GB on the device, and 23.80 GB of host memory to be loaded; models may take "
        "16.00 GB there and 64.00 GB here. What would fit: fp8 (11.90 GB on the device, 11.90 GB in host memory)."
    )
    assert house.residency.figures() == before


def test_only_plans_that_fit_in_both_places_are_proposed(make_house: MakeHouse) -> None:
    """Taking turns by blocks keeps the whole model in host memory."""
    house = make_house(device=30, host=10)
    model = FakeModel(house.machine, "m", 20, (Smaller("by blocks", 1, 20), Smaller("fp8", 10, 10)))
    with (
        pytest.raises(ResourceExhausted, match=r"What would fit: fp8 \(") as caught,
        house.residency.use("m", lambda: model),
    ):
        pytest.fail("it was given out")
    assert "blocks" not in str(caught.value)


def test_where_no_plan_fits_it_says_so(make_house: MakeHouse) -> None:
    house = make_house(device=1, host=1)
    with pytest.raises(ResourceExhausted, match="No smaller plan of it would fit"), house.use("m", 2):
        pytest.fail("it was given out")


@pytest.mark.parametrize("deed", ["load a", "to device a"])
def test_an_error_in_loading_leaves_the_books_as_before(make_house: MakeHouse, deed: str) -> None:
    house = make_house(device=10, host=10)
    house.touch("b", 4)
    before = house.residency.figures()
    house.machine.fails.add(deed)
    with pytest.raises(OSError, match=f"{deed} failed"), house.use("a", 6):
        pytest.fail("it was given out")
    after = house.residency.figures()
    assert (after.device_bytes, after.host_bytes) == (before.device_bytes, before.host_bytes)
    assert after.loads - after.drops == 1
    assert house.residency.on_device() == {"b"}
    house.machine.fails.clear()
    assert house.touch("a", 6) == "model a"


class Half:
    """A model that is never brought whole."""

    name = "half"
    bytes = 6
    smaller: Sequence[Smaller] = ()

    def __init__(self, failing: str) -> None:
        self.failing = failing
        self.parts: list[weakref.ref[set[int]]] = []

    def load(self) -> str:
        return self._done("load")

    def to_device(self) -> None:
        self._done("to device")

    def to_host(self) -> None:
        self._done("to host")

    def drop(self) -> None:
        """Nothing of it is held here."""

    def _done(self, deed: str) -> str:
        part = {1, 2, 3}
        self.parts.append(weakref.ref(part))
        if deed == self.failing:
            raise MemoryError(f"no room beside {len(part)}")
        return deed


@pytest.mark.parametrize("deed", ["load", "to device"])
def test_what_was_loaded_or_moved_in_part_does_not_live_on_in_the_error(deed: str) -> None:
    """Whoever handles it holds on to the calls that failed, and they to half a model that the books say is gone."""
    half, residency = Half(deed), Residency(Budget(10, 10))
    with pytest.raises(MemoryError) as error, residency.use("half", lambda: half):
        pytest.fail("it was given out")
    assert error.value.__traceback__ is not None
    assert [part() for part in half.parts] == [None] * len(half.parts)


def test_after_an_error_the_next_loader_is_asked(make_house: MakeHouse) -> None:
    """It may have been given another file, or another precision."""
    house = make_house(device=10, host=10)
    house.machine.fails.add("load a")
    with pytest.raises(OSError, match="load a failed"), house.use("a", 6):
        pytest.fail("it was given out")
    house.machine.fails.clear()
    assert house.touch("a", 3) == "model a"
    assert house.residency.figures().device_bytes == 3


def test_who_waited_in_vain_has_not_used_the_model(make_house: MakeHouse) -> None:
    """It stays the first to be dropped."""
    house = make_house(device=5, host=15, wait_s=0.0)
    for name in ("a", "b", "c"):
        house.touch(name, 5)
    with house.use("c", 5), pytest.raises(ResourceExhausted), house.use("a", 5):
        pytest.fail("there was no room")
    house.touch("d", 5)
    assert house.residency.on_host() == {"b", "c"}


def test_what_fails_on_its_way_back_from_host_memory_is_let_go_of(make_house: MakeHouse) -> None:
    """It may lie in halves on either side."""
    house = make_house(device=5, host=10)
    house.touch("a", 5)
    house.touch("b", 5)
    house.machine.fails.add("to device a")
    with pytest.raises(OSError, match="to device a failed"), house.use("a", 5):
        pytest.fail("it was given out")
    assert "a" not in house.machine.host
    assert house.residency.on_device() == set()
    assert house.residency.on_host() == {"b"}


def test_what_cannot_be_moved_to_host_memory_is_dropped(
    make_house: MakeHouse, caplog: pytest.LogCaptureFixture
) -> None:
    house = make_house(device=5, host=10)
    house.touch("a", 5)
    house.machine.fails.add("to host a")
    assert house.touch("b", 5) == "model b"
    assert "drop a" in house.machine.did
    assert "a could not be moved to host memory" in caplog.text
    assert house.residency.figures().host_bytes == 0


def test_an_error_of_the_user_gives_the_model_back(make_house: MakeHouse) -> None:
    house = make_house(device=5, host=5, wait_s=0.0)
    with pytest.raises(ValueError, match="mine"), house.use("a", 5):
        raise ValueError("mine")
    assert house.touch("b", 5) == "model b"


def test_idle_models_can_be_dropped_all_at_once(make_house: MakeHouse) -> None:
    house = make_house(device=10, host=10)
    for name in ("a", "b", "c"):
        house.touch(name, 5)
    with house.use("c", 5):
        assert house.residency.drop_idle() == 2
        assert house.residency.on_device() == {"c"}
    assert house.machine.device == {"c": 5}
    assert house.machine.host == {}


def test_a_spoilt_model_goes_with_its_last_user_and_is_loaded_anew() -> None:
    residency = Residency(Budget(12, 12))
    with residency.use("half", lambda: Half("")):
        with residency.use("half", lambda: Half("")):
            residency.spoil("half")
        with residency.use("half", lambda: Half("")):
            assert (residency.figures().loads, residency.figures().drops) == (2, 0)
    assert residency.on_device() == {"half"}
    assert (residency.figures().drops, residency.figures().device_bytes) == (1, 6)


def test_the_figures_tell_what_was_done_and_how_long_it_took(make_house: MakeHouse) -> None:
    """By a clock that goes on by a second whenever it is read."""
    house = make_house(device=5, host=10, clock=map(float, count()).__next__)
    for name in ("a", "b", "a"):
        house.touch(name, 5)
    assert house.residency.figures() == Figures(
        loads=2,
        moves_to_device=3,
        evictions_to_host=2,
        bytes_loaded=10,
        bytes_to_device=15,
        bytes_to_host=10,
        seconds_loading=2.0,
        seconds_moving=5.0,
        device_bytes=5,
        host_bytes=5,
    )


def test_loads_and_evictions_are_told_in_the_log(make_house: MakeHouse, caplog: pytest.LogCaptureFixture) -> None:
    house = make_house(device=5_000_000_000, host=8_000_000_000, clock=map(float, count()).__next__)
    with caplog.at_level(logging.INFO, "shared.models.residency"):
        house.touch("a", 5_000_000_000)
        house.touch("b", 2_000_000_000)
    assert caplog.messages == [
        "a (5.00 GB) was loaded in 1.0 s",
        "a (5.00 GB) was moved to the device in 1.0 s",
        "a (5.00 GB) was moved to host memory in 1.0 s",
        "b (2.00 GB) was loaded in 1.0 s",
        "b (2.00 GB) was moved to the device in 1.0 s",
    ]


# Several threads


def test_two_who_ask_for_one_model_load_it_once(make_house: MakeHouse) -> None:
    house = make_house(10, 10)
    gate = house.machine.gates["load a"] = Gate()
    first = house.threads.submit(house.touch, "a", 6)
    assert gate.reached.wait(PATIENCE_S)
    second = house.threads.submit(house.touch, "a", 6)
    assert house.waiting.wait(PATIENCE_S)
    gate.opened.set()
    assert first.result(PATIENCE_S) == second.result(PATIENCE_S) == "model a"
    assert house.machine.did == ["load a", "to device a"]


def test_where_the_first_fails_to_load_the_second_tries(make_house: MakeHouse) -> None:
    house = make_house(10, 10)
    gate = house.machine.gates["load a"] = Gate()
    house.machine.fails.add("load a")
    first = house.threads.submit(house.touch, "a", 6)
    assert gate.reached.wait(PATIENCE_S)
    second = house.threads.submit(house.touch, "a", 6)
    assert house.waiting.wait(PATIENCE_S)
    after_failing = house.machine.gates["drop a"] = Gate()
    gate.opened.set()
    assert after_failing.reached.wait(PATIENCE_S)
    house.machine.fails.clear()
    after_failing.opened.set()
    with pytest.raises(OSError, match="load a failed"):
        first.result(PATIENCE_S)
    assert second.result(PATIENCE_S) == "model a"


def test_while_one_model_loads_another_can_be_used(make_house: MakeHouse) -> None:
    house = make_house(20, 20)
    house.touch("b", 5)
    gate = house.machine.gates["load a"] = Gate()
    loading = house.threads.submit(house.touch, "a", 6)
    assert gate.reached.wait(PATIENCE_S)
    assert house.touch("b", 5) == "model b"
    assert not loading.done()
    gate.opened.set()
    assert loading.result(PATIENCE_S) == "model a"


def test_who_finds_everything_in_use_waits_until_it_is_given_back(make_house: MakeHouse) -> None:
    house = make_house(device=10, host=20)
    with house.use("a", 6):
        waits = house.threads.submit(house.touch, "b", 6)
        assert house.waiting.wait(PATIENCE_S)
        assert not waits.done()
        assert house.residency.on_device() == {"a"}
    assert waits.result(PATIENCE_S) == "model b"
    assert house.residency.on_host() == {"a"}


def test_who_waits_too_long_is_told_what_is_in_use(make_house: MakeHouse) -> None:
    """By a clock that runs so fast that nobody really waits."""
    house = make_house(device=10, host=20, wait_s=30.0, clock=(60.0 * turn for turn in count()).__next__)
    with house.use("a", 6), pytest.raises(ResourceExhausted) as caught, house.use("b", 6):
        pytest.fail("there was no room")
    assert "within 30 s there was no room" in str(caught.value)
    assert "in use are a (0.00 GB)" in str(caught.value)
    assert house.touch("b", 6) == "model b"


def test_who_asks_for_a_model_that_is_just_put_out_gets_it_back(make_house: MakeHouse) -> None:
    house = make_house(device=10, host=20)
    house.touch("a", 6)
    gate = house.machine.gates["to host a"] = Gate()
    other = house.threads.submit(house.touch, "b", 6)
    assert gate.reached.wait(PATIENCE_S)
    back = house.threads.submit(house.touch, "a", 6)
    assert house.waiting.wait(PATIENCE_S)
    gate.opened.set()
    assert (other.result(PATIENCE_S), back.result(PATIENCE_S)) == ("model b", "model a")
    assert house.residency.figures().loads == 2


def test_what_one_thread_puts_out_another_does_not_put_out_again(make_house: MakeHouse) -> None:
    house = make_house(device=10, host=20)
    house.touch("a", 6)
    gate = house.machine.gates["to host a"] = Gate()
    one = house.threads.submit(house.touch, "b", 6)
    assert gate.reached.wait(PATIENCE_S)
    other = house.threads.submit(house.touch, "c", 6)
    assert house.waiting.wait(PATIENCE_S)
    gate.opened.set()
    assert {one.result(PATIENCE_S), other.result(PATIENCE_S)} == {"model b", "model c"}
    assert house.machine.did.count("to host a") == 1


@pytest.mark.parametrize("seed", range(3))
def test_many_threads_never_exceed_the_budget_and_all_are_served(make_house: MakeHouse, seed: int) -> None:
    """The machine itself checks what lies in it at every move, and that nobody's model is taken away."""
    house = make_house(device=12, host=9, clock=map(float, count()).__next__, wait_s=1e9)
    models = [
        FakeModel(house.machine, name, size, strict=False) for name, size in zip("abcdef", range(2, 8), strict=True)
    ]

    def work(number: int) -> int:
        rng = Random(100 * seed + number)
        for model in rng.choices(models, k=60):
            with house.machine.using(house.residency, model) as loaded:
                assert loaded == f"model {model.name}"
                assert model.name in house.machine.device
        return 60

    assert sum(house.threads.map(work, range(4), timeout=PATIENCE_S)) == 240
    check_books(house.residency, house.machine)


def check_books(residency: Residency, machine: Machine) -> None:
    """What the residency says of itself is what lies in the machine, and it adds up."""
    figures = residency.figures()
    assert residency.on_device() == machine.device.keys()
    assert residency.on_host() == machine.host.keys()
    assert figures.device_bytes == sum(machine.device.values()) <= machine.budget.device_bytes
    in_host_memory = sum(machine.host.values()) + sum(machine.kept.values())
    assert figures.host_bytes == in_host_memory <= machine.budget.host_bytes
    assert figures.loads - figures.drops == len(machine.device) + len(machine.host)
    assert figures.bytes_loaded - figures.bytes_dropped == sum(machine.sizes.values())
    done = [deed.rpartition(" ")[0] for deed in machine.did if deed not in machine.fails]
    assert figures.evictions_to_host == done.count("to host")
    assert figures.moves_to_device == done.count("to device")


SIZES = dict(zip("abcdef", (1, 2, 3, 4, 6, 9), strict=True))
IN_PARTS = {"g": (6, 2, 5), "h": (4, 1, 4)}
"""What they take in all, on the device, and of host memory meanwhile."""
NEEDS = {name: (size, size, 0) for name, size in SIZES.items()} | IN_PARTS
NAMES = st.sampled_from(sorted(NEEDS))


class AnyOrder(RuleBasedStateMachine):
    """Models used, grown, given back, dropped and failing to load in any order.

    The Machine checks at every move that the budget holds, that nobody's model goes and that the oldest goes first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(Budget(device_bytes=10, host_bytes=9))
        self.residency = Residency(self.machine.budget, wait_s=0.0, clock=lambda: 0.0)
        self.held: list[ExitStack] = []
        self.failed = 0

    def has_room(self, name: str) -> bool:
        """Idle models make way; those in use do not."""
        if name in self.machine.device:
            return True
        in_use = set(self.machine.pinned)
        whole, device, _ = NEEDS[name]
        if name in self.machine.host:
            device, whole = device + self.machine.sizes[name] - whole, 0
        return (
            sum(self.machine.device[other] for other in in_use) + device <= 10
            and sum(self.machine.kept.get(other, 0) for other in in_use) + whole <= 9
        )

    def model(self, name: str) -> FakeModel:
        if name in IN_PARTS:
            whole, device, host = IN_PARTS[name]
            return FakeInParts(self.machine, name, whole, device_bytes=device, host_bytes=host)
        return FakeModel(self.machine, name, SIZES[name])

    @rule(name=NAMES)
    def use(self, name: str) -> None:
        stack = ExitStack()
        model = self.model(name)
        if self.has_room(name):
            assert stack.enter_context(self.machine.using(self.residency, model)) == f"model {name}"
            self.held.append(stack)
        else:
            before = self.residency.figures()
            with pytest.raises(ResourceExhausted):
                stack.enter_context(self.machine.using(self.residency, model))
            assert self.residency.figures() == before

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1))).close()

    @precondition(lambda self: self.machine.pinned)
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        """An adapter is added to a model in use, or taken out."""
        name = data.draw(st.sampled_from(sorted(set(self.machine.pinned))))
        grown = self.machine.sizes[name] - NEEDS[name][0]
        more = data.draw(st.sampled_from([1, 2, *([-grown] if grown else [])]))
        in_use = set(self.machine.pinned)
        fits = sum(self.machine.device[one] for one in in_use) + more <= 10
        if name in IN_PARTS:
            fits &= sum(self.machine.kept.get(one, 0) for one in in_use) + more <= 9
        if not fits:
            before = self.residency.figures()
            with pytest.raises(ResourceExhausted):
                self.residency.grow(name, more)
            assert self.residency.figures() == before
            return
        self.residency.grow(name, more)
        self.machine.sizes[name] += more
        self.machine.put(self.machine.device, name, self.machine.device[name] + more)
        if name in IN_PARTS:
            self.machine.kept[name] += more

    @rule(name=NAMES)
    def fail_to_load(self, name: str) -> None:
        known = name in self.machine.device or name in self.machine.host
        if known or not self.has_room(name):
            return
        self.machine.fails.add(f"load {name}")
        model = self.model(name)
        with pytest.raises(OSError, match="failed"), self.residency.use(name, lambda: model):
            pytest.fail("it was given out")
        self.machine.fails.clear()

    @rule()
    def drop_idle(self) -> None:
        self.residency.drop_idle()
        assert self.machine.device.keys() == set(self.machine.pinned)
        assert not self.machine.host

    @invariant()
    def the_books_are_right(self) -> None:
        check_books(self.residency, self.machine)
        assert set(self.machine.pinned) <= self.residency.on_device()

    def teardown(self) -> None:
        for stack in self.held:
            stack.close()


TestAnyOrder = AnyOrder.TestCase


# How much memory there is

GB = 10**9
FLUX_1 = Footprint(
    weights=23_802_816_640, largest_block=679_662_592, largest_layer=113_283_072, outside_blocks=128_249_984
)
"""FLUX.1 [dev] in bf16; tests/engines/test_flux_loading.py reads these figures off diffusers' own model."""
BESIDE = 1_100_000_000
"""PuLID's attentions and the autoencoder."""


@pytest.mark.parametrize(
    ("device", "host", "plan"),
    [
        (74, 100, Plan.RESIDENT),
        (25, 25, Plan.RESIDENT),
        (18, 60, Plan.GROUP_OFFLOAD),
        (3, 60, Plan.GROUP_OFFLOAD),
        (2, 60, Plan.SEQUENTIAL),
    ],
)
def test_the_fastest_plan_that_fits(device: int, host: int, plan: Plan) -> None:
    assert plan_for("FLUX", FLUX_1, BESIDE, Budget(device * GB, host * GB)) is plan


def test_a_slower_plan_can_be_asked_for() -> None:
    assert plan_for("FLUX", FLUX_1, BESIDE, Budget(74 * GB, 100 * GB), Plan.GROUP_OFFLOAD) is Plan.GROUP_OFFLOAD


@pytest.mark.parametrize(("device", "host"), [(74, 16), (1, 60), (1, 1)])
def test_what_fits_by_no_plan_is_refused_with_what_each_needs(device: int, host: int) -> None:
    said = rf"FLUX does not fit: models may take {device}\.00 GB on the device and {host}\.00 GB of host memory\. "
    plans = r"resident needs 24\.90 GB and 24\.90 GB; group offload needs 2\.59 GB and 24\.90 GB; sequential"
    with pytest.raises(ResourceExhausted, match=said + plans):
        plan_for("FLUX", FLUX_1, BESIDE, Budget(device * GB, host * GB))


def test_what_is_halved_only_once_it_is_loaded_needs_the_whole_in_host_memory() -> None:
    halved = FLUX_1.model_copy(update={"weights": 12 * GB, "to_load": 24 * GB})
    assert needs(halved, 0)[Plan.RESIDENT] == Need(device_bytes=12 * GB, host_bytes=24 * GB)


def test_a_process_leaves_the_steps_their_working_memory() -> None:
    host = Memory(total_bytes=120 * GB, free_bytes=100 * GB)
    card = Memory(total_bytes=80 * GB, free_bytes=79 * GB)
    assert process.budget(card, host) == Budget(73 * GB, 60 * GB)
    assert process.budget(Memory(total_bytes=4 * GB, free_bytes=3 * GB), host).device_bytes == 0


def test_on_a_cpu_both_places_share_one_memory() -> None:
    assert process.budget(None, Memory(total_bytes=120 * GB, free_bytes=100 * GB)) == Budget(30 * GB, 30 * GB)


def test_a_process_has_one_residency_and_a_test_can_put_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_process", [])
    monkeypatch.setenv(DEVICE, "cpu")
    assert process.figures() is None
    own = Residency(Budget(1, 1))
    with process.use_residency(own):
        assert process.residency() is own
        assert process.figures() == Figures()
    assert process.figures() is None
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: process.residency(), range(8)))
    assert {id(one) for one in found} == {id(process.residency())}
    with process.use_residency(own):
        assert process.residency() is own
    assert process.residency() is found[0]


def group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_a_containers_limit_counts_in_control_groups_version_2(tmp_path: Path) -> None:
    """The parent's is the tighter one; file cache that can be reclaimed is free."""
    membership = tmp_path / "membership"
    membership.write_text("0::/pod/worker\n")
    used = {"memory.current": "400000", "memory.stat": "anon 100\ninactive_file 150000\n"}
    group(tmp_path / "cg/pod/worker", {"memory.max": "max\n", **used})
    group(tmp_path / "cg/pod", {"memory.max": "1000000\n", **used})
    memory = host_memory(tmp_path / "cg", membership)
    assert (memory.total_bytes, memory.free_bytes) == (1_000_000, 750_000)


def test_a_containers_limit_counts_in_control_groups_version_1(tmp_path: Path) -> None:
    """The kernel tells a path that is not mounted in the container: the mount's root is the container's group."""
    membership = tmp_path / "membership"
    membership.write_text("5:devices:/\n4:memory:/docker/0a1b\n0::/\n")
    stat = "inactive_file 7\ntotal_inactive_file 150000\n"
    limits = {"memory.limit_in_bytes": "1000000\n", "memory.usage_in_bytes": "400000\n", "memory.stat": stat}
    group(tmp_path / "cg/memory", limits)
    memory = host_memory(tmp_path / "cg", membership)
    assert (memory.total_bytes, memory.free_bytes) == (1_000_000, 750_000)


def test_without_control_groups_the_machine_is_what_there_is(tmp_path: Path) -> None:
    memory = host_memory(tmp_path, tmp_path / "no-such-file")
    assert 0 < memory.free_bytes <= memory.total_bytes


def test_without_torch_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.models.memory.find_spec", lambda name: None)
    assert device_memory() is None


# A GPU that was asked for

WITHOUT_CUDA = TorchFacts(version="2.13.0+cpu", cuda_build=None, devices=0)
WITH_ONE_GPU = TorchFacts(version="2.13.0", cuda_build="12.8", devices=1)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0"])
def test_a_device_that_is_there_is_given(name: str) -> None:
    assert require_device(name, WITH_ONE_GPU) == name
    assert require_device("cpu", WITHOUT_CUDA) == "cpu"


@pytest.mark.parametrize(
    ("name", "facts", "said"),
    [
        ("cuda", None, "torch is not installed"),
        ("cpu", None, "torch is not installed"),
        ("cuda", WITHOUT_CUDA, r"torch 2\.13\.0\+cpu is a build without CUDA"),
        ("cuda", WITH_ONE_GPU.model_copy(update={"devices": 0}), "finds 0 CUDA devices"),
        ("cuda:1", WITH_ONE_GPU, "finds 1 CUDA devices"),
        ("gpu", WITH_ONE_GPU, "no device gpu"),
        ("cuda:", WITH_ONE_GPU, "no device cuda:"),
        ("cuda:x", WITH_ONE_GPU, "no device cuda:x"),
        ("cuda:-1", WITH_ONE_GPU, "no device cuda:-1"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_with_its_cause(name: str, facts: TorchFacts | None, said: str) -> None:
    with pytest.raises(Permanent, match=said):
        require_device(name, facts)


def test_a_session_with_its_provider_passes() -> None:
    check_providers(["CUDAExecutionProvider", "CPUExecutionProvider"], "CUDAExecutionProvider")


@pytest.mark.parametrize("providers", [["CPUExecutionProvider"], []])
def test_a_session_that_fell_back_in_silence_is_an_error(providers: list[str]) -> None:
    with pytest.raises(Permanent, match=f"runs with {providers[0] if providers else 'none'}: it fell back in silence"):
        check_providers(providers, "CUDAExecutionProvider")
