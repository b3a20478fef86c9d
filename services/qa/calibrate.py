"""Where the boundary of the same person lies for a recogniser, by photos of people that one knows.

python -m services.qa.calibrate FOLDER [--recogniser auraface] [--detector yunet]

FOLDER holds one folder a person, with photos that show that person largest. Prints how the cosines of pairs lie, and
the cosine to set as `qa.same_person_cosine`.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.qa.flux import FluxScorer
from services.qa.flux_observe import Eyes
from services.qa.references import ANALYSED_PX, Direction
from services.qa.stage import FluxScoreParams
from shared.contracts.errors import DoctorGenError
from shared.vision.boxes import shrunk
from shared.vision.codec import decode

QUANTILES = (0, 1, 5, 50, 95, 99, 100)

Cosines = NDArray[np.float64]


def cosines(people: Mapping[str, Sequence[Direction]]) -> tuple[Cosines, Cosines]:
    """Of all pairs of photos of one person, and of all pairs of different people's."""
    faces = [(name, face.astype(np.float64)) for name, photos in people.items() for face in photos]
    pairs = [(one == other, float(a @ b)) for (one, a), (other, b) in combinations(faces, 2)]
    same, different = ([cosine for alike, cosine in pairs if alike is wanted] for wanted in (True, False))
    return np.array(same, np.float64), np.array(different, np.float64)


def boundary(same: Cosines, different: Cosines) -> float:
    """The cosine at which the shares of wrong pairs, among one person's and among strangers', are least together.

    Halfway between two that were seen; of several that are equally good the highest, which takes fewer strangers for
    the subject.

    Source: Youden, Index for rating diagnostic tests (1950).
    """
    levels = np.unique(np.concatenate([same, different]))
    if levels.size == 1:
        return float(levels[0])
    between = (levels[:-1] + levels[1:]) / 2
    wrong = [(same < level).mean() + (different >= level).mean() for level in between]
    return float(between[np.flatnonzero(np.isclose(wrong, np.min(wrong)))[-1]])


def described(folder: Path, eyes: Eyes) -> tuple[dict[str, list[Direction]], list[Path]]:
    """The largest face of each photo, by its person; and the photos that cannot be read, or show none."""
    people: dict[str, list[Direction]] = {}
    without: list[Path] = []
    for path in sorted(path for path in folder.glob("*/*") if path.is_file()):
        try:
            image, _ = shrunk(decode(path.read_bytes()), ANALYSED_PX)
        except DoctorGenError:
            without.append(path)
            continue
        faces = eyes.finder.find(image)
        if faces:
            people.setdefault(path.parent.name, []).append(eyes.describer.describe(image, faces[0].points))
        else:
            without.append(path)
    return people, without


def report(people: Mapping[str, Sequence[Direction]], without: Sequence[Path]) -> str:
    """What was found, in lines."""
    same, different = cosines(people)
    lines = [f"{path}: no face was found" for path in without]
    lines.append(f"{sum(map(len, people.values()))} photos of {len(people)} people")
    if not (same.size and different.size):
        return "\n".join([*lines, "Two people at least are needed, and of one of them two photos."])
    for name, values in (("the same person", same), ("different people", different)):
        quantiles = zip(QUANTILES, np.percentile(values, QUANTILES), strict=True)
        lines.append(f"  {name}: {values.size} pairs; {'  '.join(f'{q} %: {value:.2f}' for q, value in quantiles)}")
    level = boundary(same, different)
    lines.append(
        f"qa.same_person_cosine={level:.2f}: {(same < level).sum()} pairs of one person are below it, "
        f"{(different >= level).sum()} of different people are not."
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 1 with the reason where a model is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="one folder a person, with photos of each")
    parser.add_argument("--recogniser", default="auraface")
    parser.add_argument("--detector", default="yunet")
    asked = parser.parse_args(arguments)
    try:
        params = FluxScoreParams(recogniser=asked.recogniser, detector=asked.detector, hand_detector="none")
        with FluxScorer().eyes(params) as eyes:
            sys.stdout.write(report(*described(asked.folder, eyes)) + "\n")
    except (DoctorGenError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
