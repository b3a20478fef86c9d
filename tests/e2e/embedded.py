"""A process that has the embedded pipeline make pictures and prints each event, as a line of JSON.

python -m tests.e2e.embedded DATA_DIR USER_FOLDER PHOTO SCENARIO...
"""

import signal
import sys
from pathlib import Path

from doctor_image_gen import DoctorImageGenerator
from doctor_image_gen.settings import Settings
from shared.contracts.event import Event


def tell(event: Event) -> None:
    sys.stdout.write(event.to_json().decode() + "\n")
    sys.stdout.flush()


def main(data_dir: str, user_folder: str, photo: str, *scenarios: str) -> None:
    with DoctorImageGenerator(Settings(data_dir=Path(data_dir), user_folder=Path(user_folder))) as generator:
        generator.batch_generate(photo, scenarios, settings={"recipe": "sketch"}, on_event=tell)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell has in the background
    main(*sys.argv[1:])
