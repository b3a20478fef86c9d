"""Ten thousand jobs in the queue against a hundred: python -m bench.queue_depth.

Two deployments, each of a gateway and its workers in processes of their own, over RabbitMQ, S3 and PostgreSQL; one has
few jobs in its queue, the other many, and they take turns. The steps compute nothing. At either depth: how many jobs a
second are taken in, how long a step takes from one delivery to the next in a busy worker, and how much memory gateway
and workers hold. Then, in the deep queue, single jobs of another caller: how many steps of others each worker of a
stage begins between such a job's reaching the stage and its own turn.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from statistics import median
from time import monotonic, sleep

import psutil
from PIL import Image
from pydantic import SecretStr

from bench.figures import HEADER, Figure
from bench.queue_depth_process import RECIPE, Note, notes
from bench.servers import Servers, apart
from doctor_image_gen.client import Client
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.contracts.event import TERMINAL
from shared.contracts.request import JobRequest, Lane, PhotoRef
from shared.vision.photos import PhotoLimits
from tests.servers.postgres import start_postgres

SHALLOW, DEEP = 100, 10_000
ROUNDS, ROUND_JOBS = 12, 40
TURNS, STEPS = 4, 200
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
        start = monotonic()
        last = [self.file("crowd", "bulk") for _ in range(number)][-1]
        while self.connections.jobs.get(last) is None:  # they are taken in in order; counting them all would cost time
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


def measure(hosts: tuple[Servers, Servers], urls: tuple[str, str], folder: Path) -> list[Figure]:
    """All figures. The two deployments take turns, so that what else the machine does befalls both."""
    with ExitStack() as stack:
        few, many = (
            stack.enter_context(site(host, url, folder / name))
            for host, url, name in zip(hosts, urls, ("few", "many"), strict=True)
        )
        few.caller.file_many(SHALLOW)
        many.caller.file_many(DEEP)
        depths = few.caller.taken_in(), many.caller.taken_in()
        rates = in_turn(few, many, ROUNDS, lambda each: [each.caller.file_many(ROUND_JOBS)])
        few.caller.file_many(TURNS * STEPS)
        times = in_turn(few, many, TURNS, steps_of)
        figures = [
            *compared("jobs taken in a second", "/s", depths, *map(median, rates), at_least=True),
            *compared("a step, from one delivery to the next", "ms", depths, *(1000 * median(each) for each in times)),
            *compared("memory of the gateway", "MiB", depths, few.gateway_mib, many.gateway_mib),
            *compared("memory of the largest worker", "MiB", depths, few.worker_mib, many.worker_mib),
        ]
        many.deployed.start_workers()
        singles = [turns(many.caller, many.deployed, lane) for lane in ("interactive", "bulk") for _ in range(SINGLES)]
    return [*figures, *waits(singles)]


@dataclass
class Site:
    """A deployment and who files its jobs."""

    deployed: Deployment
    caller: Caller
    worker_mib: float = 0.0

    @property
    def gateway_mib(self) -> float:
        """How much memory the gateway holds."""
        return mib(self.deployed.gateway)


@contextmanager
def site(host: Servers, postgres_url: str, folder: Path) -> Iterator[Site]:
    """A deployment on servers of its own."""
    folder.mkdir()
    settings = Settings(
        broker_url=SecretStr(host.broker_url),
        storage=host.storage,
        jobs_url=SecretStr(postgres_url),
        data_dir=folder,
        photo_limits=PhotoLimits(min_side_px=64),
    )
    with closing(Connections.open(settings)) as connections, closing(Deployment(settings, host, folder)) as deployed:
        yield Site(deployed, Caller(connections, folder, settings.photo_limits))


def in_turn(few: Site, many: Site, rounds: int, act: Callable[[Site], list[float]]) -> tuple[list[float], list[float]]:
    """What an act gives at each site, one after the other and again."""
    found: tuple[list[float], list[float]] = [], []
    for _ in range(rounds):
        for each, values in zip((few, many), found, strict=True):
            values.extend(act(each))
    return found


def steps_of(each: Site) -> list[float]:
    """Let fresh workers work for a while: seconds from one delivery to the next."""
    deployed = each.deployed
    deployed.start_workers()
    start = monotonic()
    while len(found := cycles(deployed.notes)) < STEPS:
        deployed.check()
        assert monotonic() - start < PATIENCE_S, "the pipeline stands still"
        sleep(LOOK_S * 10)
    each.worker_mib = max(each.worker_mib, *map(mib, deployed.workers))
    deployed.stop_workers()
    return found


def mib(process: subprocess.Popen[bytes]) -> float:
    """The memory that a process holds."""
    return float(psutil.Process(process.pid).memory_info().rss / 2**20)


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


def compared(
    name: str, unit: str, depths: tuple[int, int], shallow: float, deep: float, *, at_least: bool = False
) -> Iterator[Figure]:
    """Both depths side by side, and the larger in terms of the smaller."""
    for depth, value in zip(depths, (shallow, deep), strict=True):
        yield Figure(f"{name}, {depth} jobs queued at first", value, unit)
    bound = 1 / TOLERANCE if at_least else TOLERANCE
    yield Figure(f"{name}: deep / shallow", deep / shallow, "", bound, at_least=at_least)


def waits(singles: list[tuple[Lane, Mapping[str, float]]]) -> Iterator[Figure]:
    """The longest wait of a single job of another caller, in steps that each worker of a stage began before it."""
    for lane in ("interactive", "bulk"):
        found = [by_stage for whose, by_stage in singles if whose == lane]
        for stage in WORKERS:
            longest = max(by_stage[stage] for by_stage in found)
            name = f"steps of others before a single {lane} job, a worker of {stage}"
            yield Figure(name, longest, "", 1.0)


@contextmanager
def databases(number: int) -> Iterator[list[str]]:
    """Empty databases on a server of their own."""
    server = start_postgres()
    try:
        yield [server.create_database() for _ in range(number)]
    finally:
        server.stop()


if __name__ == "__main__":
    with apart(2) as (first, second), databases(2) as (one, other), tempfile.TemporaryDirectory() as where:
        print(HEADER, *(each.row() for each in measure((first, second), (one, other), Path(where))), sep="\n")
