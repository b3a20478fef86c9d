"""All scenarios of one subject side by side, made by the whole pipeline, in one picture to look at.

python -m bench.contact_sheet SHEET.png [PHOTO …] [--side 768] [--columns 4]

Without photos: Eileen Collins, as scikit-image carries her.
"""

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np

from doctor_image_gen import DoctorImageGenerator
from doctor_image_gen.settings import Settings
from shared.prompts.catalogue import load_catalogue
from shared.vision.codec import Image, decode, encode_png
from tests.photos import astronaut

_CAPTION_PX = 40


def captioned(path: Path, caption: str, side: int) -> Image:
    """A picture reduced to `side` x `side` pixels, with its caption below."""
    tile = np.full((side + _CAPTION_PX, side, 3), 24, np.uint8)
    tile[:side] = cv2.resize(decode(path.read_bytes()), (side, side), interpolation=cv2.INTER_AREA)
    cv2.putText(tile, caption, (12, side + 27), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (230, 230, 230), 1, cv2.LINE_AA)
    return tile


def sheet(tiles: list[Image], columns: int) -> Image:
    """The tiles in rows; the last row is filled up with black."""
    missing = -len(tiles) % columns
    filled = tiles + [np.zeros_like(tiles[0])] * missing
    rows = [np.hstack(filled[first : first + columns]) for first in range(0, len(filled), columns)]
    return np.asarray(np.vstack(rows), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("sheet", type=Path, help="the PNG to write")
    parser.add_argument("photos", type=Path, nargs="*", help="one to five photos of one person")
    parser.add_argument("--side", type=int, default=768, help="pixels of each picture on the sheet")
    parser.add_argument("--columns", type=int, default=4)
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = wish.photos or [Path(folder) / "astronaut.png"]
        if not wish.photos:
            photos[0].write_bytes(encode_png(astronaut()))
        settings = Settings(data_dir=Path(folder) / "data")
        scenarios = sorted(load_catalogue().scenarios)
        with DoctorImageGenerator(settings) as generator:
            made = generator.batch_generate(photos, scenarios, output_dir=folder)
        tiles = []
        for scenario, result in zip(scenarios, made, strict=True):
            if result["output_path"] is None:
                raise SystemExit(f"{scenario}: {result.get('error', result['status'])}")
            told = result["metadata"]
            print(
                f"{scenario}: likeness {told['identity_score']:.2f}, {' '.join(told['verdict']['reasons']) or 'passed'}"
            )
            tiles.append(captioned(Path(result["output_path"]), scenario, wish.side))
    wish.sheet.write_bytes(encode_png(sheet(tiles, wish.columns)))
    print(wish.sheet)


if __name__ == "__main__":
    main()
