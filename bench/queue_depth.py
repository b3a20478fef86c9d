"""Ten thousand jobs in the queue against a few hundred: python -m bench.queue_depth.

A gateway and its workers run as processes of their own over RabbitMQ, S3 and PostgreSQL; the steps compute nothing. At
either depth: how many jobs a second are taken in, how long a step takes from one delivery to the next in a busy worker,
and how much memory gateway and workers hold. Then, ten thousand deep, single jobs of another caller: how many steps of
others each worker of a stage begins between such a job's reaching the stage and its own turn.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from time import monotonic, sleep

import psutil
from PIL import Image
from pydantic import SecretStr

from bench.figures import HEADER, Figure
from bench.queue_depth_process import RECIPE, Note, notes
from bench.servers import Servers, servers
from doctor_image_gen.client import Client
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.contracts.event import TERMINAL
from shared.contracts.request import JobRequest, Lane, PhotoRef
from shared.vision.photos import PhotoLimits
from tests.servers.postgres import start_postgres

SHALLOW, DEEP = 100, 10_000
ROUNDS, ROUND_JOBS = 5, 100
STEPS = 500
SINGLES = 5
WORKERS = {"refine": 2, "qa": 2}
TOLERANCE = 1.1
LOOK_S = 0.02
PATIENCE_S = 900.0


class Deployment:
    """The processes of one gateway and its workers, and what they cost."""

    def __init__(self, settings: Settings, host: Servers, folder: Path) -> None:
        self.notes = folder / "notes.jsonl"
        self._environment = {
            **os.environ,
            "DOCTORGEN_BROKER_URL": host.broker_url,
            "DOCTORGEN_STORAGE__URL": host.storage.url,
            "DOCTORGEN_STORAGE__ACCESS_KEY": host.account.access_key,
            "DOCTORGEN_STORAGE__SECRET_KEY": host.account.secret_key,
            "DOCTORGEN_JOBS_URL": settings.jobs_url_or_file,
            "DOCTORGEN_DATA_DIR": str(folder),
            "DOCTORGEN_PHOTO_LIMITS__MIN_SIDE_PX": str(settings.photo_limits.min_side_px),
        }
        self._path = folder / "log"
        self._log = self._path.open("ab")
        self.gateway = self._start("gateway")
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_workers(self) -> None:
        """Start fresh workers, with fresh notes."""
        self.notes.unlink(missing_ok=True)
        self.workers = [
            self._start("worker", name, str(self.notes)) for name, number in WORKERS.items() for _ in range(number)
        ]

    def stop_workers(self) -> None:
        """End the workers politely."""
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait()
        self.workers = []

    def check(self) -> None:
        """Raise where a process has ended by itself; its log says why."""
        for process in (*self.workers, self.gateway):
            if process.poll() is not None:
                raise RuntimeError(
                    f"a process ended with status {process.returncode}:\n{self._path.read_text()[-2000:]}"
                )

    def close(self) -> None:
        """End everything."""
        for process in (*self.workers, self.gateway):
            process.kill()
            process.wait()
        self._log.close()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        module = ("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "bench.queue_depth_process")
        return subprocess.Popen([*module, *command], env=self._environment, stdout=self._log, stderr=self._log)


class Caller:
    """Files jobs, each for another picture."""

    def __init__(self, connections: Connections, folder: Path, limits: PhotoLimits) -> None:
        self.connections = connections
        self.filed = 0
        self._client = Client(connections, limits)
        path = folder / "photo.png"
        Image.new("RGB", (64, 64), (120, 90, 60)).save(path)
        self._photos: tuple[PhotoRef, ...] = self._client.upload([path])
        self._numbers = count(1)

    def file(self, caller: str, lane: Lane) -> str:
        """File one job; its id."""
        number = next(self._numbers)
        self.filed += 1
        return self._client.submit(
            JobRequest(
                job_id=f"depth-{number}",
                caller=caller,
                subject="depth",
                photos=self._photos,
                scenario="consultant",
                recipe=RECIPE.name,
                overrides={"refine": {"work_ms": number * 1e-6}},
                priority=lane,
            )
        )

    def file_many(self, number: int) -> float:
        """File jobs of one caller in the bulk lane; how many a second were taken in."""
        before, start = self.taken_in(), monotonic()
        for _ in range(number):
            self.file("crowd", "bulk")
        while self.taken_in() < before + number:
            assert monotonic() - start < PATIENCE_S, "the gateway takes no jobs in"
            sleep(LOOK_S)
        return number / (monotonic() - start)

    def taken_in(self) -> int:
        """How many jobs the journal knows, those that have ended apart."""
        jobs = self.connections.jobs
        return jobs.waiting() + jobs.in_flight("bulk") + jobs.in_flight("interactive")

    def wait(self, job_id: str) -> float:
        """Wait for a job's end; when it was released, in seconds of the system's clock."""
        start = monotonic()
        while (job := self.connections.jobs.get(job_id)) is None or job.state not in TERMINAL:
            assert monotonic() - start < PATIENCE_S, f"job {job_id} does not end"
            sleep(LOOK_S)
        assert job.state == "done", job.error
        assert job.released_at is not None
        return job.released_at.timestamp()


def measure(host: Servers, postgres_url: str, folder: Path) -> list[Figure]:
    """All figures."""
    settings = Settings(
        broker_url=SecretStr(host.broker_url),
        storage=host.storage,
        jobs_url=SecretStr(postgres_url),
        data_dir=folder,
        photo_limits=PhotoLimits(min_side_px=64),
    )
    with closing(Connections.open(settings)) as connections, closing(Deployment(settings, host, folder)) as deployed:
        caller = Caller(connections, folder, settings.photo_limits)
        caller.file_many(SHALLOW)
        shallow = at_depth(caller, deployed)
        deployed.stop_workers()
        caller.file_many(DEEP - caller.taken_in() - ROUNDS * ROUND_JOBS)
        deep = at_depth(caller, deployed)
        singles = [turns(caller, deployed, lane) for lane in ("interactive", "bulk") for _ in range(SINGLES)]
    return [*compared(shallow, deep), *waits(singles)]


def at_depth(caller: Caller, deployed: Deployment) -> dict[str, float]:
    """The figures at the present depth: jobs taken in, steps, memory. Workers are started, and stay."""
    rate = median(caller.file_many(ROUND_JOBS) for _ in range(ROUNDS))
    depth = caller.taken_in()
    deployed.start_workers()
    start = monotonic()
    while len(cycles(deployed.notes)) < STEPS:
        deployed.check()
        assert monotonic() - start < PATIENCE_S, "the pipeline stands still"
        sleep(LOOK_S * 10)
    workers = max(psutil.Process(worker.pid).memory_info().rss for worker in deployed.workers)
    return {
        "depth": float(depth),
        "jobs taken in a second": rate,
        "a step, from one delivery to the next": median(cycles(deployed.notes)) * 1000,
        "memory of the gateway": psutil.Process(deployed.gateway.pid).memory_info().rss / 2**20,
        "memory of the largest worker": workers / 2**20,
    }


def cycles(path: Path) -> list[float]:
    """Seconds from one delivery to the next, of the workers of the first stage, which are never without work."""
    received: dict[int, list[float]] = {}
    for note in notes(path):
        if note.phase == "received" and note.stage == next(iter(WORKERS)):
            received.setdefault(note.worker, []).append(note.at)
    return [later - sooner for times in received.values() for sooner, later in pairwise(times)]


def turns(caller: Caller, deployed: Deployment, lane: Lane) -> tuple[Lane, Mapping[str, float]]:
    """File a single job of another caller: for each stage, how many steps of others each worker began before it."""
    job_id = caller.file("somebody-else", lane)
    released = caller.wait(job_id)
    noted = list(notes(deployed.notes))
    own = {(note.stage, note.phase): note.at for note in noted if note.job == job_id}
    reached = {"refine": released, "qa": own["refine", "published"]}
    return lane, {
        name: sum(_is_between(note, name, reached[name], own[name, "received"]) for note in noted) / number
        for name, number in WORKERS.items()
    }


def _is_between(note: Note, stage: str, sooner: float, later: float) -> bool:
    return note.stage == stage and note.phase == "received" and sooner < note.at < later


def compared(shallow: Mapping[str, float], deep: Mapping[str, float]) -> Iterator[Figure]:
    """Both depths side by side, and the larger in terms of the smaller."""
    units = {"jobs taken in a second": "/s", "a step, from one delivery to the next": "ms"}
    few, many = (f"{figures['depth']:.0f} jobs queued" for figures in (shallow, deep))
    for name in (name for name in shallow if name != "depth"):
        unit = units.get(name, "MiB")
        yield Figure(f"{name}, {few}", shallow[name], unit)
        yield Figure(f"{name}, {many}", deep[name], unit)
        ratio = deep[name] / shallow[name]
        if unit == "/s":
            yield Figure(f"{name}: deep / shallow", ratio, "", 1 / TOLERANCE, at_least=True)
        else:
            yield Figure(f"{name}: deep / shallow", ratio, "", TOLERANCE)


def waits(singles: list[tuple[Lane, Mapping[str, float]]]) -> Iterator[Figure]:
    """The longest wait of a single job of another caller, in steps that each worker of a stage began before it."""
    for lane in ("interactive", "bulk"):
        found = [by_stage for whose, by_stage in singles if whose == lane]
        for stage in WORKERS:
            longest = max(by_stage[stage] for by_stage in found)
            name = f"steps of others before a single {lane} job, a worker of {stage}"
            yield Figure(name, longest, "", 1.0)


@contextmanager
def database() -> Iterator[str]:
    """An empty database on a server of its own."""
    server = start_postgres()
    try:
        yield server.create_database()
    finally:
        server.stop()


if __name__ == "__main__":
    with servers() as host, database() as url, tempfile.TemporaryDirectory() as folder:
        print(HEADER, *(figure.row() for figure in measure(host, url, Path(folder))), sep="\n")
