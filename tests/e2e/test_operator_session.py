"""An operator's session in real processes: a stage breaks, its dead letters are read, it is mended, all replayed."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import yaml

from doctor_image_gen.stack import Connections
from tests.e2e.deployment import LIMIT_S, ROOT, Deployment
from tests.e2e.test_bad_input import SKETCH

BATCH = "session"
SCENARIOS = ["consultant", "desk_shot", "research", "speaker", "telehealth"]
SMALL = {"width": 512, "height": 512}
MISSING = "libGL.so.1: cannot open shared object file: No such file or directory"
AFTERWARDS = {"refine": 5, "upscale": 5, "qa": 5}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder that breaks OpenCV where it is imported from: an image built without a system library."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cv2.py").write_text(f"raise ImportError({MISSING!r})\n")
    return tmp_path / "broken"


@pytest.fixture
def connections(deployment: Deployment) -> Iterator[Connections]:
    with closing(Connections.open(deployment.settings)) as connections:
        yield connections


def started(connections: Connections) -> Counter[str]:
    """How often each step of the batch's jobs was computed, as the journal tells."""
    jobs = connections.jobs.recent(100, batch_id=BATCH)
    events = (event for job in jobs for event in connections.jobs.events(job.job_id))
    return Counter(event.step for event in events if event.kind == "started" and event.step is not None)


def until(look: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """Look again until what is wanted is seen."""
    give_up = monotonic() + LIMIT_S
    while not wanted(seen := look()):
        assert monotonic() < give_up, f"still {seen}"
    return seen


def test_break_read_mend_replay(
    deployment: Deployment, connections: Connections, broken: Path, photo: Path, tmp_path: Path
) -> None:
    path = os.pathsep.join((str(broken), str(ROOT)))
    deployment.restart("refine", "services.refine", PYTHONPATH=path, DOCTORGEN_WARM_ENGINES="[]")
    wish = {
        "batch_id": BATCH,
        "subjects": [{"subject": "dr-session", "photos": [photo.name]}],
        "scenarios": SCENARIOS,
        "overrides": {"generate": SMALL, "upscale": SMALL, "qa": SMALL},
    }
    (photo.parent / "batch.yaml").write_text(yaml.safe_dump(wish))
    assert deployment.doctorgen("batch", "submit", str(photo.parent / "batch.yaml")).stdout == f"{BATCH}\n"
    watched = deployment.doctorgen("batch", "watch", BATCH)
    assert watched.returncode == 1, watched.stderr
    assert watched.stdout.splitlines()[-6].startswith(f"{BATCH} 100% of 5: 5 dead")

    def groups(*words: str) -> Any:
        return json.loads(deployment.doctorgen("dead", "list", "--batch", BATCH, "--json", *words).stdout)

    (group,) = until(groups, lambda seen: sum(one["count"] for one in seen) == 5)
    assert (group["stage"], group["error_type"], group["kind"]) == ("refine", "ImportError", "Permanent")
    listed = deployment.doctorgen("dead", "list").stdout
    assert "libGL.so.1" in listed
    assert group["fingerprint"] in listed

    shown = deployment.doctorgen("dead", "show", group["example"]).stdout
    for words in (f"error     Permanent (ImportError): {MISSING}", "refine.photoreal", "image = face_detail.image"):
        assert words in shown
    assert f"doctorgen dead replay --fingerprint {group['fingerprint']}" in shown

    refused = deployment.doctorgen("dead", "replay", "--batch", BATCH, "--yes", "--set", "refine.grain=17")
    assert refused.returncode == 2
    assert "overrides.refine.grain: Input should be less than or equal to" in refused.stderr
    before = started(connections)

    deployment.restart("refine", "services.refine")
    chosen = ("dead", "replay", "--fingerprint", group["fingerprint"])
    planned = deployment.doctorgen(*chosen, "--dry-run")
    assert planned.returncode == 0
    assert sum(" from 'refine' as run 1" in line for line in planned.stdout.splitlines()) == 5
    assert groups() == [group], "a dry run changes nothing"

    clock = monotonic()
    replayed = deployment.doctorgen(*chosen, "--rate", "5", "--yes", "--wait")
    assert replayed.returncode == 0, replayed.stderr
    assert monotonic() - clock > 4 / 5, "four pauses of a fifth of a second"
    assert replayed.stderr.splitlines() == ["5 replayed", "ended: 5 done", "computed: 5 refine, 5 upscale, 5 qa"]
    assert groups() == []
    assert deployment.doctorgen(*chosen, "--yes").stderr == "no dead letters\n"

    after = started(connections)
    assert after - before == Counter(AFTERWARDS), "no step before the one that had failed ran again"
    assert before["refine"] == before["upscale"] == before["qa"] == 0
    standing = json.loads(deployment.doctorgen("batch", "status", BATCH, "--json").stdout)
    assert (standing["by_state"], standing["jobs"]) == ({"done": 5}, 5)
    jobs = connections.jobs.recent(100, batch_id=BATCH)
    ends = [
        [(event.kind, event.run) for event in connections.jobs.events(job.job_id) if event.kind in {"dead", "done"}]
        for job in jobs
    ]
    assert ends == [[("dead", 0), ("done", 1)]] * 5, "one end a run"


def test_a_job_that_died_on_this_machine_is_replayed_on_it(broken: Path, photo: Path, tmp_path: Path) -> None:
    """The embedded pipeline: `dead replay` runs it until the replayed jobs have ended."""
    (tmp_path / "own" / "recipes").mkdir(parents=True)
    (tmp_path / "own" / "recipes" / "sketch.yaml").write_text(SKETCH)
    settings = {
        "DATA_DIR": str(tmp_path / "data"),
        "USER_FOLDER": str(tmp_path / "own"),
        "GENERATION__RECIPE": "sketch",
    }

    def doctorgen(*words: str, path: tuple[Path, ...] = (ROOT,)) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "doctor_image_gen.cli", *words],
            cwd=tmp_path,
            env={
                **os.environ,
                **{f"DOCTORGEN_{name}": value for name, value in settings.items()},
                "PYTHONPATH": os.pathsep.join(map(str, path)),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )

    wish = ("--doctor-image", str(photo), "--scenario", "consultant", "--output", "out.png", "--json")
    failed = doctorgen("generate", *wish, path=(broken, ROOT))
    assert failed.returncode == 1
    assert MISSING in failed.stderr

    (group,) = json.loads(doctorgen("dead", "list", "--json").stdout)
    assert (group["stage"], group["count"]) == ("identity", 1)
    replayed = doctorgen("dead", "replay", "--all", "--yes")
    assert (replayed.returncode, replayed.stderr) == (
        0,
        "1 replayed\nended: 1 done\ncomputed: 1 identity, 1 generate, 1 qa\n",
    )
    (job,) = json.loads(doctorgen("status", "--json").stdout)
    assert (job["state"], job["run"]) == ("done", 1)
    fetched = doctorgen("result", job["job_id"], "--output", "out.png")
    assert fetched.returncode == 0, fetched.stderr
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
