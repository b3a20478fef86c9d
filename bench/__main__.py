"""`make bench`: every figure beside its bound, printed and kept in bench/RESULTS.md.

Each part runs in a process of its own, so that one's memory and warmth are not another's.
"""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from os import cpu_count
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
PARTS = ("portrait", "overhead", "overlap", "storage", "png", "likeness")


def main() -> int:
    """0 when every bound is held."""
    conditions = (
        f"Measured by `make bench` on {datetime.now(UTC):%Y-%m-%d}, {cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}, OpenCV {version('opencv-contrib-python-headless')}. Each part is "
        "`python -m bench.<part>` in a process of its own; its module says what is measured and how."
    )
    text = ["# Figures", "", conditions]
    for part in PARTS:
        done = subprocess.run([sys.executable, "-m", f"bench.{part}"], stdout=subprocess.PIPE, text=True, check=True)
        text += ["", f"## {part}", "", done.stdout.strip()]
        print("\n".join(text[-3:]), flush=True)
    RESULTS.write_text("\n".join(text) + "\n", "utf-8")
    return 1 if any("not held" in line for line in text) else 0


if __name__ == "__main__":
    sys.exit(main())
