"""Keeps processes running as Kubernetes would: what ends is started again, after a pause that grows if it fails."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.chaos.inside import DOOM, LEDGER, SLOT, Doom
from tests.chaos.ledger import Entry, Ledger

ROOT = Path(__file__).parents[2]
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
HEALTHY_AFTER_S = 5.0
PATIENCE_S = 60.0
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""The kernel kills the process when the thread that started it is gone."""


class Slot:
    """One process that is always to run. Only processes started here are ever signalled.

    It logs to `<name>.log` in the run's folder. `deaths` are the ends that nobody here asked for politely.
    """

    def __init__(self, name: str, command: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.doom = Doom(folder / f"{name}.doom")
        self.statuses: list[int] = []
        self._command = [*DIES_WITH_US, sys.executable, "-m", *command]
        self._environment = {
            **environment,
            SLOT: name,
            LEDGER: str(folder / "ledger.jsonl"),
            DOOM: str(self.doom.path),
        }
        self._log = folder / f"{name}.log"
        self._ledger = Ledger(folder / "ledger.jsonl", name)
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = False
        self._last_death: Entry | None = None
        self._thread = threading.Thread(target=self._keep, name=f"keeps {name}", daemon=True)

    def start(self) -> None:
        """Keep the process running from now on."""
        self._thread.start()

    def send(self, number: signal.Signals) -> Entry | None:
        """Signal the process, once there is one, and wait for its end; None where it does not end in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._process is not None or self._ending, PATIENCE_S)
            if self._process is None:
                return None
            before = self._last_death
            self._process.send_signal(number)
        return self._death_after(before, PATIENCE_S)

    def die_at(self, phase: str, patience_s: float) -> Entry | None:
        """Have the process die at a phase of a step; None, and the order is lifted, where it does not come to that."""
        before = self._last_death
        self.doom.order(phase)
        death = self._death_after(before, patience_s)
        self.doom.lift()
        return death or self._death_after(before, 0)

    def end(self) -> int:
        """Ask the process to end and start it no more; its exit status."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            if self._process is not None:
                self._process.send_signal(signal.SIGTERM)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self.kill()
            raise RuntimeError(f"{self.name} did not end {PATIENCE_S:g} s after SIGTERM; see {self._log}")
        return self.statuses[-1]

    def kill(self) -> None:
        """End the process at once and start it no more."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            if self._process is not None:
                self._process.kill()
        self._thread.join(PATIENCE_S)

    def _death_after(self, before: Entry | None, patience_s: float) -> Entry | None:
        with self._changed:
            self._changed.wait_for(lambda: self._last_death is not before, patience_s)
            return None if self._last_death is before else self._last_death

    def _keep(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._ending:
            began = time.monotonic()
            self._run_once()
            pause_s = FIRST_PAUSE_S if time.monotonic() - began > HEALTHY_AFTER_S else min(LONGEST_PAUSE_S, 2 * pause_s)
            with self._changed:
                self._changed.wait_for(lambda: self._ending, pause_s)

    def _run_once(self) -> None:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        with self._changed:
            self._process = process
            if self._ending:
                process.send_signal(signal.SIGTERM)
            self._changed.notify_all()
        status = process.wait()
        entry = self._ledger.note("died" if status < 0 else "ended", str(status), pid=process.pid)
        with self._changed:
            self._process = None
            self.statuses.append(status)
            self._last_death = entry
            self._changed.notify_all()
