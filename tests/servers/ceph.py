"""Starts a private S3 server: Ceph's monitor, one OSD that keeps its data in memory, and radosgw. About 1.5 s."""

import os
import secrets
import shutil
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

from tests.servers.ports import free_ports

START_LIMIT_S = 60
STOP_LIMIT_S = 10
PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

# A monitor gathers changes of its maps for a second before it commits them, and radosgw waits for a dozen of them at
# its first start: `paxos propose interval` is what makes the difference between 12 seconds and one.
CONFIGURATION = """
[global]
fsid = {fsid}
mon initial members = a
mon host = [v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms mon service mode = crc
ms mon cluster mode = crc
paxos propose interval = 0.01
paxos min wait = 0.005
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = {memory_bytes}
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
log file = {folder}/log/$name.log
pid file = {folder}/run/$name.pid
mon data = {folder}/mon
osd data = {folder}/osd
mgr data = {folder}/mgr
rgw data = {folder}/rgw

[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{s3} tcp_nodelay=1
rgw enable apis = s3
rgw enable gc threads = false
rgw enable lc threads = false
rgw run sync thread = false
rgw enable usage log = false
rgw dynamic resharding = false
rgw thread pool size = 64
"""


@dataclass(frozen=True)
class S3Account:
    """The keys of a user of the server."""

    access_key: str
    secret_key: str


class CephS3:
    """One private server. `stop_gateway` and `start_gateway` may follow one another; the objects stay.

    Only processes that this object started are ever signalled.
    """

    def __init__(self, folder: Path, *, memory_bytes: int = 4 * 2**30) -> None:
        """Prepare a server with everything it writes under `folder`, which must exist."""
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            raise RuntimeError(f"There is no {', '.join(missing)} on this machine. Run tests/servers/install.sh.")
        self.port, self._mon_v1, self._mon_v2 = free_ports(3)
        self._folder = folder
        self._fsid = str(uuid4())
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log: IO[bytes] = (folder / "startup.log").open("ab")
        for name in ("mon", "osd", "mgr", "rgw", "run", "log"):
            (folder / name).mkdir()
        self._configuration = folder / "ceph.conf"
        self._configuration.write_text(
            CONFIGURATION.format(
                fsid=self._fsid,
                folder=folder,
                mon_v1=self._mon_v1,
                mon_v2=self._mon_v2,
                s3=self.port,
                memory_bytes=memory_bytes,
            )
        )

    @property
    def endpoint(self) -> str:
        """host:port of the S3 server, without TLS."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> S3Account:
        """Start everything and make a user.

        Raises:
            RuntimeError: a program failed or is not ready in time; the message holds the end of its log.
        """
        self._start_monitor()
        self._start_osd()
        self.start_gateway()
        return self.create_user("doctorgen")

    def create_user(self, name: str) -> S3Account:
        """Make a user with keys of its own."""
        account = S3Account(secrets.token_hex(10), secrets.token_hex(20))
        keys = (f"--access-key={account.access_key}", f"--secret-key={account.secret_key}")
        self.admin("user", "create", f"--uid={name}", f"--display-name={name}", *keys)
        return account

    def admin(self, *arguments: str) -> None:
        """Run radosgw-admin against this server."""
        self._run("radosgw-admin", *arguments)

    def start_gateway(self) -> None:
        """Start radosgw and wait until it answers."""
        self._spawn("radosgw", "-n", "client.rgw.a", "-f")
        until = time.monotonic() + START_LIMIT_S
        while not self._answers():
            if self._processes["radosgw"].poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"radosgw did not start. Its last words:\n{self._last_words()}")
            time.sleep(0.02)

    def stop_gateway(self) -> None:
        """Stop radosgw; its port refuses connections from now on.

        It is asked to stop, not killed: the OSD would wait half a minute for a killed one's answer to each change of
        a user or a bucket.
        """
        self._end("radosgw", signal.SIGTERM)

    def stop(self) -> None:
        """End all processes. What they wrote stays in the folder."""
        for name in reversed(list(self._processes)):
            self._end(name, signal.SIGKILL)
        self._log.close()

    def _start_monitor(self) -> None:
        addresses = f"[v2:127.0.0.1:{self._mon_v2},v1:127.0.0.1:{self._mon_v1}]"
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", addresses, "monmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap")
        self._spawn("ceph-mon", "-i", "a", "-f")

    def _start_osd(self) -> None:
        identity = str(uuid4())
        self._run("ceph", "osd", "new", identity)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        self._spawn("ceph-osd", "-i", "0", "-f")
        self._run("ceph", "osd", "crush", "add", "osd.0", "1.0", "host=localhost", "root=default")

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            [*command, "-c", str(self._configuration)],
            cwd=self._folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            timeout=START_LIMIT_S,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command[:4])} failed. Last words:\n{self._last_words()}")

    def _spawn(self, *command: str) -> None:
        self._processes[command[0]] = subprocess.Popen(
            [*command, "-c", str(self._configuration)],
            cwd=self._folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self._processes.pop(name)
        process.send_signal(how)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_LIMIT_S)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.endpoint}/", timeout=5):
                return True
        except OSError:
            return False

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CEPH_CONF": str(self._configuration)}

    def _last_words(self) -> str:
        logs = [self._folder / "startup.log", *sorted((self._folder / "log").glob("*.log"))]
        return "\n".join(log.read_text(errors="replace")[-1500:] for log in logs)
