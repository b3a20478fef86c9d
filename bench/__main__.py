"""`make bench`: every figure beside its bound, printed and kept in bench/RESULTS.md.

    python -m bench [PART …]

Each part runs in a process of its own, so that one's memory and warmth are not another's. Parts that are not named keep
their section, and so does one that prints nothing, as `gpu` does without a GPU. `queue_depth`, `chaos`, `gpu` and
`gpu_memory` are measured only when named: they take long, or want a GPU.
"""

import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from os import cpu_count, getloadavg
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
SHORT = ("portrait", "overhead", "overlap", "storage", "png", "likeness")
LONG = ("queue_depth", "chaos", "gpu", "gpu_memory")
TITLE = """# Figures

The last figures of each benchmark, `python -m bench PART`; its module says what is measured and how. `make bench` runs
all but the long ones (`queue_depth`, `chaos`, `gpu_memory`) and `gpu`.
"""


def main(wanted: tuple[str, ...]) -> int:
    """0 when every bound is held; 1 where one is not, or a part prints nothing; 2 where there is no such part."""
    unknown = sorted({*wanted} - {*SHORT, *LONG})
    if unknown:
        print(f"There is no benchmark {', '.join(unknown)}. There are {', '.join((*SHORT, *LONG))}.", file=sys.stderr)
        return 2
    sections, missing = kept(), []
    for part in wanted or SHORT:
        found = measured(part)
        if found is None:
            missing.append(part)
            continue
        sections[part] = found
        print(f"## {part}\n\n{sections[part]}\n", flush=True)
        text = "\n".join(f"## {name}\n\n{sections[name]}\n" for name in (*SHORT, *LONG) if name in sections)
        RESULTS.write_text(f"{TITLE}\n{text}", "utf-8")
    if missing:
        print(f"Not measured: {', '.join(missing)}. Its section stays as it was.", file=sys.stderr)
    return 1 if missing or any("not held" in sections[part] for part in wanted or SHORT) else 0


def kept() -> dict[str, str]:
    """The sections that stand in the file."""
    if not RESULTS.exists():
        return {}
    found = re.split(r"^## (\w+)\n", RESULTS.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return {name: text.strip() for name, text in zip(found[::2], found[1::2], strict=True)}


def measured(part: str) -> str | None:
    """A part's table, and the conditions it was measured under; None where it prints none."""
    load = getloadavg()[0]
    done = subprocess.run([sys.executable, "-m", f"bench.{part}"], stdout=subprocess.PIPE, text=True, check=False)
    if not done.stdout.strip():
        return None
    conditions = (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {cpu_count()} cores, load {load:.1f} before the run, "
        f"{platform.machine()}, Python {platform.python_version()}, OpenCV "
        f"{version('opencv-contrib-python-headless')}."
    )
    return f"{conditions}\n\n{done.stdout.strip()}"


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:])))
