"""`make demo`: the main job on a real photo, everything in this process.

The photo is skimage.data.astronaut(): Eileen Collins, NASA, public domain.
"""

import sys
from pathlib import Path

from PIL import Image
from skimage.data import astronaut

from doctor_image_gen.cli import main


def demo(folder: Path) -> int:
    """Write the photo into the folder, then type what a new user would type."""
    folder.mkdir(parents=True, exist_ok=True)
    photo = folder / "photo.png"
    Image.fromarray(astronaut()).save(photo)
    command = ["generate", "--doctor-image", str(photo), "--scenario", "consultant"]
    command += ["--output", str(folder / "consultant.png")]
    print("doctorgen " + " ".join(command))  # noqa: T201 - so that the reader can type it again
    return main(command)


if __name__ == "__main__":
    sys.exit(demo(Path(sys.argv[1] if len(sys.argv) > 1 else ".demo")))
