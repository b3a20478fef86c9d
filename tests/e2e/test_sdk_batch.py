"""A batch of several doctors through the SDK on the embedded pipeline: filed as one, ended as one."""

from pathlib import Path

import pytest
import yaml

from doctor_image_gen import DoctorImageGenerator
from doctor_image_gen.settings import Settings
from shared.contracts.batch import BatchSummary
from shared.contracts.errors import InvalidInput
from tests.e2e.test_bad_input import SKETCH


def test_a_batch_is_filed_followed_and_summed_up_as_one(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "own" / "recipes").mkdir(parents=True)
    (tmp_path / "own" / "recipes" / "sketch.yaml").write_text(SKETCH)
    wish = {
        "batch_id": "autumn",
        "caller": "clinic",
        "recipe": "sketch",
        "subjects": [
            {"subject": "dr-a", "photos": [str(photo)], "consent": {"basis": "written"}},
            {"subject": "dr-b", "photos": [str(photo)]},
        ],
        "scenarios": ["consultant", "nonsense"],
    }
    (tmp_path / "batch.yaml").write_text(yaml.safe_dump(wish))
    told: list[BatchSummary] = []
    with DoctorImageGenerator(Settings(data_dir=tmp_path / "data", user_folder=tmp_path / "own")) as generator:
        with pytest.raises(InvalidInput, match="there is no batch 'autumn'"):
            generator.batch_summary("autumn")
        assert generator.submit_batch(tmp_path / "batch.yaml") == "autumn"
        end = generator.wait_for_batch("autumn", told.append, timeout_s=120)
        assert generator.submit_batch(wish, batch_id="autumn") == "autumn", "filed again it is the same batch"
        assert generator.wait_for_batch("autumn", timeout_s=120) == end == generator.batch_summary("autumn")
    assert (end.jobs, end.by_state, end.fraction, end.closed) == (4, {"done": 2, "refused": 2}, 1.0, True)
    assert end.caller == "clinic"
    assert end.mean_score is not None
    assert end.mean_score >= 0.7
    assert (end.passed, len(end.failures)) == (2, 2)
    assert all("'nonsense' is not known" in failure for failure in end.failures)
    assert end.cost_usd > 0
    assert all(summary.batch_id == "autumn" for summary in told)
