"""Runs the refine stage as a worker process."""

import sys

from services.refine.stage import STAGE
from shared.worker.main import run

if __name__ == "__main__":
    sys.exit(run(STAGE))
