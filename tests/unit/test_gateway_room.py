"""Back-pressure: how many jobs may wait, and how long a caller is told to wait."""

import pytest

from services.gateway.room import COUNT_AGAIN_S, Pace, Room, seconds_until_room


@pytest.mark.parametrize(
    ("surplus", "releases", "at", "seconds"),
    [
        (1, [], 100.0, 60),
        (1, [0.0], 700.0, 60),
        (5, [0.0, 1.0, 2.0, 3.0], 4.0, 5),
        (1, [0.0, 1.0, 2.0, 3.0], 4.0, 1),
        (1, [4.0], 4.0, 1),
        (3, [0.0, 10.0], 20.0, 30),
        (10_000_000, [0.0, 10.0], 20.0, 3600),
    ],
    ids=["no-experience", "none-lately", "one-a-second", "soonest", "at-once", "slow", "longest"],
)
def test_the_wait_follows_from_the_pace_of_the_recent_releases(
    surplus: int, releases: list[float], at: float, seconds: int
) -> None:
    assert seconds_until_room(surplus, releases, at) == seconds


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Counted:
    """A job store that knows how many jobs wait, and how often it was asked."""

    def __init__(self, **waiting: int) -> None:
        self.numbers = waiting
        self.asked = 0

    def waiting(self, lane: str | None = None, *, caller: str | None = None) -> int:
        self.asked += 1
        return sum(self.numbers.values()) if caller is None else self.numbers.get(caller, 0)


def room(jobs: Counted, clock: Clock, limit: int = 10, own: int = 4) -> tuple[Room, Pace]:
    pace = Pace(clock)
    return Room(jobs, limit, own, pace, clock), pace  # type: ignore[arg-type] # all that Room asks of a job store


def test_there_is_room_up_to_the_limit_of_all_and_of_each_caller() -> None:
    narrow, _ = room(Counted(acme=3, other=6), Clock())
    assert narrow.wait_s("acme") is None
    assert narrow.wait_s("acme", wanted=2) is not None
    narrow.taken("acme")
    assert narrow.wait_s("acme") is not None
    assert narrow.wait_s("third") is not None, "ten wait in all by now"


def test_a_caller_waits_by_its_own_pace_where_only_its_own_limit_is_reached() -> None:
    clock = Clock()
    narrow, pace = room(Counted(acme=4, other=1), clock)
    for number in range(8):
        clock.now = number / 10
        pace.released("other" if number % 4 else "acme")
    clock.now = 0.8
    assert narrow.wait_s("acme", wanted=2) == 1
    assert narrow.wait_s("acme", wanted=4) == 2, "two of its jobs were released in 0.8 seconds, four have to be"


def test_the_job_store_is_asked_once_a_second_however_many_requests_come() -> None:
    clock, jobs = Clock(), Counted(acme=1)
    narrow, _ = room(jobs, clock)
    for _ in range(100):
        narrow.wait_s("acme")
    assert jobs.asked == 2
    clock.now = COUNT_AGAIN_S
    jobs.numbers["acme"] = 9
    assert narrow.wait_s("acme") is not None
    assert jobs.asked == 4
