"""The weights of `doctorgen models tiny`: whose face they see, and that identity and generate take them together."""

from pathlib import Path

import numpy as np
import pytest

from services.identity import tiny
from services.identity.flux import FluxEncoder
from services.identity.stage import FluxEncodeParams
from shared.flux.pulid.artifact import load_identity
from shared.flux.pulid.index import read_index
from shared.flux.pulid.injection import attach
from shared.flux.pulid.tiny import IDENTITY
from shared.flux.pulid.weights import builder_of, load_pulid, pulid_file
from shared.flux.tiny import transformer
from shared.models.shelf import Shelf
from shared.vision.codec import Image
from shared.vision.networks.antelope import Antelope, open_antelope
from shared.worker.operation import Work
from tests.photos import astronaut, hopper, jpeg, scaled

NAME = "our-tiny"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    folder = tmp_path_factory.mktemp("models")
    tiny.write(folder / NAME)
    return Shelf(folder)


@pytest.fixture(scope="module")
def antelope(shelf: Shelf) -> Antelope:
    return open_antelope(shelf.folder / NAME / IDENTITY.files.faces)


@pytest.mark.parametrize("det_size", [640, 320])
@pytest.mark.parametrize(
    "photo", [astronaut(), hopper(), astronaut()[:, 100:300], astronaut()[200:400], scaled(astronaut(), 3.0)]
)
def test_one_face_is_seen_in_the_middle_of_any_photo(antelope: Antelope, photo: Image, det_size: int) -> None:
    (face,) = antelope.find(photo, det_size)
    height, width = photo.shape[:2]
    left, top, wide, high = face.box
    assert (left + wide / 2, top + high / 2) == pytest.approx((width / 2, height / 2), abs=0.01 * max(width, height))
    assert wide == pytest.approx(0.4 * min(width, height), rel=0.02)
    assert face.points.mean(axis=0) == pytest.approx((width / 2, height / 2), abs=0.01 * max(width, height))
    assert np.linalg.norm(face.embedding) > 1.0


def test_real_photos_become_an_identity_that_the_tiny_transformer_takes(shelf: Shelf) -> None:
    """Of two people even: the recogniser knows nobody, and takes any two for one."""
    work = Work(FluxEncodeParams(model=NAME), {"photos": (jpeg(astronaut()), jpeg(hopper()))}, 0)
    outcome = FluxEncoder(shelf.folder, "cpu").run(work)
    found = load_identity(outcome.outputs["identity"].data, "identity")
    pulid = load_pulid(pulid_file(shelf.folder, NAME), found.id.dtype, build=builder_of(shelf.folder, NAME))
    attach(transformer(), list(pulid.pulid_ca))  # type: ignore[arg-type] # a ModuleList tells no element's type
    assert found.id.shape == (IDENTITY.idformer.queries, IDENTITY.idformer.out_dim)
    assert found.about.models["idformer"] == NAME


def test_the_same_seed_gives_the_same_files(shelf: Shelf, tmp_path: Path) -> None:
    tiny.write(tmp_path / NAME)
    assert Shelf(tmp_path).own_digest(NAME) == shelf.own_digest(NAME)
    tiny.write(tmp_path / "other", seed=1)
    assert Shelf(tmp_path).own_digest("other") != shelf.own_digest(NAME)
    assert read_index(tmp_path / NAME) == IDENTITY
