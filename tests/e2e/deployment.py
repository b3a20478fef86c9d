"""A whole deployment as its operator would run it: a gateway and six workers, each a process of its own."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from pydantic import SecretStr

from doctor_image_gen.settings import Settings
from doctor_image_gen.stages import STAGES
from shared.storage.settings import StorageSettings

LIMIT_S = 300
"""Six workers that all import torch at once, and something else beside them, take two minutes on a busy machine."""

ROOT = Path(__file__).parents[2]


class Process:
    """A process that logs to standard error. Only processes started here are ever signalled."""

    def __init__(self, command: tuple[str, ...], environment: dict[str, str], log: Path) -> None:
        self._command = command
        self._popen = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(log,), daemon=True)
        self._reader.start()

    def wait_until_ready(self) -> None:
        """Wait for the line with which it says so."""
        if not self._ready.wait(LIMIT_S) or self._popen.poll() is not None:
            raise RuntimeError(f"{' '.join(self._command)} did not start")

    def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        status = self._popen.wait(LIMIT_S)
        self._reader.join()
        return status

    def ask_to_end(self) -> None:
        """Ask it to end politely."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)

    def terminate(self) -> int:
        """Ask it to end; its exit status."""
        self.ask_to_end()
        return self.wait()

    def kill(self) -> None:
        """End it at once."""
        self._popen.kill()
        self.wait()

    def _read(self, log: Path) -> None:
        assert self._popen.stderr is not None
        with log.open("ab") as file, self._popen.stderr as lines:
            for line in lines:
                file.write(line)
                file.flush()
                if line.rstrip().endswith(b"ready"):
                    self._ready.set()
        self._ready.set()


@dataclass
class Deployment:
    """Where everything is, and the processes by name."""

    broker_url: str
    storage: StorageSettings
    jobs_url: str
    folder: Path
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """What a client of this deployment is told."""
        return Settings(
            broker_url=SecretStr(self.broker_url),
            storage=self.storage,
            jobs_url=SecretStr(self.jobs_url),
            data_dir=self.folder / "client",
        )

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        assert self.storage.access_key
        assert self.storage.secret_key
        return {
            **os.environ,
            "DOCTORGEN_BROKER_URL": self.broker_url,
            "DOCTORGEN_STORAGE__URL": self.storage.url,
            "DOCTORGEN_STORAGE__ACCESS_KEY": self.storage.access_key.get_secret_value(),
            "DOCTORGEN_STORAGE__SECRET_KEY": self.storage.secret_key.get_secret_value(),
            "DOCTORGEN_JOBS_URL": self.jobs_url,
            "DOCTORGEN_DATA_DIR": str(self.folder / "client"),
            "DOCTORGEN_BEAT_INTERVAL_S": "1",
        }

    def start(self, name: str, *command: str, **environment: str) -> Process:
        """Start a process, with these variables changed; its standard error goes to `<name>.log`."""
        process = Process(command, {**self.environment, **environment}, self.folder / f"{name}.log")
        self.processes[name] = process
        return process

    def restart(self, name: str, *command: str, **environment: str) -> Process:
        """End a process politely and start another in its place, ready."""
        assert self.processes[name].terminate() == 0
        process = self.start(name, *command, **environment)
        process.wait_until_ready()
        return process

    def doctorgen(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        return subprocess.run(
            [sys.executable, "-m", "doctor_image_gen.cli", *arguments],
            cwd=self.folder,
            env={**self.environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )


APART = {stage: (f"services.{stage}",) for stage in STAGES}
"""A worker process a stage: its command by its name."""


@contextmanager
def deployed(
    broker_url: str,
    storage: StorageSettings,
    jobs_url: str,
    folder: Path,
    workers: Mapping[str, tuple[str, ...]] = APART,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Deployment]:
    """Gateway and workers, these with the variables changed, ready; ended politely afterwards, each with status 0."""
    deployment = Deployment(broker_url, storage, jobs_url, folder)
    try:
        deployment.start("gateway", "doctor_image_gen.cli", "gateway")
        for name, command in workers.items():
            deployment.start(name, *command, **environment)
        for process in deployment.processes.values():
            process.wait_until_ready()
        yield deployment
        for process in deployment.processes.values():
            process.ask_to_end()
        assert {name: process.wait() for name, process in deployment.processes.items()} == dict.fromkeys(
            deployment.processes, 0
        )
    finally:
        for process in deployment.processes.values():
            process.kill()
