"""Which step is computed next, and how the workers of one process take turns on its device."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, count
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.errors import Cancelled
from shared.worker.turn import Turnstile, Waiting, prefer, without
from shared.worker.watch import Watch

FLUX, FACE = frozenset({"flux"}), frozenset({"inswapper", "buffalo_l"})
ROUNDS = st.lists(
    st.tuples(st.lists(st.sampled_from([FLUX, FACE, FLUX | FACE, frozenset[str]()]), max_size=3), st.booleans()),
    min_size=1,
    max_size=40,
)


def test_the_step_whose_models_are_there_comes_first() -> None:
    waiting = (Waiting("swap", FACE), Waiting("generate", FLUX))
    assert prefer(waiting, {"flux"}, bound=3) == 1


def test_where_nobodys_models_are_there_the_oldest_comes_first() -> None:
    waiting = (Waiting("both", FLUX | FACE), Waiting("generate", FLUX))
    assert prefer(waiting, set(), bound=3) == 0


def test_a_step_that_was_passed_over_often_enough_comes_first() -> None:
    waiting = (Waiting("swap", FACE, passed_over=3), Waiting("generate", FLUX))
    assert prefer(waiting, {"flux"}, bound=3) == 0


def test_with_a_bound_of_0_the_oldest_always_comes_first() -> None:
    assert prefer((Waiting("swap", FACE), Waiting("generate", FLUX)), {"flux"}, bound=0) == 0


@given(ROUNDS, st.integers(0, 4))
def test_nobody_is_passed_over_more_often_than_the_bound(
    rounds: list[tuple[list[frozenset[str]], bool]], bound: int
) -> None:
    """Steps come in while others are done; the test counts by itself who was passed over."""
    waiting: tuple[Waiting, ...] = ()
    passes: dict[str, int] = {}
    names = map(str, count())
    for arrivals, flux_is_there in rounds:
        new = [Waiting(next(names), models) for models in arrivals]
        waiting += tuple(new)
        passes |= {step.name: 0 for step in new}
        if not waiting:
            continue
        chosen = prefer(waiting, FLUX if flux_is_there else FACE, bound)
        for older in waiting[:chosen]:
            passes[older.name] += 1
        waiting = without(waiting, chosen)
        assert all(step.passed_over == passes[step.name] for step in waiting)
        assert all(times <= bound for times in passes.values())


@given(ROUNDS)
def test_a_step_is_only_preferred_where_that_spares_a_move(
    rounds: list[tuple[list[frozenset[str]], bool]],
) -> None:
    waiting = tuple(
        Waiting(str(place), models) for place, models in enumerate(chain.from_iterable(new for new, _ in rounds))
    )
    if waiting:
        chosen = prefer(waiting, FLUX, bound=5)
        assert chosen == 0 or waiting[chosen].models <= FLUX
        assert not any(older.models <= FLUX for older in waiting[:chosen])


# The turnstile

PATIENCE_S = 10.0
BASE, REFINER = frozenset({"base"}), frozenset({"refiner"})


class House:
    """A turnstile, what is on its device, and steps that each stay there until they are told to leave."""

    def __init__(self, *, bound: int = 1, linger_s: float = 0.0) -> None:
        self.resident: frozenset[str] = frozenset()
        self.now = 0.0
        self.turns: SimpleQueue[str] = SimpleQueue()
        self.turnstile = Turnstile(
            lambda: self.resident, bound=bound, linger_s=linger_s, look_every_s=0.001, clock=lambda: self.now
        )
        self.threads = ThreadPoolExecutor(8)

    def comes(self, name: str, models: frozenset[str]) -> "Future[None]":
        """A step comes; returns once it waits, or has its turn."""
        there = threading.Event()

        def step() -> None:
            self.turnstile.enter(models, there.set)
            there.set()
            self.turns.put(name)

        coming = self.threads.submit(step)
        assert there.wait(PATIENCE_S)
        return coming

    def next(self) -> str:
        return self.turns.get(timeout=PATIENCE_S)


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.threads.shutdown()


def test_one_step_at_a_time_and_the_one_whose_models_are_there_first(house: House) -> None:
    """Within the bound: passed over once, the older step is next whatever is on the device."""
    house.comes("first", BASE)
    assert house.next() == "first"
    house.resident = BASE
    for name, models in (("refine", REFINER), ("hands", BASE), ("face", BASE)):
        house.comes(name, models)
    assert house.turns.empty(), "the device is taken"
    order = []
    for _ in range(3):
        house.turnstile.leave()
        order.append(house.next())
    assert order == ["hands", "refine", "face"]
    assert (house.turnstile.figures().turns, house.turnstile.figures().preferred) == (4, 1)


def test_whoever_no_longer_waits_leaves_the_line(house: House) -> None:
    house.comes("first", BASE)

    def no_longer() -> None:
        raise Cancelled("job-2 was cancelled")

    with pytest.raises(Cancelled):
        house.turnstile.enter(BASE, no_longer)
    house.comes("third", BASE)
    house.turnstile.leave()
    assert [house.next(), house.next()] == ["first", "third"]


def test_the_device_is_kept_a_moment_for_the_next_step_with_the_same_models() -> None:
    """The worker that just left it is still storing what it made; without the pause two stages would alternate."""
    house = House(linger_s=5.0)
    house.comes("generate 1", BASE)
    assert house.next() == "generate 1"
    house.resident = BASE
    refine = house.comes("refine", REFINER)
    house.turnstile.leave()
    house.comes("generate 2", BASE)
    assert house.next() == "generate 2"
    house.turnstile.leave()
    assert house.next() == "refine", "it was passed over once, which is the bound"
    refine.result(PATIENCE_S)
    house.threads.shutdown()


def test_a_device_that_stays_idle_goes_to_the_step_that_must_move_models() -> None:
    house = House(linger_s=5.0)
    house.comes("generate", BASE)
    assert house.next() == "generate"
    house.resident = BASE
    house.turnstile.leave()
    house.comes("refine", REFINER)
    assert house.turns.empty()
    house.now = 5.0
    assert house.next() == "refine"
    house.threads.shutdown()


def test_a_watch_leaves_waiting_out_of_a_steps_deadline() -> None:
    """In all 100 s pass, 97 of them in the line."""
    seconds = 0.0
    watch = Watch(lambda: seconds)
    seconds = 1.0
    with watch.waiting():
        seconds = 98.0
        assert (watch.worked_s(), watch.waited_s()) == (1.0, 97.0)
    seconds = 100.0
    assert (watch.worked_s(), watch.waited_s()) == (3.0, 97.0)
    with pytest.raises(TimeoutError):
        watch.result(Future[None](), limit_s=3.0)
