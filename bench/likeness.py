"""How far apart faces are: the figures behind the scale of likeness (docs/likeness.md).

python -m bench.likeness                      one person under many treatments, and three strangers
python -m bench.likeness --people FOLDER      your own photos: one folder a person, one face a photo
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.contracts.verdict import rating_of
from shared.vision.codec import Image, decode
from shared.vision.embedding import SAME_PERSON_DISTANCE, Descriptor, FaceEncoder, distance, likeness
from shared.vision.faces import FaceFinder
from tests.photos import astronaut, blurred, cameraman, hopper, jpeg, lit, mirrored, scaled, turned

_QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def treatments(image: Image) -> dict[str, Image]:
    """One photo, changed as photos are changed on their way."""
    return {
        "mirrored": mirrored(image),
        "half size": scaled(image, 0.5),
        "double size": scaled(image, 2.0),
        "JPEG, quality 30": decode(jpeg(image, 30)),
        "brightness x 0.6": lit(image, 0.6),
        "brightness x 1.4": lit(image, 1.4),
        "turned by 10 degrees": turned(image, 10.0),
        "turned by 20 degrees": turned(image, -20.0),
        "turned by 45 degrees": turned(image, 45.0),
        "blurred, sigma 1": blurred(image, 1.0),
        "blurred, sigma 2": blurred(image, 2.0),
        "blurred, sigma 4": blurred(image, 4.0),
    }


class Describer:
    """Describes the largest face of a picture."""

    def __init__(self) -> None:
        self._finder, self._encoder = FaceFinder(), FaceEncoder()

    def describe(self, image: Image) -> Descriptor | None:
        """The descriptor, or None where no face is found."""
        faces = self._finder.find(image)
        return self._encoder.encode(image, faces[0]) if faces else None


def line(name: str, apart: float) -> None:
    print(f"  {name:28s} distance {apart:.3f}  likeness {likeness(apart):.2f}  {rating_of(likeness(apart))}")


def summary(name: str, distances: NDArray[np.float64]) -> None:
    values = np.percentile(distances, _QUANTILES)
    quantiles = "  ".join(f"{q} %: {value:.2f}" for q, value in zip(_QUANTILES, values, strict=True))
    within = np.count_nonzero(distances <= SAME_PERSON_DISTANCE)
    print(f"  {name}: {len(distances)} pairs, {within} within {SAME_PERSON_DISTANCE}; {quantiles}")


def carried_photos(describer: Describer) -> None:
    people = {"astronaut": astronaut(), "hopper": hopper(), "cameraman": cameraman()}
    described = {name: describer.describe(image) for name, image in people.items()}
    for name in ("astronaut", "hopper"):
        print(f"The same person: {name}")
        for treatment, image in treatments(people[name]).items():
            found, original = describer.describe(image), described[name]
            if found is None or original is None:
                print(f"  {treatment:28s} no face was found")
            else:
                line(treatment, distance(original, found))
    print("Strangers")
    for (one, a), (other, b) in itertools.combinations(described.items(), 2):
        assert a is not None
        assert b is not None
        line(f"{one}, {other}", distance(a, b))


def folder_of_people(describer: Describer, folder: Path) -> None:
    described: list[tuple[str, Descriptor]] = []
    for path in sorted(folder.glob("*/*")):
        found = describer.describe(decode(path.read_bytes()))
        if found is None:
            print(f"  {path}: no face was found")
        else:
            described.append((path.parent.name, found))
    pairs = list(itertools.combinations(described, 2))
    distances = np.array([distance(a, b) for (_, a), (_, b) in pairs])
    same = np.array([one == other for (one, _), (other, _) in pairs])
    print(f"{len(described)} photos of {len({person for person, _ in described})} people")
    summary("the same person", distances[same])
    summary("different people", distances[~same])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--people", type=Path, metavar="FOLDER", help="one folder a person, with photos of one face each"
    )
    people: Path | None = parser.parse_args().people
    describer = Describer()
    if people is None:
        carried_photos(describer)
    else:
        folder_of_people(describer, people)


if __name__ == "__main__":
    main()
