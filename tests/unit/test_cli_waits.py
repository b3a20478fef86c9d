"""What the command line says while the embedded pipeline waits for room, and after its user has given up."""

import threading
from typing import Any, NoReturn

import pytest

from doctor_image_gen.cli import generate
from doctor_image_gen.cli.waits import AGAIN_AFTER_S, GATEWAY, Waits
from doctor_image_gen.client import Client
from doctor_image_gen.generator import DoctorImageGenerator, _call_off
from services.gateway import consumer
from shared.broker.embedded import EmbeddedBroker
from shared.broker.port import Delivery, Outgoing
from shared.broker.topology import JOURNAL, queue_name, topology
from shared.contracts.errors import DoctorGenError, Permanent, ResourceExhausted, Transient
from shared.contracts.request import JobRequest, PhotoRef
from tests.unit.typed import Said, Type

PATIENCE_S = 10.0
QUEUE = queue_name(JOURNAL)
FULL = "The job store does not answer as it should: database or disk is full."
TOLD = f"waiting for room: {FULL} Free some there, and it goes on. Ctrl-C gives it up.\n"
PHOTO = PhotoRef(key="inbox/a.png", sha256="0" * 64)
REQUEST = JobRequest(job_id="job-7", subject="x", photos=(PHOTO,), scenario="speaker")


def wait_in_the_gateway(error: DoctorGenError) -> None:
    """Have a part of the gateway wait, as it does in the embedded pipeline: twice, then it can go on."""
    broker = EmbeddedBroker()
    broker.declare(topology())
    tried: list[Delivery] = []
    done = threading.Event()

    def work(delivery: Delivery) -> None:
        tried.append(delivery)
        if len(tried) < 3:
            raise error
        done.set()

    loop = consumer.Consumer(broker, (QUEUE,), work)
    thread = threading.Thread(target=loop.run)
    thread.start()
    broker.publish(Outgoing("", QUEUE, b"x", "1"))
    assert done.wait(PATIENCE_S)
    loop.stop()
    thread.join(PATIENCE_S)
    broker.close()


class Waiting(DoctorImageGenerator):
    """Its gateway waits; then its job comes to nothing."""

    error: DoctorGenError = ResourceExhausted(FULL)

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        wait_in_the_gateway(self.error)
        raise Permanent("job job-7 is dead")


class Passing(Waiting):
    """Its gateway waits for something that passes by itself."""

    error = Transient("The job store is locked.")


class Interrupted(DoctorImageGenerator):
    """Its user presses Ctrl-C, and the job cannot be called off."""

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        interruption = KeyboardInterrupt()
        interruption.add_note("it could not be called off (full).")
        raise interruption


class Deaf(Client):
    """Nobody notes what it cancels."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    def follow_runs(self, *_: Any) -> NoReturn:
        raise Transient("1 of 1 jobs did not end within 10.0 seconds")


@pytest.mark.parametrize("json", [[], ["--json"]])
def test_who_waits_is_told_for_what_and_how_to_end_it(
    type_in: Type, monkeypatch: pytest.MonkeyPatch, json: list[str]
) -> None:
    """Once, however often it is tried; and not where a program reads."""
    monkeypatch.setattr(generate, "DoctorImageGenerator", Waiting)
    said = type_in("generate", "--doctor-image", "front.jpg", "--scenario", "consultant", *json)
    assert said == Said(1, "", f"{TOLD}doctorgen: job job-7 is dead\n")


def test_what_passes_by_itself_is_no_news(type_in: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "DoctorImageGenerator", Passing)
    said = type_in("generate", "--doctor-image", "front.jpg", "--scenario", "consultant")
    assert said.err == "doctorgen: job job-7 is dead\n"


def test_who_waits_long_is_told_again() -> None:
    said: list[str] = []
    times = iter((0.0, AGAIN_AFTER_S - 1, AGAIN_AFTER_S))
    waits = Waits(said.append, lambda: next(times))
    consumer.log.addHandler(waits)
    try:
        for failures in (1, 2, 3):
            consumer.log.warning("a message of %s has to wait (%d): %s", QUEUE, failures, ResourceExhausted(FULL))
    finally:
        consumer.log.removeHandler(waits)
    assert [f"{line}\n" for line in said] == [TOLD, TOLD]
    assert consumer.log.name.startswith(GATEWAY)


def test_a_job_that_could_not_be_called_off_is_not_told_as_called_off(
    type_in: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "DoctorImageGenerator", Interrupted)
    said = type_in("generate", "--doctor-image", "front.jpg", "--scenario", "consultant")
    assert said == Said(130, "", "interrupted: it could not be called off (full).\n")


def test_an_interruption_says_where_it_could_not_be_noted() -> None:
    deaf, interruption = Deaf(), KeyboardInterrupt()
    _call_off(deaf, [REQUEST], interruption)
    assert deaf.cancelled == ["job-7"]
    (note,) = interruption.__notes__
    assert note == (
        "it could not be called off (1 of 1 jobs did not end within 10.0 seconds). "
        "The next command that runs the pipeline on this data folder may go on with what was filed."
    )
