"""What the command line says where the machine or a server is in the way: one sentence with the mend, no traceback."""

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from doctor_image_gen.cli import catalogues, generate
from doctor_image_gen.generator import DoctorImageGenerator, Listener
from doctor_image_gen.result import Generated
from shared.contracts.base import now
from shared.contracts.errors import Permanent
from shared.contracts.event import Event
from tests.unit.typed import Said, Type

NOBODY_LISTENS = "127.0.0.1:1"


def test_a_folder_that_cannot_be_made_is_named_without_a_traceback(type_in: Type, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    said = type_in("models", "tiny", str(tmp_path / "file" / "models"))
    assert (said.status, said.out) == (1, "")
    assert said.err == f"doctorgen: {tmp_path}/file/models: Not a directory. Mend that, or name another place.\n"


def test_a_full_disk_is_told_in_a_sentence(type_in: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(catalogues, "recipes", full)
    told = "doctorgen: No space left on device. Mend that, or name another place.\n"
    assert type_in("recipes") == Said(1, "", told)


def test_what_is_no_matter_of_files_keeps_its_traceback(type_in: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> NoReturn:
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(catalogues, "recipes", broken)
    with pytest.raises(ConnectionResetError):
        type_in("recipes")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("storage.url", f"s3://bucket?endpoint={NOBODY_LISTENS}&secure=false"),
        ("jobs_url", f"postgresql://user:hush@{NOBODY_LISTENS}/jobs"),
    ],
)
def test_a_server_that_does_not_answer_is_told_with_the_setting_that_names_it(
    type_in: Type, monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    monkeypatch.setenv(f"DOCTORGEN_{setting.replace('.', '__').upper()}", value)
    if setting == "storage.url":
        monkeypatch.setenv("DOCTORGEN_STORAGE__ACCESS_KEY", "user")
        monkeypatch.setenv("DOCTORGEN_STORAGE__SECRET_KEY", "hush")
    said = type_in("status")
    assert (said.status, said.out) == (1, "")
    assert NOBODY_LISTENS.partition(":")[0] in said.err
    assert said.err.endswith(f". Check the setting {setting}, and that the server runs.\n")
    assert "hush" not in said.err


def test_a_broker_url_that_is_none_is_told_before_anything_else_is_asked_for(
    type_in: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that a bucket has no keys: that follows from the broker's URL alone."""
    monkeypatch.setenv("DOCTORGEN_BROKER_URL", "http://localhost/")
    said = type_in("status")
    assert said.status == 2
    assert said.err.startswith("doctorgen: broker_url: the scheme is 'http'. ")


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("--attempts", "-1", "it is at least 1 and at most 8"),
        ("--seed", "4294967296", "it is at least 0 and less than 4294967296"),
        ("--deadline", "0", "it is more than 0 and at most 2592000"),
        ("--max-cost", "-1", "it is at least 0"),
        ("--engine", "Flux", "it has lower-case letters, digits, '_' and '-', at most 64, and begins with a letter or"),
    ],
)
def test_what_is_out_of_bounds_is_told_what_is_allowed(type_in: Type, option: str, value: str, allowed: str) -> None:
    """Both bounds, whichever was passed; not the name of a class of ours."""
    said = type_in("generate", "--doctor-image", "front.jpg", "--scenario", "consultant", option, value)
    assert said.status == 2
    assert f"Correct it and try again; {allowed}" in said.err
    assert "GenerationOptions" not in said.err


class Interrupted(DoctorImageGenerator):
    """Its user presses Ctrl-C after the first event."""

    def generate(self, *_: Any, on_event: Listener | None = None, **__: Any) -> NoReturn:
        assert on_event is not None
        told = Event(
            event_id="1", job_id="job-7", subject="dr-x", caller="me", worker="gateway", kind="accepted", at=now()
        )
        on_event(told)
        raise KeyboardInterrupt


class InterruptedLate(Interrupted):
    """Its user presses Ctrl-C when one of two jobs has ended."""

    def generate(self, *arguments: Any, on_event: Listener | None = None, **words: Any) -> NoReturn:
        assert on_event is not None
        for kind in ("accepted", "done"):
            on_event(
                Event(event_id="0", job_id="job-6", subject="x", caller="me", worker="gateway", kind=kind, at=now())
            )
        super().generate(*arguments, on_event=on_event, **words)


class InterruptedEarly(DoctorImageGenerator):
    """Its user presses Ctrl-C before anything is heard of the job."""

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt


class Lacking(DoctorImageGenerator):
    """Its job died for want of a weight."""

    error = "job job-7 is dead: a.onnx is missing. `doctorgen models download a` brings it. Mend it."

    def generate(self, *_: Any, **__: Any) -> NoReturn:
        raise Permanent(self.error)

    def batch_generate(self, *_: Any, **__: Any) -> list[Generated]:
        return [Generated(status="dead", output_path=None, error=self.error)] * 2


def test_a_job_that_died_for_want_of_a_weight_is_told_with_the_list_of_all(
    type_in: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its user finds out one weight at a time, job by job."""
    monkeypatch.setattr(generate, "DoctorImageGenerator", Lacking)
    said = type_in("generate", "--doctor-image", "front.jpg", "--scenario", "consultant", "--engine", "flux")
    assert said.status == 1
    assert said.err.endswith("Mend it. `doctorgen models check portrait --engine flux` names all that is lacking.\n")


def test_the_weights_of_a_worker_elsewhere_are_looked_for_there(type_in: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCTORGEN_BROKER_URL", "amqp://host/")
    monkeypatch.setattr(generate, "DoctorImageGenerator", Lacking)
    said = type_in("generate", "--doctor-image", "front.jpg", "--scenario", "consultant")
    assert said.err.endswith("names all that is lacking, on the machine of the worker.\n")


def test_a_batch_s_lacking_weights_are_pointed_to_once(type_in: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "DoctorImageGenerator", Lacking)
    said = type_in("generate", "--doctor-image", "front.jpg", "--batch", "consultant", "speaker")
    assert said.status == 1
    assert said.out.count("a.onnx is missing.") == 2
    assert said.err == "`doctorgen models check portrait --engine portable` names all that is lacking.\n"


@pytest.mark.parametrize(
    ("broker", "told"),
    [
        ("memory://", "interrupted: what was under way is called off; steps that were finished are not done again\n"),
        ("amqp://host/", "interrupted, but the job goes on: doctorgen watch job-7, or doctorgen cancel job-7\n"),
    ],
)
def test_whoever_interrupts_is_told_what_becomes_of_the_job(
    type_in: Type, monkeypatch: pytest.MonkeyPatch, broker: str, told: str
) -> None:
    """Nobody else says a job's id, which is needed to find it again."""
    monkeypatch.setenv("DOCTORGEN_BROKER_URL", broker)
    monkeypatch.setattr(generate, "DoctorImageGenerator", Interrupted)
    said = type_in("generate", "--doctor-image", "front.jpg", "--scenario", "consultant")
    assert said == Said(130, "", told)


@pytest.mark.parametrize(
    ("generator", "told"),
    [
        (InterruptedLate, "interrupted, but the job goes on: doctorgen watch job-7, or doctorgen cancel job-7\n"),
        (InterruptedEarly, "interrupted, but what was filed goes on: doctorgen status lists the newest jobs\n"),
    ],
)
def test_of_jobs_that_have_ended_nobody_is_told_that_they_go_on(
    type_in: Type, monkeypatch: pytest.MonkeyPatch, generator: type[DoctorImageGenerator], told: str
) -> None:
    """And where nothing was heard, where to look."""
    monkeypatch.setenv("DOCTORGEN_BROKER_URL", "amqp://host/")
    monkeypatch.setattr(generate, "DoctorImageGenerator", generator)
    said = type_in("generate", "--doctor-image", "front.jpg", "--scenario", "consultant")
    assert said == Said(130, "", told)
