"""The I/O thread of the RabbitMQ adapter survives what goes wrong in it."""

import threading
import time
from concurrent.futures import Future
from functools import partial
from threading import Event

import pytest

from shared.broker.rabbitmq.io_thread import IoThread


def test_jobs_run_in_order_in_the_thread() -> None:
    io = IoThread(lambda _reason: None)
    try:
        ran: list[int] = []
        done: Future[int | None] = Future()
        for number in range(100):
            io.submit(partial(ran.append, number))
        io.submit(lambda: done.set_result(threading.current_thread().ident))
        assert done.result(5) != threading.current_thread().ident
        assert ran == list(range(100))
    finally:
        io.stop()


def test_a_job_that_raises_is_reported_and_the_rest_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """The connections are in doubt then, so their owner is told; jobs that waited still run."""
    crashes: list[str] = []
    io = IoThread(crashes.append)
    try:
        done: Future[str] = Future()
        io.submit(lambda: int("no number"))
        io.submit(lambda: done.set_result("ran"))
        assert done.result(5) == "ran"
        assert crashes == ["an unexpected ValueError in the I/O thread"]
        assert "unexpected error" in caplog.text
    finally:
        io.stop()


def test_a_thread_that_hangs_grows_old_and_recovers() -> None:
    """What a probe sees: age within about a second while it runs, more while a job holds it up."""
    io = IoThread(lambda _reason: None)
    try:
        release = Event()
        io.submit(lambda: release.wait(10))
        until = time.monotonic() + 5
        while io.age_s < 1.5:
            assert time.monotonic() < until
            time.sleep(0.05)
        release.set()
        while io.age_s > 0.5:
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        io.stop()
