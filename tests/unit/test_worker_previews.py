"""Pictures of a step in the making: stored beside its work, told by reference, and lost rather than waited for."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep

import cv2
import numpy as np
import pytest

from shared.contracts.artifacts import ArtifactRef, Manifest
from shared.contracts.errors import Transient
from shared.contracts.event import Event
from shared.storage.artifacts import fetch
from shared.storage.layout import artifact_ref
from shared.worker.events import step_event
from shared.worker.operation import Work
from shared.worker.previews import INTERVAL_S, LARGEST_BYTES, Previews
from tests import synthetic
from tests.fakes import MemoryStore
from tests.synthetic import QA, REFINE, SUBJECT, UPSCALE, AppendParams, first_message
from tests.unit.test_worker import running

PATIENCE_S = 10.0
PREFIX = f"subjects/{SUBJECT}/"


def jpeg(grey: int) -> bytes:
    return cv2.imencode(".jpg", np.full((8, 8, 3), grey, np.uint8))[1].tobytes()


FIRST, SECOND, THIRD = (jpeg(grey) for grey in (20, 120, 220))
PNG = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


class Gated(MemoryStore):
    """Writes no JPEG before it is let; then it may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.let = threading.Event(), threading.Event()
        self.error: Exception | None = None

    def put(self, key: str, data: bytes, media_type: str) -> bool:
        if media_type == "image/jpeg":
            self.reached.set()
            assert self.let.wait(PATIENCE_S)
            if self.error is not None:
                raise self.error
        return super().put(key, data, media_type)

    def previews(self) -> list[bytes]:
        return [self.blobs[key] for key in self.written if key.endswith((".jpg", ".png")) and key in self.blobs]


class Desk:
    """Previews over a gated store, with a clock that only tests move."""

    def __init__(self) -> None:
        self.store = Gated()
        self.io = ThreadPoolExecutor(2)
        self.now = 0.0
        self.previews = Previews(self.store, self.io, SUBJECT, lambda: self.now)

    def show(self, *pictures: bytes) -> None:
        """Show one after the other, each stored before the next comes."""
        for picture in pictures:
            self.previews.show(picture)
            self.settle()

    def settle(self) -> None:
        storing = self.previews._storing  # noqa: SLF001 - what the worker does not wait for, the test does
        if storing is not None:
            storing.exception(PATIENCE_S)


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    desk.store.let.set()
    yield desk
    desk.store.let.set()
    desk.io.shutdown()


def test_the_first_picture_is_stored_at_once_as_an_intermediate_of_the_subject(desk: Desk) -> None:
    desk.show(FIRST)
    ref = desk.previews.take()
    assert ref is not None
    assert ref.key.startswith(f"{PREFIX}intermediate/")
    assert ref.media_type == "image/jpeg"
    assert fetch(desk.store, ref) == FIRST
    assert desk.previews.take() is None, "each is told once"


def test_at_most_one_picture_in_an_interval_is_stored(desk: Desk) -> None:
    desk.show(FIRST, SECOND)
    desk.now = INTERVAL_S - 0.01
    desk.show(SECOND)
    desk.now = INTERVAL_S
    desk.show(THIRD)
    assert desk.store.previews() == [FIRST, THIRD]


def test_a_picture_that_nobody_took_makes_room_for_a_newer_one(desk: Desk) -> None:
    desk.show(FIRST)
    desk.now = INTERVAL_S
    desk.show(SECOND)
    ref = desk.previews.take()
    assert ref is not None
    assert fetch(desk.store, ref) == SECOND


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (FIRST + bytes(LARGEST_BYTES), "image/jpeg"),
        (b"GIF89a", "neither JPEG nor PNG"),
        (b"", "neither JPEG nor PNG"),
    ],
)
def test_what_is_too_large_or_no_picture_is_dropped_with_a_line_in_the_log(
    desk: Desk, caplog: pytest.LogCaptureFixture, picture: bytes, words: str
) -> None:
    desk.show(picture)
    assert desk.store.previews() == []
    assert f"a preview of {len(picture)} bytes is dropped: {words}" in caplog.text
    desk.show(PNG)
    assert desk.store.previews() == [PNG], "the next one is not held to have come too soon"


def test_the_largest_allowed_is_stored(desk: Desk) -> None:
    whole = FIRST + bytes(LARGEST_BYTES - len(FIRST))
    desk.show(whole)
    assert desk.store.previews() == [whole]


def test_a_store_that_fails_loses_the_picture_and_nothing_else(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.store.error = Transient("the store is away")
    desk.show(FIRST)
    assert desk.previews.take() is None
    assert "a preview could not be stored: the store is away" in caplog.text
    desk.store.error = None
    desk.now = INTERVAL_S
    desk.show(SECOND)
    assert desk.store.previews() == [SECOND]


def test_while_the_store_is_busy_with_one_the_next_is_dropped(desk: Desk) -> None:
    desk.store.let.clear()
    desk.previews.show(FIRST)
    desk.now = INTERVAL_S
    desk.previews.show(SECOND)
    assert desk.previews.take() is None
    desk.store.let.set()
    desk.settle()
    desk.previews.close()
    assert desk.store.previews() == [FIRST]


def test_closing_waits_for_the_store_so_that_an_erasure_does(desk: Desk) -> None:
    desk.store.let.clear()
    desk.previews.show(FIRST)
    assert desk.store.reached.wait(PATIENCE_S)
    closing = desk.io.submit(desk.previews.close, PATIENCE_S)
    assert not closing.done()
    desk.store.let.set()
    closing.result(PATIENCE_S)
    assert desk.store.previews() == [FIRST]


def test_a_picture_that_comes_after_its_step_was_given_up_is_removed(desk: Desk) -> None:
    desk.store.let.clear()
    desk.previews.show(FIRST)
    assert desk.store.reached.wait(PATIENCE_S)
    desk.previews.close(patience_s=0)
    desk.store.let.set()
    desk.settle()
    assert list(desk.store.keys(PREFIX)) == []


def test_a_closed_desk_takes_nothing(desk: Desk) -> None:
    """A step that hung and was left behind may still show something."""
    desk.previews.close()
    desk.show(FIRST)
    assert desk.store.previews() == []


# In a worker


@pytest.fixture
def store() -> Iterator[Gated]:
    synthetic.ran.clear()
    store = Gated()
    yield store
    store.let.set()
    synthetic.during[0] = lambda _: None


def once(seen: Callable[[], object], work: Work[AppendParams]) -> None:
    """Tell of progress until something is seen."""
    until = monotonic() + PATIENCE_S
    while not seen():
        assert monotonic() < until
        work.progress(0.7)
        sleep(0.005)


def test_the_next_event_of_progress_carries_the_picture_and_no_manifest_names_it(store: Gated) -> None:
    store.let.set()

    def show(work: Work[AppendParams]) -> None:
        if work.params.word == "a":
            work.show(FIRST)
            once(store.previews, work)
            work.progress(0.75)

    synthetic.during[0] = show
    with running(REFINE, UPSCALE, QA, store=store) as pipeline:
        pipeline.publish(first_message(store, word="a"))
        shown = pipeline.until(lambda event: event.preview is not None)
        done = pipeline.until_ended()
        pipeline.publish(first_message(store, job_id="job-2", word="a"))
        again = pipeline.until_ended("job-2")
    assert (shown.kind, shown.step, shown.stage) == ("progress", "one", "refine")
    assert shown.preview is not None
    assert fetch(store, shown.preview) == FIRST
    assert len(shown.to_json()) < 2048
    assert [event.preview for event in pipeline.events if event.preview is not None] == [shown.preview]
    assert done.result is not None
    assert again.result is not None
    assert all(record.reused for record in again.result.trail), "what is shown is no part of a step's key"
    manifests = [store.blobs[key] for key in store.keys(f"{PREFIX}manifests/")]
    made = [ref.key for each in manifests for refs in Manifest.from_json(each).outputs.values() for ref in refs]
    assert len(manifests) == 3
    assert shown.preview.key not in made


@pytest.mark.parametrize("error", [Transient("away"), OSError("broken"), None])
def test_a_step_ends_well_whatever_the_store_does_with_what_it_shows(store: Gated, error: Exception | None) -> None:
    """Also while the store is still busy with the picture."""
    store.error = error
    if error is not None:
        store.let.set()
    synthetic.during[0] = lambda work: work.show(FIRST)
    with running(REFINE, UPSCALE, QA, store=store) as pipeline:
        pipeline.publish(first_message(store, word="a"))
        ended = pipeline.until(lambda event: event.kind in {"finished", "dead", "retrying"})
        assert (ended.kind, ended.step) == ("finished", "one")
        if error is None:
            assert store.previews() == []
            store.let.set()
        assert pipeline.until_ended().kind == "done"


def test_a_step_stays_in_hand_until_its_last_picture_is_stored(store: Gated) -> None:
    """So an erasure, which waits for what workers have in hand, removes that picture. The job goes on meanwhile."""
    synthetic.during[0] = lambda work: work.show(FIRST) if work.params.word == "a" else None
    with running(REFINE, UPSCALE, QA, store=store) as pipeline:
        pipeline.publish(first_message(store, word="a"))
        assert pipeline.until_ended().kind == "done"
        (held,) = pipeline.workers[0].beat().in_hand
        assert (held.job_id, held.step) == ("job-1", "one")
        store.let.set()
        until = monotonic() + PATIENCE_S
        while pipeline.workers[0].beat().in_hand:
            assert monotonic() < until
            sleep(0.005)
        assert store.previews() == [FIRST]


def test_an_event_with_another_picture_is_another_event() -> None:
    message = first_message(MemoryStore())

    def told(preview: ArtifactRef | None) -> Event:
        return step_event(message, "progress", "w", fraction=0.5, preview=preview)

    refs = [artifact_ref(SUBJECT, "intermediate", picture, "image/jpeg") for picture in (FIRST, SECOND)]
    ids = [told(preview).event_id for preview in (None, *refs)]
    assert len(set(ids)) == 3
    assert ids == [told(preview).event_id for preview in (None, *refs)]
