"""Bad input, line by line of the promise, as a caller of the SDK meets it: field, finding, mend, and nothing left."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from doctor_image_gen import DoctorImageGenerator
from doctor_image_gen.settings import Settings
from services.gateway.defaults import GenerationDefaults
from shared.contracts.errors import InvalidInput
from tests.photos import (
    astronaut,
    blurred,
    cameraman,
    coffee,
    hopper,
    inset,
    jpeg,
    lit,
    mirrored,
    png,
    scaled,
    side_by_side,
)
from tests.unit.photo_files import encoded, picture
from tests.unit.photo_files import png as hollow_png

SKETCH = """
name: sketch
version: 1
title: Small and quick
result: generate.image
verdict: qa.verdict
steps:
  - {name: identity, operation: identity.encode, inputs: {photos: request.photos}, brief: [faces]}
  - name: generate
    operation: generate.text_to_image
    inputs: {photos: request.photos, identity: identity.identity}
    brief: [backdrop, framing]
    params: {width: 512, height: 512}
  - name: qa
    operation: qa.score
    inputs: {image: generate.image, identity: identity.identity}
    params: {width: 512, height: 512}
"""
SCENARIO = "lab_coat_portrait"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "own" / "recipes").mkdir(parents=True)
    (home / "own" / "recipes" / "sketch.yaml").write_text(SKETCH)
    return home


@pytest.fixture(scope="module")
def generator(home: Path) -> Iterator[DoctorImageGenerator]:
    """One for all cases, so that its engines are warm."""
    defaults = GenerationDefaults(recipe="sketch")
    with DoctorImageGenerator(Settings(data_dir=home, user_folder=home / "own", generation=defaults)) as generator:
        yield generator


def one(data: bytes, name: str = "photo.png") -> Callable[[Path], Sequence[Path]]:
    """A photo of these bytes."""
    return several(data, names=(name,))


def several(*files: bytes, names: Sequence[str] = ()) -> Callable[[Path], Sequence[Path]]:
    """Photos of these bytes, numbered from 1 where they are not named."""

    def put(folder: Path) -> Sequence[Path]:
        chosen = names or [f"photo{number}.png" for number in range(1, len(files) + 1)]
        paths = [folder / name for name in chosen]
        for path, data in zip(paths, files, strict=True):
            path.write_bytes(data)
        return paths

    return put


def animated() -> bytes:
    frames = [picture().rotate(angle) for angle in (0, 90)]
    return encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])


def no_file(folder: Path) -> Sequence[Path]:
    return [folder / "nobody.jpg"]


def a_folder(folder: Path) -> Sequence[Path]:
    return [folder]


GOOD = one(png(astronaut()))


@dataclasses.dataclass(frozen=True)
class Case:
    """What is handed in, and what the refusal must say. The patterns are matched from their start."""

    photos: Callable[[Path], Sequence[Path]]
    field: str
    found: str
    mend: str
    words: dict[str, Any] = dataclasses.field(default_factory=dict)


FILES = {
    "wrong type": Case(
        one(encoded(picture(), "GIF"), "me.gif"),
        "photos[1]",
        "the file is a GIF, not a JPEG or PNG",
        "Export the photo as JPEG or PNG",
    ),
    "lying type": Case(
        one(png(astronaut()), "me.jpg"),
        "photos[1]",
        "the name 'me.jpg' says JPEG, but the file is a PNG",
        "Give the file the ending of what it is",
    ),
    "truncated": Case(
        one(jpeg(astronaut())[:-500], "me.jpg"),
        "photos[1]",
        "the JPEG is cut off",
        "Copy or export the photo again",
    ),
    "animated": Case(
        one(animated()),
        "photos[1]",
        "the PNG is animated, with 2 frames",
        "Export a single frame",
    ),
    "over 50 megapixels": Case(
        one(hollow_png(10_000, 5_001)),
        "photos[1]",
        "the picture is 10000 x 5001 pixels, 50.0 megapixels",
        "Reduce it to at most 50 megapixels",
    ),
    "below 512": Case(
        one(png(scaled(astronaut(), 0.75))),
        "photos[1]",
        "the picture is 384 x 384 pixels",
        "Send one of at least 512 x 512",
    ),
    "above 10 MB": Case(
        one(jpeg(astronaut()) + bytes(10 * 2**20), "me.jpg"),
        "photos[1]",
        r"the file has 10\.\d MB",
        "Send at most 10 MB",
    ),
    "no photo": Case(several(), "photos", "no photo was given", "Give 1 to 5 photos of one person"),
    "six photos": Case(several(*[png(astronaut())] * 6), "photos", "6 photos were given", "Give 1 to 5"),
    "missing file": Case(no_file, "photos[1]", "there is no file '.*nobody.jpg'", "Check the path"),
    "a folder": Case(a_folder, "photos[1]", "'.*' is a folder", "Name the photo's file inside it"),
    "the second photo": Case(
        several(png(astronaut()), png(scaled(astronaut(), 0.5))),
        "photos[2]",
        "the picture is 256 x 256 pixels",
        "Send one of at least 512 x 512",
    ),
}

GREY = np.full((512, 512, 3), 90, np.uint8)
FACES = {
    "no face": Case(one(png(scaled(coffee(), 1.5))), "photos[1]", "no face was found", "Use a photo in which the face"),
    "several faces": Case(
        one(png(side_by_side(astronaut(), hopper()))),
        "photos[1]",
        r"2 faces were found, from the left edge at 1: \d+ %, 2: \d+ % of the width",
        r"Say which one is meant, counted from the left \(1 is the leftmost\)",
    ),
    "a face that is not there": Case(
        GOOD,
        "faces[1]",
        r"face 3 was picked, but photos\[1\] shows 1 face",
        "Pick a face from 1",
        {"settings": {"faces": [3]}},
    ),
    "more picks than photos": Case(
        GOOD, "faces", "2 for 1 photos", "Name at most one face a photo", {"settings": {"faces": [1, 1]}}
    ),
    "face too small": Case(
        one(png(inset(GREY, scaled(astronaut(), 0.6), 100, 100))),
        "photos[1]",
        r"the face is too small: 5\d pixels wide, at least 80 are needed",
        "Use a photo taken from nearer",
    ),
    "turned away": Case(
        one(png(scaled(cameraman(), 2.0))),
        "photos[1]",
        r"the face is turned 5\d degrees to the picture's right, at most 45 can be used",
        "Use a photo in which the person looks towards the camera",
    ),
    "too dark": Case(
        one(png(lit(astronaut(), 0.2))),
        "photos[1]",
        r"the face is too dark: its mean grey level is 3\d of 255, at least 40",
        "Use a photo taken in more light",
    ),
    "too blurred": Case(
        one(png(blurred(astronaut(), 4.0))),
        "photos[1]",
        r"the face is too blurred: its sharpness is \d+, at least 40",
        "Use a photo in focus",
    ),
    "two persons": Case(
        several(png(astronaut()), png(hopper())),
        "photos[1], photos[2]",
        r"these photos show different people, at distances up to 0\.\d\d",
        "Leave out every photo of another person",
    ),
    "a stranger among three": Case(
        several(png(astronaut()), png(hopper()), png(mirrored(astronaut()))),
        "photos[2]",
        r"shows another person than the rest, distance 0\.\d\d",
        "Leave out every photo of another person",
    ),
}

WISHES = {
    "scenario": Case(
        GOOD, "scenario", "'consultnt' is not known", "Did you mean consultant", {"scenario": "consultnt"}
    ),
    "scenario in capitals": Case(
        GOOD, "scenario", ".*found 'Consultant'", "Correct it and try again", {"scenario": "Consultant"}
    ),
    "style": Case(
        GOOD,
        "photography_style",
        "'cinematik' is not known",
        "Did you mean cinematic",
        {"photography_style": "cinematik"},
    ),
    "recipe": Case(
        GOOD, "recipe", "there is no recipe 'portait'", "Did you mean portrait", {"settings": {"recipe": "portait"}}
    ),
    "engine": Case(
        GOOD,
        "engine",
        "identity.encode has no engine 'portabel'",
        "Did you mean portable",
        {"settings": {"engine": "portabel"}},
    ),
    "setting out of range": Case(
        GOOD,
        "settings.seed",
        "Input should be greater than or equal to 0, found -1",
        "Correct it",
        {"settings": {"seed": -1}},
    ),
    "unknown setting": Case(
        GOOD, "settings.sead", "there is no such field", "Did you mean seed", {"settings": {"sead": 1}}
    ),
    "setting given as keyword": Case(GOOD, "seed", "there is no such keyword", r"Write settings=\{'seed'", {"seed": 1}),
    "parameter out of range": Case(
        GOOD,
        "overrides.generate.light_wrap",
        "Input should be less than or equal to 1, found 7",
        "Correct it",
        {"settings": {"generate.light_wrap": 7}},
    ),
    "unknown parameter": Case(
        GOOD,
        "overrides.generate.light_rap",
        "there is no such field",
        "Did you mean light_wrap",
        {"settings": {"generate.light_rap": 0.5}},
    ),
    "unknown step": Case(
        GOOD,
        "overrides.genrate",
        "the recipe 'sketch' has no step of that name",
        "Did you mean generate",
        {"settings": {"overrides": {"genrate": {"light_wrap": 0.5}}}},
    ),
    "no overrides at all": Case(
        GOOD, "settings.overrides", "Input should be a valid dictionary", "Correct it", {"settings": {"overrides": 5}}
    ),
    "deadline beyond all calendars": Case(
        GOOD,
        "settings.deadline_s",
        "Input should be less than or equal to",
        "Correct it",
        {"settings": {"deadline_s": 1e300}},
    ),
    "subject that is no id": Case(GOOD, "subject", ".*found 'Dr. X/y'", "Correct it", {"subject": "Dr. X/y"}),
    "age of a child": Case(
        GOOD,
        "attributes.age",
        "Input should be greater than or equal to 18, found 7",
        "Correct it",
        {"attributes": {"age": 7}},
    ),
    "words too many": Case(
        GOOD, "custom_prompt", "String should have at most 1000 characters", "Correct it", {"custom_prompt": "x" * 1001}
    ),
}


@pytest.mark.parametrize("case", [*FILES.values(), *FACES.values(), *WISHES.values()], ids=[*FILES, *FACES, *WISHES])
def test_bad_input_is_refused_by_name_and_leaves_nothing(
    case: Case, generator: DoctorImageGenerator, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    photos = case.photos(tmp_path / "in")
    output = tmp_path / "out" / "result.png"
    words = {"scenario": SCENARIO, "output_path": output, **case.words}
    with pytest.raises(InvalidInput) as refused:
        generator.generate(photos, **words)
    assert refused.value.field == case.field
    assert re.match(case.found, refused.value.found)
    assert re.match(case.mend, refused.value.mend)
    assert str(refused.value) == f"{refused.value.field}: {refused.value.found}. {refused.value.mend}"
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path not in photos] == []
    assert not (home / "results").exists()


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(b"here before")
    return folder / "file" / "result.png"


def an_existing_folder(folder: Path) -> Path:
    return folder


def another_type(folder: Path) -> Path:
    return folder / "result.jpg"


def a_device(_: Path) -> Path:
    return Path("/dev/null")


@pytest.mark.parametrize(
    ("place", "found", "mend"),
    [
        (below_a_file, r"'.*result\.png' cannot be written \((Not a directory|File exists)\)", "Name a file"),
        (an_existing_folder, "'.*' is a folder", "Name the file"),
        (another_type, r"'result\.jpg' does not end in \.png, but the picture is a PNG", "Rename it"),
        (a_device, "'/dev/null' is not a plain file", "Name the file"),
    ],
)
def test_a_place_where_the_picture_cannot_go_is_refused_before_any_work(
    place: Callable[[Path], Path], found: str, mend: str, generator: DoctorImageGenerator, tmp_path: Path
) -> None:
    (photo,) = GOOD(tmp_path)
    output = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    events: list[str] = []
    with pytest.raises(InvalidInput) as refused:
        generator.generate(photo, SCENARIO, output_path=output, on_event=lambda event: events.append(event.kind))
    assert refused.value.field == "output_path"
    assert re.match(found, refused.value.found)
    assert refused.value.mend.startswith(mend)
    assert events == []
    assert sorted(tmp_path.rglob("*")) == before


def test_picking_one_of_several_faces_makes_the_photo_usable(generator: DoctorImageGenerator, tmp_path: Path) -> None:
    (photo,) = one(png(side_by_side(astronaut(), hopper())))(tmp_path)
    result = generator.generate(photo, SCENARIO, settings={"faces": [2]}, output_path=tmp_path / "result.png")
    assert result["status"] == "done"
    assert result["metadata"]["identity_rating"] in {"good", "excellent"}


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photo_turned_by_its_exif_is_the_upright_photo(
    orientation: int, generator: DoctorImageGenerator, tmp_path: Path
) -> None:
    """The normalised photo is the same to the byte: no step runs again for it."""
    back = {
        3: PillowImage.Transpose.ROTATE_180,
        6: PillowImage.Transpose.ROTATE_90,
        8: PillowImage.Transpose.ROTATE_270,
    }
    turned = PillowImage.fromarray(hopper()).transpose(back[orientation])
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    out = BytesIO()
    turned.save(out, "PNG", exif=exif)
    (upright,) = one(png(hopper()), "upright.png")(tmp_path)
    (lying,) = one(out.getvalue(), "lying.png")(tmp_path)
    words: dict[str, Any] = {"settings": {"seed": 7}, "subject": "dr-hopper"}
    first = generator.generate(upright, SCENARIO, output_path=tmp_path / "first.png", **words)
    second = generator.generate(lying, SCENARIO, output_path=tmp_path / "second.png", **words)
    assert first["status"] == "done"
    assert second["metadata"]["reused"] == ["identity", "generate", "qa"]
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_where_consent_is_required_a_request_without_it_is_refused(tmp_path: Path) -> None:
    (photo,) = GOOD(tmp_path)
    defaults = GenerationDefaults(consent_required=True)
    with (
        DoctorImageGenerator(Settings(data_dir=tmp_path / "data", generation=defaults)) as strict,
        pytest.raises(InvalidInput, match=r"^consent: the request states none\. State the consent that the photos"),
    ):
        strict.generate(photo, SCENARIO)


def test_an_empty_consent_is_none(generator: DoctorImageGenerator, tmp_path: Path) -> None:
    (photo,) = GOOD(tmp_path)
    with pytest.raises(InvalidInput, match=r"^consent\.basis: String should have at least 1 character"):
        generator.generate(photo, SCENARIO, consent={"basis": ""})


def test_a_batch_with_an_unknown_scenario_is_refused_before_any_of_it_is_made(
    generator: DoctorImageGenerator, tmp_path: Path
) -> None:
    (photo,) = GOOD(tmp_path)
    with pytest.raises(InvalidInput, match=r"^scenario: 'consultnt' is not known\. Did you mean consultant\?"):
        generator.batch_generate(photo, [SCENARIO, "consultnt"], output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
