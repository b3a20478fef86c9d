"""On a full disk the pipeline says so, waits, leaves nothing half-written, and goes on once there is room."""

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from doctor_image_gen.client import Client, id_of
from doctor_image_gen.settings import Settings
from services.gateway.defaults import GenerationDefaults
from shared.broker.topology import EVENTS
from shared.contracts.event import TERMINAL, Event
from shared.storage.artifacts import fetch
from shared.storage.digest import sha256
from shared.storage.folder import UNFINISHED, FolderStore
from shared.storage.port import ArtifactStore
from shared.storage.settings import StorageSettings
from shared.worker.retry import RetryPolicy, RetryRule
from tests.chaos.embedded import embedded
from tests.chaos.house import LIMITS
from tests.chaos.orders import Order, Reference, orders
from tests.chaos.stages import RECIPE_NAME, RECIPES

PATIENCE_S = 60.0
JOBS = 3
POLICY = RetryPolicy(
    rules={"ResourceExhausted": RetryRule(attempts=100, base_delay_ms=100, cap_ms=400)}, ladder_ms=(100, 200, 400)
)


@dataclass(frozen=True)
class Disk:
    """A folder to write to, how to fill it up, and how to make room."""

    folder: Path
    fill: Callable[[], None]
    make_room: Callable[[], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of its own, of four megabytes, all but a few kilobytes of it taken."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "chaos", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this user may not mount a file system: {mounted.stderr.strip()}")
    filler = folder / "filler"

    def fill() -> None:
        free = os.statvfs(folder)
        filler.write_bytes(bytes(free.f_bavail * free.f_frsize - 96 * 1024))

    yield Disk(folder, fill, filler.unlink)
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def short_files(tmp_path: Path) -> Iterator[Disk]:
    """A disk that takes no file above 64 KiB: the small pictures fit, the finished ones do not. For any user."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def allow(limit: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    yield Disk(tmp_path / "disk", lambda: allow(64 * 1024), lambda: allow(soft))
    allow(soft)


@pytest.mark.parametrize("kind", ["small_disk", "short_files"])
def test_jobs_wait_for_room_and_then_finish(
    kind: str, request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path
) -> None:
    """The journal is elsewhere, so that only the artifacts meet the full disk."""
    disk: Disk = request.getfixturevalue(kind)
    settings = Settings(
        data_dir=tmp_path / "data",
        storage=StorageSettings(url=str(disk.folder / "store")),
        jobs_url=SecretStr(postgres_url),
        generation=GenerationDefaults(recipe=RECIPE_NAME),
        photo_limits=LIMITS,
        retry=POLICY,
    )
    photos = tmp_path / "photos"
    photos.mkdir()
    filed = {id_of(order.request): order for order, _ in zip(orders(4, photos), range(JOBS), strict=False)}
    with embedded(settings) as connections, closing(connections.broker.listen(EVENTS, ("job.#",))) as heard:
        client = Client(connections, LIMITS)
        for order in filed.values():
            connections.store.put(order.request.photos[0].key, order.photo.read_bytes(), "image/png")
        disk.fill()
        for order in filed.values():
            client.submit(order.request)

        def events() -> Iterator[Event]:
            while (delivery := heard.receive(PATIENCE_S)) is not None:
                yield Event.from_json(delivery.body)

        refused = next(event for event in events() if event.kind in {"retrying", *TERMINAL})
        assert refused.kind == "retrying"
        assert refused.error is not None
        assert refused.error.kind == "ResourceExhausted"
        assert "Free some disk space" in refused.error.message
        assert_whole(disk.folder / "store")
        disk.make_room()
        ended: dict[str, Event] = {}
        for event in events():
            if event.kind in TERMINAL:
                ended[event.job_id] = event
            if len(ended) == JOBS:
                break
        assert {event.kind for event in ended.values()} == {"done"}
        assert_whole(disk.folder / "store")
        assert list((disk.folder / "store" / UNFINISHED).iterdir()) == []
        assert images(connections.store, ended) == expected(filed)


def assert_whole(root: Path) -> None:
    """Every blob is the one that its name says, whatever was refused meanwhile."""
    store = FolderStore(root)
    for key in store.keys("subjects/"):
        data = store.get(key)
        assert data is not None
        if "/manifests/" not in key:
            assert sha256(data) == Path(key).stem


def images(store: ArtifactStore, ended: dict[str, Event]) -> dict[str, str]:
    return {job: sha256(fetch(store, event.result.image)) for job, event in ended.items() if event.result}


def expected(filed: dict[str, Order]) -> dict[str, str]:
    reference = Reference(RECIPES[RECIPE_NAME])
    return {job_id: sha256(reference.image(order)) for job_id, order in filed.items()}
