"""Whoever follows a job sees its picture come into being: the SDK on the embedded pipeline, an engine that shows."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import cv2
import numpy as np
import pytest

from doctor_image_gen import DoctorImageGenerator
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Stack
from doctor_image_gen.stages import STAGES
from services.gateway.erase import ErasureReport, erase_subject
from services.generate.stage import ComposeParams
from shared.contracts.artifacts import Manifest
from shared.contracts.errors import DoctorGenError
from shared.contracts.event import Event
from shared.storage.artifacts import fetch
from shared.vision.codec import decode
from shared.vision.output import image_output
from shared.worker.operation import EngineSpec, Outcome, Work
from tests.e2e.test_bad_input import SKETCH

SUBJECT = "dr-shown"
PREFIX = f"subjects/{SUBJECT}/"
PATIENCE_S = 30.0
seen = threading.Event()
"""Set once somebody has heard of a preview."""


class Shows:
    """Shows something red, again and again, until somebody has seen it."""

    def models(self, _: ComposeParams) -> Mapping[str, str]:
        return {}

    def run(self, work: Work[ComposeParams]) -> Outcome:
        until = monotonic() + PATIENCE_S
        while not seen.wait(0.01):
            assert monotonic() < until
            work.show(cv2.imencode(".jpg", np.full((16, 16, 3), (0, 0, 255), np.uint8))[1].tobytes())
            work.progress(0.4)
        photo = decode(work.inputs["photos"][0])
        return Outcome({"image": image_output(photo[: work.params.height, : work.params.width], "intermediate")})


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    (tmp_path / "own" / "recipes").mkdir(parents=True)
    (tmp_path / "own" / "recipes" / "sketch.yaml").write_text(SKETCH)
    stage = STAGES["generate"]
    shows = EngineSpec(ComposeParams, "tests.e2e.test_previews:Shows")
    operations = tuple(replace(each, engines={**each.engines, "portable": shows}) for each in stage.operations)
    monkeypatch.setitem(STAGES, "generate", replace(stage, operations=operations))
    seen.clear()
    yield Settings(data_dir=tmp_path / "data", user_folder=tmp_path / "own", beat_interval_s=0.1)
    seen.set()


def words(**more: Any) -> dict[str, Any]:
    return {"scenario": "speaker", "subject": SUBJECT, "settings": {"recipe": "sketch"}, **more}


def erase(stack: Stack) -> ErasureReport:
    there = stack.connections
    queues = stack.settings.retry.topology.queue_names
    return erase_subject(SUBJECT, there.broker, there.store, there.jobs, queues=queues)


def test_the_listener_of_a_job_is_given_references_to_pictures_of_it(
    settings: Settings, photo: Path, tmp_path: Path
) -> None:
    events: list[Event] = []

    def tell(event: Event) -> None:
        events.append(event)
        if event.preview is not None:
            seen.set()

    with Stack(settings) as stack, DoctorImageGenerator(settings) as generator:
        result = generator.generate(photo, output_path=tmp_path / "a.png", on_event=tell, **words())
        store = stack.connections.store
        shown = [event for event in events if event.preview is not None]
        assert result["status"] == "done"
        assert {(event.kind, event.step) for event in shown} == {("progress", "generate")}
        assert shown[0].preview is not None
        assert shown[0].preview.key.startswith(f"{PREFIX}intermediate/")
        red = decode(fetch(store, shown[0].preview)).mean(axis=(0, 1))
        assert red == pytest.approx([255, 0, 0], abs=3)
        manifests = [Manifest.from_json(store.get(key) or b"") for key in store.keys(f"{PREFIX}manifests/")]
        outputs = {ref.key for each in manifests for refs in each.outputs.values() for ref in refs}
        assert shown[0].preview.key not in outputs
        report = erase(stack)
        assert report.objects["intermediate"] == 2, "the step's picture and the preview"
        assert list(store.keys(PREFIX)) == []


def test_a_person_erased_in_the_middle_leaves_no_preview(settings: Settings, photo: Path, tmp_path: Path) -> None:
    reports: list[ErasureReport] = []
    with Stack(settings) as stack, DoctorImageGenerator(settings) as generator:

        def tell(event: Event) -> None:
            if event.preview is not None and not reports:
                reports.append(erase(stack))

        with pytest.raises(DoctorGenError):
            generator.generate(photo, output_path=tmp_path / "a.png", on_event=tell, **words())
        assert reports[0].objects["intermediate"] == 1
        assert reports[0].still_running == ()
        assert list(stack.connections.store.keys(PREFIX)) == []
