"""One machine or many processes, once or again: the same request gives the same bytes."""

import json
from pathlib import Path

import pytest
from PIL import Image

from doctor_image_gen import DoctorImageGenerator
from doctor_image_gen.result import Generated
from doctor_image_gen.settings import Settings
from tests.e2e.deployment import Deployment

SCENARIO = "research"


def generate(settings: Settings, photo: Path, output: Path) -> Generated:
    with DoctorImageGenerator(settings) as generator:
        return generator.generate(photo, SCENARIO, settings={"timeout_s": 120.0}, output_path=output)


@pytest.fixture(scope="module")
def distributed(deployment: Deployment, photo: Path) -> tuple[Generated, bytes]:
    output = deployment.folder / "distributed.png"
    return generate(deployment.settings, photo, output), output.read_bytes()


def test_separate_processes_make_a_portrait_of_4096_by_4096_that_passes(
    distributed: tuple[Generated, bytes], deployment: Deployment
) -> None:
    result, _ = distributed
    metadata = result["metadata"]
    assert metadata["verdict"]["passed"], metadata["verdict"]["reasons"]
    assert metadata["identity_score"] is not None
    assert metadata["identity_score"] >= 0.7
    assert set(metadata["engines"].values()) == {"portable"}
    assert metadata["cost_usd"] > 0
    assert result["output_path"]
    with Image.open(result["output_path"]) as picture:
        assert picture.size == (4096, 4096)


def test_the_embedded_pipeline_gives_the_very_same_bytes(
    distributed: tuple[Generated, bytes], photo: Path, tmp_path: Path
) -> None:
    output = tmp_path / "embedded.png"
    result = generate(Settings(data_dir=tmp_path / "data"), photo, output)
    assert result["metadata"]["reused"] == []
    assert output.read_bytes() == distributed[1]


def test_two_embedded_runs_give_the_same_bytes(photo: Path, tmp_path: Path) -> None:
    """Each in a store of its own, so that neither finds the other's results."""
    for run in ("one", "two"):
        generate(Settings(data_dir=tmp_path / run), photo, tmp_path / f"{run}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_second_submission_runs_no_step(
    distributed: tuple[Generated, bytes], deployment: Deployment, photo: Path
) -> None:
    """Through the command line this time."""
    output = deployment.folder / "again.png"
    command = ["generate", "--doctor-image", str(photo), "--scenario", SCENARIO, "--output", str(output), "--json"]
    done = deployment.doctorgen(*command)
    assert done.returncode == 0, done.stderr
    metadata = json.loads(done.stdout)["metadata"]
    assert metadata["reused"] == list(distributed[0]["metadata"]["engines"])
    assert metadata["cost_usd"] == 0
    assert output.read_bytes() == distributed[1]


def test_a_batch_of_one_doctor_encodes_the_identity_once(deployment: Deployment, photo: Path) -> None:
    with DoctorImageGenerator(deployment.settings) as generator:
        results = generator.batch_generate(
            photo,
            ["speaker", "telehealth"],
            subject="batch-of-one-doctor",
            output_dir=deployment.folder / "batch",
            settings={"timeout_s": 120.0},
        )
    assert [result["status"] for result in results] == ["done", "done"]
    encoded = [result for result in results if "identity" not in result["metadata"]["reused"]]
    assert len(encoded) == 1
