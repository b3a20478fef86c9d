"""Dead letters as a caller of the SDK reaches them: from the generator whose pipeline runs, and alone."""

from pathlib import Path

import pytest

import doctor_image_gen
from doctor_image_gen import DeadLetters, DoctorImageGenerator
from doctor_image_gen.settings import Settings
from shared.contracts.errors import InvalidInput
from tests.unit.job_files import put_jobs
from tests.unit.letter_samples import letter


def test_the_generator_has_them_and_they_are_those_of_its_deployment(tmp_path: Path) -> None:
    put_jobs(tmp_path / "data" / "jobs.sqlite")
    settings = Settings(data_dir=tmp_path / "data")
    with DeadLetters.open(settings) as dead:
        assert dead.import_([letter(1).to_json()]).filed == 1
    with DoctorImageGenerator(settings) as generator:
        (group,) = generator.dead.list()
        assert (group.example, group.count) == ("letter-1", 1)
        assert generator.dead.show("letter-1").filed.letter == letter(1)
        (planned,) = generator.dead.replay("letter-1", dry_run=True)
        assert planned.result == "planned"
        assert generator.dead.discard("letter-1") == 1
    with DeadLetters.open(settings) as dead:
        assert dead.list() == ()


def test_a_replay_in_the_running_pipeline_is_worked_off(tmp_path: Path) -> None:
    """No real stage knows the synthetic route, so its worker refuses it: as a new run, with a new letter."""
    put_jobs(tmp_path / "data" / "jobs.sqlite")
    with DoctorImageGenerator(Settings(data_dir=tmp_path / "data")) as generator:
        dead = generator.dead
        dead.import_([letter(1).to_json()])
        assert [outcome.result for outcome in dead.replay("letter-1")] == ["replayed"]
        until_filed = (filed for _ in range(10_000) for filed in dead.each())
        again = next(until_filed).letter
    assert (again.job_id, again.run, again.error.kind) == ("job-1", 1, "InvalidInput")
    assert again.message is not None
    assert again.message.lineage is not None
    assert again.message.lineage.letter_id == "letter-1"


def test_the_package_offers_both_and_nothing_else() -> None:
    assert doctor_image_gen.__all__ == ["DeadLetters", "DoctorImageGenerator"]
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        doctor_image_gen.Nothing  # noqa: B018 - the attempt is the test


def test_an_unknown_filter_is_named(tmp_path: Path) -> None:
    with DeadLetters.open(Settings(data_dir=tmp_path / "data")) as dead, pytest.raises(InvalidInput) as refused:
        dead.list(fingreprint="f1")
    assert (refused.value.field, refused.value.mend) == ("fingreprint", "Did you mean fingerprint?")
