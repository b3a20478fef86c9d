"""Runs the swap stage as a worker process."""

import sys

from services.swap.stage import STAGE
from shared.worker.main import run

if __name__ == "__main__":
    sys.exit(run(STAGE))
