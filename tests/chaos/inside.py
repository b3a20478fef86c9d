"""What a process of a chaos run is told through its environment, and what is put into it before the pipeline starts."""

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import minio.time

import shared.contracts.base
from tests.chaos.clock import JumpingClock
from tests.chaos.ledger import Ledger

LEDGER, SLOT, DOOM, CLOCK = "CHAOS_LEDGER", "CHAOS_SLOT", "CHAOS_DOOM", "CHAOS_CLOCK_SEED"
HANG = "hang"


@dataclass(frozen=True)
class Doom:
    """A file that names the phase of a step at which the process is to die; most of the time there is none.

    It may order the next step to hang for ever instead.
    """

    path: Path

    def order(self, phase: str) -> None:
        """Have the process die when it next reaches the phase, or `HANG`."""
        self.path.write_text(phase)

    def lift(self) -> None:
        """Let it live."""
        self.path.unlink(missing_ok=True)

    def strikes(self, phase: str) -> None:
        """Die now, by SIGKILL, if this is the phase. The order is carried out once."""
        try:
            ordered = self.path.read_text()
        except FileNotFoundError:
            return
        if ordered == phase:
            self.lift()
            os.kill(os.getpid(), signal.SIGKILL)
        if ordered == HANG and phase == "started":
            self.lift()
            threading.Event().wait()


def ledger() -> Ledger:
    """The run's account, in this process's name."""
    return Ledger(Path(os.environ[LEDGER]), os.environ[SLOT])


def doom() -> Doom:
    """Where this process reads when to die."""
    return Doom(Path(os.environ[DOOM]))


def disturb_the_clock() -> None:
    """Let the pipeline's clock jump in this process, where the environment says so.

    What it signs for the object store bears the wrong time, too. Modules take `now` by name, so this comes before they
    are imported.
    """
    if seed := os.environ.get(CLOCK):
        account = ledger()
        clock = JumpingClock(int(seed), lambda offset: account.note("jumped", f"{offset:g}"))
        shared.contracts.base.now = clock.now
        minio.time.utcnow = clock.now
