"""A picture handed in beside the photos, through the whole embedded pipeline: made use of, kept apart, erased."""

from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from doctor_image_gen import DoctorImageGenerator
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from doctor_image_gen.subjects import erase
from services.gateway.defaults import GenerationDefaults
from shared.contracts.errors import InvalidInput
from shared.storage.digest import sha256

RETOUCH = """
name: retouch
version: 1
title: A portrait that there is already, retouched and compared with the photos
result: refine.image
verdict: qa.verdict
steps:
  - {name: identity, operation: identity.encode, inputs: {photos: request.photos}, brief: [faces]}
  - {name: refine, operation: refine.photoreal, inputs: {image: request.portrait}}
  - name: qa
    operation: qa.score
    inputs: {image: refine.image, identity: identity.identity}
    params: {width: 640, height: 560}
"""
LIMIT_S = 120


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "own" / "recipes").mkdir(parents=True)
    (tmp_path / "own" / "recipes" / "retouch.yaml").write_text(RETOUCH)
    defaults = GenerationDefaults(recipe="retouch")
    return Settings(data_dir=tmp_path / "data", user_folder=tmp_path / "own", generation=defaults)


@pytest.fixture
def generator(settings: Settings) -> Iterator[DoctorImageGenerator]:
    with DoctorImageGenerator(settings) as generator:
        yield generator


@pytest.fixture
def portrait(photo: Path, tmp_path: Path) -> Path:
    """The doctor's picture in a size of its own."""
    with Image.open(photo) as picture:
        picture.resize((640, 560)).save(tmp_path / "portrait.png")
    return tmp_path / "portrait.png"


@pytest.fixture
def mirrored(portrait: Path) -> Path:
    with Image.open(portrait) as picture:
        ImageOps.mirror(picture).save(portrait.with_name("mirrored.png"))
    return portrait.with_name("mirrored.png")


def test_a_recipe_makes_its_picture_of_the_image_that_the_request_brings(
    generator: DoctorImageGenerator, photo: Path, portrait: Path, mirrored: Path, tmp_path: Path
) -> None:
    """Another image is another picture; the same one again is found done, though the file is called otherwise."""
    (tmp_path / "copy.png").write_bytes(portrait.read_bytes())
    files = (portrait, mirrored, tmp_path / "copy.png")
    made = [generator.generate(photo, "speaker", images={"portrait": file}) for file in files]
    first, second, third = (Path(str(one["output_path"])).read_bytes() for one in made)
    assert first != second
    assert first == third
    assert [one["metadata"]["reused"] for one in made] == [[], ["identity"], ["identity", "refine", "qa"]]
    assert all(one["metadata"]["verdict"]["passed"] for one in made), "it is the doctor, and of the size that was given"
    with Image.open(BytesIO(first)) as picture:
        assert picture.size == (640, 560)


def test_an_image_too_many_or_too_few_is_refused_with_the_mend(
    generator: DoctorImageGenerator, photo: Path, portrait: Path
) -> None:
    reads = "the recipe 'retouch' reads portrait"
    with pytest.raises(InvalidInput) as refused:
        generator.generate(photo, "speaker")
    assert str(refused.value) == f"images.portrait: it is not given, and {reads}. Give it, or choose another recipe."
    with pytest.raises(InvalidInput) as refused:
        generator.generate(photo, "speaker", images={"portrait": portrait, "portriat": portrait})
    assert str(refused.value) == f"images.portriat: it is given, and {reads}. Did you mean portrait?"


def test_a_batch_s_images_reach_its_jobs_and_those_of_one_doctor_go_with_the_doctor(
    settings: Settings, photo: Path, portrait: Path, mirrored: Path
) -> None:
    wish = {
        "batch_id": "autumn",
        "subjects": [
            {"subject": "dr-a", "photos": [str(photo)], "images": {"portrait": str(mirrored)}},
            {"subject": "dr-b", "photos": [str(photo)]},
        ],
        "scenarios": ["speaker"],
        "images": {"portrait": str(portrait)},
    }
    with DoctorImageGenerator(settings) as generator:
        generator.submit_batch(wish)
        assert generator.wait_for_batch("autumn", timeout_s=LIMIT_S).by_state == {"done": 2}
    with closing(Connections.open(settings)) as connections:
        store = connections.store
        own, for_all = (f"inbox/{sha256(file.read_bytes())}.png" for file in (mirrored, portrait))
        assert {own, for_all} < set(store.keys("inbox/"))
        assert [len(list(store.keys(f"subjects/{who}/photo/"))) for who in ("dr-a", "dr-b")] == [2, 2]
        report = erase(connections, settings, "dr-a")
        assert (report.objects["photo"], report.objects["inbox"], report.rows["jobs"]) == (2, 2, 1)
        assert list(store.keys("subjects/dr-a/")) == []
        assert list(store.keys("inbox/")) == [for_all]
        assert len(list(store.keys("subjects/dr-b/photo/"))) == 2
