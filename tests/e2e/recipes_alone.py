"""A process that makes pictures by several recipes on stand-in weights: `PHOTO FOLDER RECIPE…`.

It prints each one's outcome as a line of JSON.
"""

import json
import sys
from pathlib import Path

from doctor_image_gen import DoctorImageGenerator
from tests.e2e.stand_ins import SEED, stand_ins


def main(photo: Path, folder: Path, *recipes: str) -> None:
    """One after the other, in one embedded pipeline."""
    with DoctorImageGenerator() as generator:
        for recipe in recipes:
            settings = {"recipe": recipe, "engine": "flux", "seed": SEED, "attempts": 1, **stand_ins(recipe)}
            output = folder / f"alone-{recipe}.png"
            made = generator.generate(photo, "consultant", settings=settings, output_path=output)
            sys.stdout.write(json.dumps(made) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
