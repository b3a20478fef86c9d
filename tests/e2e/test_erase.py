"""A person is erased with jobs done, running, queued and dead: no byte of theirs is found anywhere afterwards."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image, ImageEnhance

from doctor_image_gen.client import Client
from doctor_image_gen.generator import requests_for
from doctor_image_gen.options import GenerationOptions
from doctor_image_gen.stack import Connections
from shared.broker.topology import CONTROL, EVENTS, work_queues
from shared.contracts.control import Control
from shared.contracts.event import Event
from tests.e2e.deployment import LIMIT_S, ROOT, Deployment
from tests.e2e.test_bad_input import SKETCH
from tests.e2e.traces import found_in, in_broker, in_database, in_files, in_store, traces_of, windows
from tests.servers.rabbitmq import RabbitNode

SUBJECT = "dr-wants-to-be-forgotten"
OTHER = "dr-stays"
SMALL = {f"{step}.{side}": 512 for step in ("generate", "upscale", "qa") for side in ("width", "height")}
BIOMETRIC = {"photo", "identity", "intermediate", "result"}
BREAK_CV2 = "raise ImportError('libGL.so.1: cannot open shared object file')\n"


@pytest.fixture(scope="module")
def own_photo(photo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo whose bytes no other test uses."""
    path = tmp_path_factory.mktemp("own") / "forgotten.png"
    with Image.open(photo) as picture:
        ImageEnhance.Brightness(picture.convert("RGB")).enhance(1.07).save(path)
    return path


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cv2.py").write_text(BREAK_CV2)
    return tmp_path / "broken"


@pytest.fixture
def connections(deployment: Deployment) -> Iterator[Connections]:
    with closing(Connections.open(deployment.settings)) as connections:
        yield connections


def until(seen: Callable[[], bool]) -> None:
    """Look at files again and again until something is seen."""
    give_up = monotonic() + LIMIT_S
    while not seen():
        assert monotonic() < give_up
        sleep(0.02)


class Clinic:
    """Files jobs and hears what becomes of them."""

    def __init__(self, deployment: Deployment, connections: Connections, photo: Path) -> None:
        self._client = Client(connections, deployment.settings.photo_limits)
        self._connections = connections
        self._photo = photo

    def file(self, job_id: str, *, until: tuple[str, str | None], subject: str = SUBJECT, seed: int = 7) -> None:
        """File a job and wait for an event of this kind and step."""
        options = GenerationOptions.parse({"seed": seed, **SMALL})
        wish = {"subject": subject, "job_id": job_id}
        (request,) = requests_for(self._client, [self._photo], ["consultant"], wish, options)
        give_up = monotonic() + LIMIT_S
        with closing(self._connections.broker.listen(EVENTS, (f"job.{job_id}.*",))) as ear:
            self._client.submit(request)
            seen: list[Event] = []
            while not seen or (seen[-1].kind, seen[-1].step) != until:
                assert monotonic() < give_up, seen
                delivery = ear.receive(1.0)
                if delivery is not None:
                    seen.append(Event.from_json(delivery.body))


def put_everywhere(clinic: Clinic, deployment: Deployment, photo: Path, broken: Path, held: Path) -> Path:
    """Jobs of the person in every state: one dead, one done and saved, one queued, one in a worker's hands."""
    path = os.pathsep.join((str(broken), str(ROOT)))
    deployment.restart("refine", "services.refine", PYTHONPATH=path, DOCTORGEN_WARM_ENGINES="[]")
    clinic.file("forget-dead", until=("dead", "refine"))
    deployment.restart("refine", "services.refine")
    made = deployment.doctorgen(
        *("generate", "--doctor-image", str(photo), "--scenario", "consultant", "--subject", SUBJECT, "--json"),
        *("--set", *(f"{name}={value}" for name, value in SMALL.items())),
    )
    assert made.returncode == 0, made.stderr
    picture = Path(json.loads(made.stdout)["output_path"])
    assert picture.is_relative_to(deployment.settings.data_dir)

    assert deployment.processes["swap"].terminate() == 0
    clinic.file("forget-queued", until=("finished", "generate"))
    held.mkdir()
    deployment.restart("generate", "tests.e2e.holding", "generate", "computed", str(held))
    clinic.file("forget-running", until=("started", "generate"), seed=8)
    until((held / "reached").exists)
    return picture


def erase(deployment: Deployment, connections: Connections, held: Path) -> dict[str, Any]:
    """Type the command; once the workers are told of it, let the one that holds the person's step go on."""
    with closing(connections.broker.listen(CONTROL, ("",))) as orders:
        erasing = subprocess.Popen(
            [sys.executable, "-m", "doctor_image_gen.cli", "subject", "erase", SUBJECT, "--yes", "--json"],
            cwd=deployment.folder,
            env={**deployment.environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        order = orders.receive(LIMIT_S)
        while order is not None and Control.from_json(order.body).kind != "erase":
            order = orders.receive(LIMIT_S)
    assert order is not None
    (held / "go").touch()
    printed, _ = erasing.communicate(timeout=LIMIT_S)
    assert erasing.returncode == 0
    report: dict[str, Any] = json.loads(printed)
    return report


def test_nothing_is_left_of_a_person_in_broker_bucket_database_and_files(
    deployment: Deployment,
    connections: Connections,
    own_photo: Path,
    photo: Path,
    broken: Path,
    tmp_path: Path,
    rabbitmq_node: RabbitNode,
) -> None:
    Clinic(deployment, connections, photo).file("stays-1", until=("done", "qa"), subject=OTHER)
    clinic, held = Clinic(deployment, connections, own_photo), tmp_path / "held"
    picture = put_everywhere(clinic, deployment, own_photo, broken, held)
    kept = {key: connections.store.get(key) or b"" for key in connections.store.keys(f"subjects/{SUBJECT}/")}
    blobs = [own_photo.read_bytes(), picture.read_bytes(), *kept.values()]
    others = [content for key, content in in_store(connections.store) if f"/{OTHER}/" in key]
    traces = traces_of(blobs, [photo.read_bytes(), *others])
    biometric = [blob for key, blob in kept.items() if key.split("/")[2] in BIOMETRIC]
    likenesses = {trace for blob in [own_photo.read_bytes(), *biometric] for trace in windows(blob)} & traces
    assert len(likenesses) > 20
    vhost = unquote(urlsplit(deployment.broker_url).path[1:])

    def everywhere() -> list[str]:
        wanted = {*traces, SUBJECT.encode()}
        places = (in_store(connections.store), in_database(deployment.jobs_url), in_broker(rabbitmq_node, vhost))
        return [where for place in places for where in found_in(place, wanted)]

    before = {where.split(":")[0].split("/")[0] for where in everywhere()}
    assert before >= {"jobs", "events", "dead_letters", "doctorgen.swap.interactive", "subjects", "inbox"}
    assert sum(connections.broker.depth(queue) for queue in work_queues("swap")) == 1
    shown = json.loads(deployment.doctorgen("subject", "show", SUBJECT, "--json").stdout)
    assert (shown["jobs"], shown["letters"]) == ({"dead": 1, "done": 1, "running": 2}, {"open": 1})

    report = erase(deployment, connections, held)
    assert report["still_running"] == []
    assert (report["rows"]["jobs"], report["rows"]["letters"], report["pictures"]) == (4, 1, 1)
    assert report["rows"]["events"] > 10
    assert report["messages"] >= 1
    assert set(report["objects"]) >= {"inbox", "photo", "identity", "intermediate", "result", "verdict", "manifests"}

    deployment.restart("generate", "services.generate")
    deployment.start("swap", "services.swap").wait_until_ready()
    assert everywhere() == []
    assert found_in(in_files(deployment.folder), {*traces, SUBJECT.encode()}) == [], "no picture, no line of a log"
    folder = rabbitmq_node._folder  # noqa: SLF001 - what the broker keeps on its disk
    assert found_in(in_files(folder), likenesses) == [], "messages carry references, never pixels or embeddings"
    assert list(connections.store.keys(f"subjects/{OTHER}/")), "others are left alone"

    again = deployment.doctorgen("subject", "erase", SUBJECT, "--yes")
    nothing = ["  objects: none", "  rows: none", "  messages: 0", "  saved pictures: 0"]
    assert (again.returncode, again.stdout.splitlines()[1:]) == (0, nothing)
    wish = ("--doctor-image", str(own_photo), "--scenario", "consultant", "--subject", SUBJECT, "--json")
    refused = deployment.doctorgen("generate", *wish)
    assert (refused.returncode, "erased" in refused.stderr) == (2, True), refused.stderr
    assert deployment.doctorgen("subject", "allow", SUBJECT).returncode == 0
    assert json.loads(deployment.doctorgen("subject", "show", SUBJECT, "--json").stdout)["erased"] is False


def test_nothing_is_left_of_a_person_on_one_machine(own_photo: Path, broken: Path, tmp_path: Path) -> None:
    """The embedded pipeline: a job done, one dead, and one that was cut short by kill -9; every file is searched."""
    data = tmp_path / "data"
    (tmp_path / "own" / "recipes").mkdir(parents=True)
    (tmp_path / "own" / "recipes" / "sketch.yaml").write_text(SKETCH)
    settings = {
        "DATA_DIR": str(data),
        "USER_FOLDER": str(tmp_path / "own"),
        "GENERATION__RECIPE": "sketch",
        "GATEWAY__WORKER_SILENT_AFTER_S": "2",
        "BEAT_INTERVAL_S": "0.5",
    }

    def command(*words: str, path: tuple[Path, ...] = (ROOT,)) -> dict[str, Any]:
        return {
            "args": [sys.executable, "-m", "doctor_image_gen.cli", *words],
            "cwd": tmp_path,
            "env": {
                **os.environ,
                **{f"DOCTORGEN_{name}": value for name, value in settings.items()},
                "PYTHONPATH": os.pathsep.join(map(str, path)),
            },
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }

    def doctorgen(*words: str, path: tuple[Path, ...] = (ROOT,)) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(**command(*words, path=path), timeout=LIMIT_S, check=False)

    wish = ("generate", "--doctor-image", str(own_photo), "--subject", SUBJECT, "--json", "--scenario")
    assert doctorgen(*wish, "speaker", path=(broken, ROOT)).returncode == 1
    assert doctorgen(*wish, "consultant").returncode == 0
    manifests = data / "store" / "subjects" / SUBJECT / "manifests"
    standing = len(list(manifests.iterdir()))
    cut = subprocess.Popen(**command(*wish, "research", "--recipe", "portrait"))
    until(lambda: len(list(manifests.iterdir())) > standing)
    assert cut.poll() is None, "it is at work"
    cut.send_signal(signal.SIGKILL)
    cut.communicate()

    traces = {*traces_of(content for _, content in in_files(data / "store")), SUBJECT.encode()}
    traces |= traces_of([own_photo.read_bytes()])
    shown = doctorgen("subject", "show", SUBJECT, "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["jobs"] == {"dead": 1, "done": 1, "running": 1}
    before = {where.split("/")[0].split(":")[0].split("-")[0] for where in found_in(in_files(data), traces)}
    assert before >= {"store", "results", "jobs.sqlite"}

    erased = doctorgen("subject", "erase", SUBJECT, "--yes", "--json")
    assert erased.returncode == 0, erased.stderr
    assert json.loads(erased.stdout)["rows"]["jobs"] == 3
    assert found_in(in_files(data), traces) == []
