"""The portrait's own stages with a gate: what the command line prints and the SDK gives back of several attempts."""

from pathlib import Path
from typing import Any

import pytest

from doctor_image_gen import DoctorImageGenerator
from doctor_image_gen.settings import Settings
from shared.contracts.errors import InvalidInput
from shared.storage.open import open_store
from tests.e2e.test_bad_input import SKETCH
from tests.e2e.test_cli import doctorgen

GATED = SKETCH.replace("name: sketch", "name: gated") + "gate: {back_to: generate, attempts: 2}\n"
NEVER = {"qa.min_likeness": 1.0}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in ("cwd", "tmp", "own/recipes"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "own" / "recipes" / "sketch.yaml").write_text(SKETCH)
    (tmp_path / "own" / "recipes" / "gated.yaml").write_text(GATED)
    return Settings(data_dir=tmp_path / "data", user_folder=tmp_path / "own")


def test_a_forced_failure_is_made_again_and_every_attempt_is_in_the_result(
    settings: Settings, photo: Path, tmp_path: Path
) -> None:
    """Then the command line finds the same attempts, computes none, and prints a line for each."""
    told: list[str] = []
    with DoctorImageGenerator(settings) as generator:
        made = generator.generate(
            photo,
            "consultant",
            settings={"recipe": "gated", "seed": 7, **NEVER},
            on_event=lambda e: told.append(e.kind),
        )
        one = generator.generate(photo, "consultant", settings={"recipe": "gated", "seed": 7, "attempts": 1, **NEVER})
        with pytest.raises(InvalidInput, match="has no gate"):
            generator.generate(photo, "consultant", settings={"recipe": "sketch", "attempts": 2})
    metadata: dict[str, Any] = {**made["metadata"]}
    attempts = metadata["attempts"]
    assert told.count("regenerating") == 1
    assert [attempt["number"] for attempt in attempts] == [1, 2]
    assert [attempt["kept"] for attempt in attempts].count(True) == 1
    assert not metadata["verdict"]["passed"]
    kept = next(attempt for attempt in attempts if attempt["kept"])
    assert (
        kept["identity_score"] == max(attempt["identity_score"] for attempt in attempts) == metadata["identity_score"]
    )
    assert len({attempt["image"] for attempt in attempts}) == 2, "another seed, another picture"
    store = open_store(settings.storage_or_folder)
    assert made["output_path"] is not None
    assert Path(made["output_path"]).read_bytes() == store.get(kept["image"])
    assert one["metadata"]["attempts"] == []
    assert one["metadata"]["reused"] == list(one["metadata"]["engines"]), "the first attempt is the same picture"

    words = ("--recipe", "gated", "--scenario", "consultant", "--seed", "7", "--set", "qa.min_likeness=1.0")
    said = doctorgen(tmp_path, "generate", "--doctor-image", str(photo), *words)
    assert said.returncode == 0, said.stderr
    lines = [line.strip() for line in said.stdout.splitlines() if line.strip().startswith("attempt ")]
    assert [line.split(":")[0] for line in lines] == ["attempt 1", "attempt 2"]
    assert [line.endswith(", kept") for line in lines] == [attempt["kept"] for attempt in attempts]
    assert ", 0.0000 USD" in said.stdout
