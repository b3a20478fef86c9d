"""Which step is computed next, and how the workers of one process take turns on its device."""

from itertools import chain, count

from hypothesis import given
from hypothesis import strategies as st

from shared.worker.turn import Waiting, prefer, without

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
