"""What every suite over a job store starts from."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import pytest

from shared.jobs.open import open_job_store
from shared.jobs.port import Job, JobStore

T = TypeVar("T")


class StoreSuite:
    """Subclasses give `url`: an empty database."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def store(self, url: str) -> Iterator[JobStore]:
        store = open_job_store(url)
        yield store
        store.close()


def at_once(act: Callable[[int], T], threads: int) -> list[T]:
    """What `act` returns for 0 … threads - 1, all started at the same moment."""
    start = Barrier(threads)

    def run(number: int) -> T:
        start.wait()
        return act(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


def ids(jobs: tuple[Job, ...]) -> list[str]:
    """The jobs' ids in their order."""
    return [found.job_id for found in jobs]


def ignore(_: object) -> None:
    """A function to hand in where nothing is to be done."""
