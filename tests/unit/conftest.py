"""What several unit tests ask for."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from doctor_image_gen.cli import main
from tests.unit.job_files import put_jobs
from tests.unit.typed import Said, Type

# How long an example takes says something of a machine that others use, too, and nothing of the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture
def type_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """Types `doctorgen …` in an empty folder, without anybody's settings."""
    for name in [name for name in os.environ if name.startswith("DOCTORGEN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DOCTORGEN_DATA_DIR", str(tmp_path / "data"))
    put_jobs(tmp_path / "data" / "jobs.sqlite")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def type_in(*words: str) -> Said:
        status = main(list(words))
        shown = capsys.readouterr()
        return Said(status, shown.out, shown.err)

    return type_in
