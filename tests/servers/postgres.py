"""Starts a private PostgreSQL: a free loopback port, a data directory of its own, gone when stopped."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psycopg

from tests.servers.ports import free_ports

USER = "doctorgen"
PASSWORD = "a-throw-away-password"
SERVER_ACCOUNT = "postgres"
READY = "database system is ready to accept connections"
PATIENCE_S = 60
PORT_ATTEMPTS = 3
FOR_SPEED = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=60")


@dataclass
class Postgres:
    """A running server. Only its own process is ever signalled."""

    folder: Path
    port: int
    process: subprocess.Popen[str]
    log: deque[str] = field(default_factory=lambda: deque(maxlen=200))

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of one of its databases."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Make an empty database; its URL."""
        name = f"test_{uuid4().hex}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def disconnect_everybody(self) -> None:
        """End every other session, as a restarted or failed-over server would."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )

    def stop(self) -> None:
        """Shut down at once and remove the data."""
        self.process.send_signal(signal.SIGQUIT)
        try:
            self.process.wait(PATIENCE_S)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def start_postgres() -> Postgres:
    """A new server, ready to accept connections. It is interrupted when the thread that calls this ends.

    Raises:
        RuntimeError: PostgreSQL is not installed, or did not start; says what it wrote.
    """
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="doctorgen-postgres-"))
    try:
        _initialise(programs, folder)
        return _start_on_a_free_port(programs, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _programs() -> Path:
    """The folder of initdb and postgres: Debian keeps them by version, off the PATH."""
    by_version = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("postgres")
    found = [*([Path(on_path)] if on_path else []), *by_version]
    if not found:
        raise RuntimeError("PostgreSQL's server is not installed. Run tests/servers/install.sh.")
    return found[-1].parent


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root. The kernel interrupts it when whoever started it is gone."""
    dies_with_us = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() != 0:
        return dies_with_us
    return [*dies_with_us, "--reuid", SERVER_ACCOUNT, "--regid", SERVER_ACCOUNT, "--clear-groups", "--reset-env"]


def _initialise(programs: Path, folder: Path) -> None:
    password = folder / "password"
    password.write_text(PASSWORD)
    if os.geteuid() == 0:
        for path in (folder, password):
            shutil.chown(path, SERVER_ACCOUNT, SERVER_ACCOUNT)
    command: list[str | Path] = [
        *_unprivileged(), programs / "initdb", "--pgdata", folder / "data", "--username", USER,
        "--pwfile", password, "--auth", "scram-sha-256", "--locale", "C.UTF-8", "--encoding", "UTF8",
        "--no-sync", "--no-instructions",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")


def _start_on_a_free_port(programs: Path, folder: Path) -> Postgres:
    for _ in range(PORT_ATTEMPTS):
        server = _start(programs, folder)
        if server is not None:
            return server
    raise RuntimeError(f"PostgreSQL found no free port in {PORT_ATTEMPTS} attempts.")


def _start(programs: Path, folder: Path) -> Postgres | None:
    """The server once it is ready; None where somebody else took the port first."""
    (port,) = free_ports(1)
    settings = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *FOR_SPEED]
    command: list[str | Path] = [*_unprivileged(), programs / "postgres", "-D", folder / "data"]
    for setting in settings:
        command += ["-c", setting]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    server = Postgres(folder, port, process)
    settled = threading.Event()
    threading.Thread(target=_follow, args=(server, settled), daemon=True).start()
    if settled.wait(PATIENCE_S) and any(READY in line for line in server.log):
        return server
    process.kill()
    process.wait(PATIENCE_S)
    if any("Address already in use" in line for line in server.log):
        return None
    raise RuntimeError("PostgreSQL did not start:\n" + "".join(server.log))


def _follow(server: Postgres, settled: threading.Event) -> None:
    """Keep the server's last words and tell when it is ready, or gone."""
    stream = server.process.stderr
    assert stream is not None
    with stream:
        for line in stream:
            server.log.append(line)
            if READY in line:
                settled.set()
    settled.set()
