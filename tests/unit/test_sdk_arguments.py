"""What the SDK says to arguments that it cannot use: each by its name, and before anything is computed or filed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doctor_image_gen.generator import DoctorImageGenerator
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.contracts.errors import InvalidInput
from tests.unit.job_files import put_jobs
from tests.unit.photo_files import encoded, picture

Call = Callable[[DoctorImageGenerator], object]


def generate(*arguments: Any, **keywords: Any) -> Call:
    return lambda generator: generator.generate(*arguments, **keywords)


def batch(*arguments: Any, **keywords: Any) -> Call:
    return lambda generator: generator.batch_generate(*arguments, **keywords)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (generate(None, "consultant"), "doctor_image_path: found None. Give the name of a file as a string or a Path."),
        (generate(5, "consultant"), "doctor_image_path: found 5. "),
        (generate(b"me.png", "consultant"), "doctor_image_path: found b'me.png'. "),
        (generate({"photo": "me.png"}, "consultant"), "doctor_image_path: found {'photo': 'me.png'}. "),
        (generate(["me.png", None], "consultant"), "doctor_image_path: found None as photo 2. "),
        (generate("me.png", "consultant", output_path=5), "output_path: found 5. "),
        (generate("me.png", "consultant", settings=[]), "settings: found []. Give values by name, as {'seed': 7}."),
        (generate("me.png", "consultant", settings={1: 2}), "settings: found {1: 2}. "),
        (batch(5, ["consultant"]), "doctor_image_path: found 5. "),
        (batch("me.png", ["consultant"], output_dir=b"out"), "output_dir: found b'out'. "),
        (batch("me.png", "speaker"), "scenarios: found 'speaker'. Give a list of names, as ['consultant']."),
        (batch("me.png", None), "scenarios: found None. "),
        (batch("me.png", [["consultant"]]), "scenarios: found [['consultant']]. "),
        (lambda generator: generator.submit_batch(5), "batch: found 5. "),
    ],
)
def test_an_argument_of_another_type_is_named(call: Call, said: str, tmp_path: Path) -> None:
    """No TypeError from within, which names nothing that the caller has written."""
    with pytest.raises(InvalidInput) as refused:
        call(DoctorImageGenerator(Settings(data_dir=tmp_path / "data")))
    assert str(refused.value).startswith(said)
    assert not (tmp_path / "data").exists(), "no pipeline is opened for it"


@pytest.mark.parametrize(
    ("scenarios", "words", "said"),
    [
        (["consultant", "consultnt"], {}, "scenario: 'consultnt' is not known. Did you mean consultant?"),
        (["consultant", "speaker"], {"settings": {"upscale.witdh": 512}}, "overrides.upscale.witdh: "),
    ],
)
def test_nothing_of_a_batch_is_filed_where_one_of_its_jobs_would_be_refused(
    scenarios: list[str], words: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Or the good ones are computed, for minutes, before a typing error is told."""
    put_jobs(tmp_path / "data" / "jobs.sqlite")
    (tmp_path / "me.png").write_bytes(encoded(picture(), "PNG"))
    settings = Settings(data_dir=tmp_path / "data")
    with DoctorImageGenerator(settings) as generator, pytest.raises(InvalidInput) as refused:
        generator.batch_generate(tmp_path / "me.png", scenarios, output_dir=tmp_path / "out", **words)
    assert str(refused.value).startswith(said)
    assert not (tmp_path / "out").exists()
    connections = Connections.open(settings)
    try:
        assert connections.jobs.recent(1) == ()
    finally:
        connections.close()
