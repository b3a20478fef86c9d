"""The GPU engines of all stages on a CPU, with the weights of `doctorgen models tiny`.

The recipe `rehearsal`, and the published recipes with these weights in place of theirs: alone in one process, and by
workers on RabbitMQ.

Both make the same pictures at the same time, for most of it is each process importing its libraries.
"""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from doctor_image_gen.recipes import find_recipe
from shared.contracts.artifacts import Manifest
from shared.models.shelf import Shelf
from tests.e2e.deployment import ROOT, Deployment, deployed
from tests.e2e.stand_ins import SEED, stand_ins
from tests.servers.fixtures_ceph import S3Server
from tests.servers.postgres import Postgres
from tests.servers.rabbitmq import RabbitNode

LIMIT_S = 300
"""A process imports torch, diffusers, timm and insightface: half a minute on a busy machine."""

STEPS = ("identity", "generate", "hands", "face", "face_detail", "refine", "upscale", "qa")
MODELS = (
    "tiny-flux",
    "tiny-pulid",
    "tiny-hands",
    "tiny-faces",
    "tiny-insight",
    "tiny-swapper",
    "tiny-restorer",
    "tiny-esrgan",
    "tiny-yunet",
    "tiny-arcface",
)
RECIPES = ("portrait", "swap-classic", "pulid-fast")


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
    return ended([sys.executable, "-m", "doctor_image_gen.cli", *words], folder, environment)


def ended(command: Sequence[str | Path], folder: Path, environment: dict[str, str]) -> str:
    """What a process prints that ends well."""
    process = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "DOCTORGEN_DATA_DIR": str(folder / "data"), **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def words_of(recipe: str, photo: Path, output: Path, seed: int) -> tuple[str, ...]:
    """The words of a job on these weights."""
    changed = {} if recipe == "rehearsal" else stand_ins(recipe)
    sets = (word for name, value in changed.items() for word in ("--set", f"{name}={json.dumps(value)}"))
    words = ("generate", "--recipe", recipe, "--engine", "flux", "--doctor-image", str(photo))
    return (*words, "--scenario", "consultant", "--seed", str(seed), "--attempts", "1", *sets,
            "--output", str(output), "--json")  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("rehearsal")
    path = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return Tiny(folder / "weights", doctorgen(folder, path, "models", "tiny", "weights"))


def made_alone(tiny: Tiny, photo: Path) -> dict[str, Made]:
    """By the embedded pipeline: the rehearsal as a user types it, the others one after the other in one process."""
    folder = tiny.folder.parent
    first = doctorgen(folder, tiny.environment, *words_of("rehearsal", photo, folder / "alone-rehearsal.png", SEED))
    others = ended([sys.executable, "-m", "tests.e2e.recipes_alone", photo, folder, *RECIPES], folder, tiny.environment)
    outcomes = [json.loads(first), *map(json.loads, others.splitlines())]
    assert [outcome["status"] for outcome in outcomes] == ["done"] * len(outcomes)
    return {
        recipe: Made(outcome["metadata"], (folder / f"alone-{recipe}.png").read_bytes())
        for recipe, outcome in zip(("rehearsal", *RECIPES), outcomes, strict=True)
    }


@pytest.fixture(scope="module")
def making_alone(tiny: Tiny, photo: Path) -> Iterator[Future[dict[str, Made]]]:
    with ThreadPoolExecutor() as pool:
        yield pool.submit(made_alone, tiny, photo)


@pytest.fixture(scope="module")
def workers(
    making_alone: Future[dict[str, Made]],
    tiny: Tiny,
    rabbitmq_node: RabbitNode,
    s3_server: S3Server,
    postgres_server: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """A deployment of its own whose workers have these weights, and the engines for them ready."""
    with (
        rabbitmq_node.virtual_host() as vhost,
        deployed(
            rabbitmq_node.url_of(vhost),
            s3_server.settings("rehearsal"),
            postgres_server.create_database(),
            tmp_path_factory.mktemp("workers"),
            environment={**tiny.environment, "DOCTORGEN_WARM_ENGINES": '["flux"]'},
        ) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def by_workers(workers: Deployment, photo: Path) -> Mapping[str, Made]:
    """The same by the workers, one after the other."""
    return {recipe: by(workers, recipe, photo, SEED) for recipe in ("rehearsal", *RECIPES)}


@pytest.fixture(scope="module")
def alone(by_workers: Mapping[str, Made], making_alone: Future[dict[str, Made]]) -> dict[str, Made]:
    """By the embedded pipeline, while the workers were at it."""
    return making_alone.result()


def by(deployment: Deployment, recipe: str, photo: Path, seed: int) -> Made:
    """A job that the deployment does."""
    output = deployment.folder / f"{recipe}-{seed}.png"
    outcome = deployment.doctorgen(*words_of(recipe, photo, output, seed))
    assert outcome.returncode == 0, outcome.stderr
    return Made(json.loads(outcome.stdout)["metadata"], output.read_bytes())


def check(made: Made, tiny: Tiny, models: Collection[str]) -> None:
    """It is what the recipe says, by the engines it insists on, with the weights there are."""
    recipe = find_recipe(None, made.metadata["recipe"])
    assert made.metadata["engines"] == {step.name: step.engine or "flux" for step in recipe.steps}
    for model in models:
        assert made.metadata["licences"][model] == "none: random numbers"
    assert made.metadata["models"]["tiny-flux"] == tiny.digest("tiny-flux")
    assert made.metadata["resolution"] == "512x512"
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
    assert said == f"rehearsal with the engines that its steps name: all {len(MODELS)} models are there\n"
    verified = doctorgen(tiny.folder.parent, settings, "models", "verify")
    assert verified == "".join(f"{name}: ready\n" for name in MODELS)


def test_one_process_does_all_stages_with_them(alone: dict[str, Made], tiny: Tiny) -> None:
    check(alone["rehearsal"], tiny, set(MODELS) - {"tiny-insight"})  # whose files are named one by one
    assert alone["rehearsal"].metadata["reused"] == []


def test_each_manifest_names_the_engine_and_its_models(alone: dict[str, Made], tiny: Tiny) -> None:
    job = alone["rehearsal"].metadata["job_id"]
    files = (tiny.folder.parent / "data" / "store").rglob("manifests/*.json")
    all_of_them = [Manifest.from_json(file.read_bytes()) for file in files]
    manifests = {manifest.step: manifest for manifest in all_of_them if manifest.job_id == job}
    assert set(manifests) == set(STEPS)
    pulid = {"tiny-pulid": tiny.digest("tiny-pulid")}
    flux = {"tiny-flux": tiny.digest("tiny-flux")}
    assert {manifest.engine for manifest in manifests.values()} == {"flux"}
    assert manifests["identity"].models == pulid
    assert manifests["generate"].models == {**pulid, **flux}
    assert manifests["generate"].facts["identity"] == "tiny-pulid"
    assert manifests["hands"].models == {**flux, "tiny-hands": tiny.digest("tiny-hands")}
    assert manifests["refine"].models == flux
    assert "first_sigma" in manifests["refine"].facts


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_published_recipe_completes_on_such_weights(alone: dict[str, Made], tiny: Tiny, recipe: str) -> None:
    """Its steps and engines as published."""
    made = alone[recipe]
    check(made, tiny, {"tiny-flux"})
    if recipe == "portrait":
        assert made.metadata["reused"] == ["identity"], "which rehearsal had encoded"


@pytest.mark.parametrize("recipe", ["rehearsal", *RECIPES])
def test_workers_on_rabbitmq_make_the_very_same_picture(
    alone: dict[str, Made], by_workers: Mapping[str, Made], tiny: Tiny, recipe: str
) -> None:
    same = by_workers[recipe]
    check(same, tiny, {"tiny-flux"})
    assert same.picture == alone[recipe].picture


def test_another_seed_makes_another_picture_of_the_identity_that_is_there(
    alone: dict[str, Made], workers: Deployment, photo: Path
) -> None:
    other = by(workers, "rehearsal", photo, SEED + 1)
    assert other.metadata["reused"] == ["identity"]
    assert other.picture != alone["rehearsal"].picture
