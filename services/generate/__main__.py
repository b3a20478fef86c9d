"""Runs the generate stage as a worker process."""

import sys

from services.generate.stage import STAGE
from shared.worker.main import run

if __name__ == "__main__":
    sys.exit(run(STAGE))
