"""The GPU engines of identity and generate on a CPU, with the weights of `doctorgen models tiny`.

The recipe `rehearsal`, alone in one process, and by workers on RabbitMQ.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shared.contracts.artifacts import Manifest
from shared.models.shelf import Shelf
from tests.e2e.deployment import ROOT, Deployment

LIMIT_S = 300
"""A process imports torch, diffusers, timm and insightface: half a minute on a busy machine."""

STAGES = ("identity", "generate")
STEPS = ("identity", "likeness", "generate", "upscale", "qa")


@dataclass(frozen=True)
class Made:
    """A job's outcome."""

    metadata: dict[str, Any]
    picture: bytes


@dataclass(frozen=True)
class Tiny:
    """A models folder as the command made it, and what it said."""

    folder: Path
    said: str

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that is to use it."""
        return {
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "DOCTORGEN_DEVICE": "cpu",
            "DOCTORGEN_MODELS_DIR": str(self.folder),
        }

    def digest(self, model: str) -> str:
        """Of all its files."""
        digest = Shelf(self.folder).own_digest(model)
        assert digest is not None
        return digest


def doctorgen(folder: Path, environment: dict[str, str], *words: str) -> str:
    """What a command prints that ends well."""
    ended = subprocess.run(
        [sys.executable, "-m", "doctor_image_gen.cli", *words],
        cwd=folder,
        env={**os.environ, "DOCTORGEN_DATA_DIR": str(folder / "data"), **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def rehearsal(photo: Path, output: Path, seed: int) -> tuple[str, ...]:
    """The words of the job."""
    words = ("generate", "--recipe", "rehearsal", "--doctor-image", str(photo), "--scenario", "consultant")
    return (*words, "--seed", str(seed), "--output", str(output), "--json")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("rehearsal")
    path = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return Tiny(folder / "weights", doctorgen(folder, path, "models", "tiny", "weights"))


@pytest.fixture(scope="module")
def alone(tiny: Tiny, photo: Path) -> Made:
    """By the embedded pipeline."""
    folder = tiny.folder.parent
    output = folder / "alone.png"
    outcome = json.loads(doctorgen(folder, tiny.environment, *rehearsal(photo, output, 7)))
    assert outcome["status"] == "done"
    return Made(outcome["metadata"], output.read_bytes())


@pytest.fixture(scope="module")
def workers(tiny: Tiny, deployment: Deployment) -> Iterator[Deployment]:
    """A deployment whose workers of identity and generate have these weights."""
    for stage in STAGES:
        deployment.restart(stage, f"services.{stage}", **tiny.environment)
    yield deployment
    for stage in STAGES:
        deployment.restart(stage, f"services.{stage}")


def by(deployment: Deployment, photo: Path, seed: int) -> Made:
    """A job that the deployment does."""
    output = deployment.folder / f"rehearsal-{seed}.png"
    ended = deployment.doctorgen(*rehearsal(photo, output, seed))
    assert ended.returncode == 0, ended.stderr
    return Made(json.loads(ended.stdout)["metadata"], output.read_bytes())


def check(made: Made, tiny: Tiny) -> None:
    """It is what the recipe says, by the engines it insists on, with the weights there are."""
    engines = dict.fromkeys(STEPS, "portable") | dict.fromkeys(STAGES, "flux")
    assert made.metadata["engines"] == engines
    for model in ("tiny-flux", "tiny-pulid"):
        assert made.metadata["models"][model] == tiny.digest(model)
        assert made.metadata["licences"][model] == "none: random numbers"
    assert not made.metadata["verdict"]["passed"], "noise is nobody's portrait, and the verdict says so"


def test_the_command_says_what_it_made_and_how_to_try_it(tiny: Tiny) -> None:
    assert f"tiny-flux: 1.1 MB in {tiny.folder / 'tiny-flux'}\n" in tiny.said
    assert f"tiny-pulid: 2.7 MB in {tiny.folder / 'tiny-pulid'}\n" in tiny.said
    assert "random numbers" in tiny.said
    assert "noise" in tiny.said
    assert f"DOCTORGEN_MODELS_DIR={tiny.folder} " in tiny.said
    assert " doctorgen generate --recipe rehearsal " in tiny.said


def test_the_models_are_ready_for_the_recipe(tiny: Tiny) -> None:
    """And as they were pinned."""
    settings = {"PYTHONPATH": str(ROOT), "DOCTORGEN_MODELS_DIR": str(tiny.folder)}
    said = doctorgen(tiny.folder.parent, settings, "models", "check", "rehearsal")
    assert said == "rehearsal with the engines that its steps name: all 2 models are there\n"
    verified = doctorgen(tiny.folder.parent, settings, "models", "verify")
    assert verified == "tiny-flux: ready\ntiny-pulid: ready\n"


def test_one_process_paints_with_them(alone: Made, tiny: Tiny) -> None:
    check(alone, tiny)
    assert alone.metadata["reused"] == []
    with Image.open(tiny.folder.parent / "alone.png") as picture:
        assert picture.size == (512, 512)


def test_each_manifest_names_the_engine_and_its_models(alone: Made, tiny: Tiny) -> None:
    del alone
    files = (tiny.folder.parent / "data" / "store").rglob("manifests/*.json")
    manifests = {manifest.step: manifest for manifest in (Manifest.from_json(file.read_bytes()) for file in files)}
    assert set(manifests) == set(STEPS)
    pulid = {"tiny-pulid": tiny.digest("tiny-pulid")}
    assert (manifests["identity"].engine, manifests["identity"].models) == ("flux", pulid)
    assert manifests["generate"].engine == "flux"
    assert manifests["generate"].models == {**pulid, "tiny-flux": tiny.digest("tiny-flux")}
    assert manifests["generate"].facts["identity"] == "tiny-pulid"


def test_workers_on_rabbitmq_paint_the_very_same_picture(
    alone: Made, workers: Deployment, tiny: Tiny, photo: Path
) -> None:
    """And with another seed another one, of the identity that is there already."""
    same = by(workers, photo, 7)
    check(same, tiny)
    assert same.metadata["reused"] == []
    assert same.picture == alone.picture
    other = by(workers, photo, 8)
    assert other.metadata["reused"] == ["identity", "likeness"]
    assert other.picture != same.picture
