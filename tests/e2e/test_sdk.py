"""The SDK on the real embedded pipeline, with a recipe that is small and quick."""

import base64
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from doctor_image_gen import DoctorImageGenerator
from doctor_image_gen.settings import Settings
from shared.contracts.errors import InvalidInput, Permanent
from shared.contracts.event import Event
from tests.e2e.test_bad_input import SKETCH

STEPS = ["identity", "generate", "qa"]
METADATA = {
    "job_id",
    "subject",
    "scenario",
    "scenario_name",
    "photography_style",
    "resolution",
    "generation_time",
    "prompt_used",
    "negative_prompt",
    "model",
    "engines",
    "models",
    "licences",
    "identity_score",
    "identity_rating",
    "verdict",
    "attempts",
    "seed",
    "recipe",
    "timings",
    "reused",
    "cost_usd",
    "timestamp",
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    (home / "own" / "recipes").mkdir(parents=True)
    (home / "own" / "recipes" / "sketch.yaml").write_text(SKETCH)
    return Settings(data_dir=home / "data", user_folder=home / "own")


@pytest.fixture(scope="module")
def generator(settings: Settings) -> Iterator[DoctorImageGenerator]:
    with DoctorImageGenerator(settings) as generator:
        yield generator


def sketch(**more: Any) -> dict[str, Any]:
    return {"recipe": "sketch", **more}


def test_generate_gives_back_what_is_documented(generator: DoctorImageGenerator, photo: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    result = generator.generate(
        doctor_image_path=str(photo),
        scenario="research",
        photography_style="cinematic",
        custom_prompt="autumn light",
        settings=sketch(seed=7, **{"generate.light_wrap": 0.1}),
        output_path=str(tmp_path / "result.png"),
        on_event=events.append,
        attributes={"gender": "female", "age": 40},
    )
    assert set(result) == {"status", "output_path", "metadata"}
    assert (result["status"], result["output_path"]) == ("done", str(tmp_path / "result.png"))
    with Image.open(tmp_path / "result.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (512, 512))
    metadata = result["metadata"]
    assert set(metadata) == METADATA
    assert (metadata["scenario"], metadata["scenario_name"]) == ("research", "Research Laboratory")
    assert (metadata["photography_style"], metadata["recipe"], metadata["seed"]) == ("cinematic", "sketch", 7)
    assert metadata["resolution"] == "512x512"
    assert metadata["prompt_used"].startswith("A 40-year-old female doctor")
    assert "autumn light" in metadata["prompt_used"]
    assert "watermark" in metadata["negative_prompt"]
    assert (metadata["model"], metadata["engines"]) == ("portable", dict.fromkeys(STEPS, "portable"))
    assert all(len(digest) == 64 for digest in metadata["models"].values())
    assert metadata["identity_rating"] in {"good", "excellent"}
    assert metadata["identity_score"] == metadata["verdict"]["likeness"]["score"]
    assert list(metadata["timings"]) == STEPS
    assert metadata["reused"] == []
    spent = sum(metadata["timings"].values())
    assert metadata["cost_usd"] == pytest.approx(spent * 4.04 / 3600, rel=0.05)
    assert metadata["generation_time"] >= spent * 0.5
    assert datetime.fromisoformat(metadata["timestamp"]).tzinfo is not None
    assert (events[0].kind, events[-1].kind) == ("accepted", "done")
    assert [(event.kind, event.step) for event in events[1:-1] if event.kind != "progress"] == [
        (kind, step) for step in STEPS for kind in ("started", "finished")
    ]


def test_the_same_request_again_runs_no_step_and_costs_nothing(
    generator: DoctorImageGenerator, photo: Path, tmp_path: Path
) -> None:
    first, second = (
        generator.generate(photo, "speaker", settings=sketch(), output_path=tmp_path / f"{number}.png")
        for number in (1, 2)
    )
    assert second["metadata"]["reused"] == STEPS
    assert second["metadata"]["cost_usd"] == 0
    assert first["metadata"]["seed"] == second["metadata"]["seed"]
    assert first["metadata"]["job_id"] != second["metadata"]["job_id"]
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_a_key_stands_for_one_job(generator: DoctorImageGenerator, photo: Path) -> None:
    first, second = (
        generator.generate(photo, "speaker", settings=sketch(), idempotency_key="order-1") for _ in range(2)
    )
    assert first == second


def test_without_a_place_the_picture_goes_to_the_results_of_the_data_folder(
    generator: DoctorImageGenerator, photo: Path, settings: Settings
) -> None:
    result = generator.generate(photo, "speaker", settings=sketch(include_base64=True))
    job_id = result["metadata"]["job_id"]
    place = settings.data_dir / "results" / f"speaker-{job_id}.png"
    assert result["output_path"] == str(place)
    picture = base64.b64decode(result["output_base64"])
    assert picture == place.read_bytes()
    with Image.open(BytesIO(picture)) as opened:
        assert opened.size == (512, 512)


def test_a_batch_keeps_the_order_encodes_once_and_names_each_picture(
    generator: DoctorImageGenerator, photo: Path, tmp_path: Path
) -> None:
    names = ["telehealth", "candid_walk"]
    words: dict[str, Any] = {"settings": sketch(), "output_dir": tmp_path / "out", "subject": "dr-batch"}
    results = generator.batch_generate([photo], names, **words)
    assert [result["status"] for result in results] == ["done", "done"]
    made = [result["metadata"] for result in results]
    assert [one["scenario"] for one in made] == ["telehealth", "candid_walk"]
    assert sum("identity" in one["reused"] for one in made) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["candid_walk.png", "telehealth.png"]


def test_a_batch_reports_a_job_that_failed_in_its_place_and_makes_the_others(
    generator: DoctorImageGenerator, photo: Path, tmp_path: Path
) -> None:
    """The failed one stands from before, under the same key."""
    words: dict[str, Any] = {"idempotency_key": "order-7", "output_dir": tmp_path / "out"}
    (late,) = generator.batch_generate(photo, ["speaker"], settings=sketch(deadline_s=1e-6), **words)
    results = generator.batch_generate(photo, ["speaker", "telehealth"], settings=sketch(), **words)
    assert results[0] == late
    assert set(late) == {"status", "output_path", "error"}
    assert (late["status"], late["output_path"]) == ("expired", None)
    assert results[1]["status"] == "done"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["telehealth.png"]


@pytest.mark.parametrize(
    ("names", "words", "field"),
    [([], {}, "scenarios"), (["speaker", "speaker"], {}, "scenarios"), (["speaker"], {"job_id": "mine"}, "job_id")],
)
def test_a_batch_that_makes_no_sense_is_refused_as_a_whole(
    generator: DoctorImageGenerator, photo: Path, names: list[str], words: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        generator.batch_generate(photo, names, **words)
    assert refused.value.field == field


def test_a_job_past_its_deadline_is_given_up_with_its_reason(generator: DoctorImageGenerator, photo: Path) -> None:
    with pytest.raises(Permanent, match=r"is expired: the job's deadline, .*, has passed\. Submit the job again"):
        generator.generate(photo, "speaker", settings=sketch(deadline_s=1e-6))


def test_a_closed_generator_opens_again(settings: Settings, photo: Path, tmp_path: Path) -> None:
    generator = DoctorImageGenerator(settings)
    generator.close()
    for number in (1, 2):
        result = generator.generate(photo, "speaker", settings=sketch(), output_path=tmp_path / f"{number}.png")
        assert result["status"] == "done"
        generator.close()
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_defaults_changed_in_the_file_count_for_the_next_job(
    settings: Settings, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two jobs of one generator, without a restart."""
    config = tmp_path / "settings.yaml"
    config.write_text("generation: {recipe: sketch, photography_style: noir_no_such}\n")
    monkeypatch.setenv("DOCTORGEN_CONFIG", str(config))
    changed = Settings(data_dir=tmp_path / "data", user_folder=settings.user_folder)
    with DoctorImageGenerator(changed) as generator:
        with pytest.raises(InvalidInput, match=r"^photography_style: 'noir_no_such' is not known"):
            generator.generate(photo, "speaker", output_path=tmp_path / "1.png")
        config.write_text("generation: {recipe: sketch, photography_style: cinematic}\n")
        result = generator.generate(photo, "speaker", output_path=tmp_path / "2.png")
    assert result["metadata"]["photography_style"] == "cinematic"
