"""Starts a private RabbitMQ node, or a cluster of them: own ports, own data, own Erlang port mapper; root or not."""

import base64
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from tests.servers.ports import free_ports

START_LIMIT_S = 90
# A quorum queue declared less than about 0.6 s before a kill -9 of a single 3.10 node loses what it confirmed, and
# nothing tells from outside when it is safe.
SAFE_TO_KILL_AFTER_S = 3.0


class RabbitNode:
    """One node. `url` is its default virtual host; `kill` and `start` may follow one another, the data stay.

    `name` is what the nodes of its cluster call it, `port` where it takes AMQP connections; `cookie` and
    `mapper_port` are how they find and trust each other.
    """

    def __init__(self, folder: Path, *, settings: str = "", joins: "RabbitNode | None" = None) -> None:
        """Prepare a node with its data under `folder`, which must exist.

        Args:
            folder: where the node lives.
            settings: further lines for rabbitmq.conf.
            joins: a node, running when this one starts, whose cluster this one becomes a part of.
        """
        self.port, self._distribution_port, self._management_port, mapper_port = free_ports(4)
        self.name = f"doctorgen-{secrets.token_hex(3)}@localhost"
        self._folder = folder
        self._joins = joins
        self.mapper_port: int = joins.mapper_port if joins else mapper_port
        self.cookie: str = joins.cookie if joins else secrets.token_hex(12)
        self._program = _server_program()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log: IO[bytes] = (folder / "startup.log").open("ab")
        (folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {self._management_port}\n"
            "log.console = false\n"
            "log.file.level = info\n"
            "disk_free_limit.absolute = 50MB\n"
            f"{settings}\n"
        )
        if joins is not None:
            with (folder / "rabbitmq.conf").open("a") as configuration:
                configuration.write("cluster_formation.peer_discovery_backend = classic_config\n")
                for number, name in enumerate((joins.name, self.name), 1):
                    configuration.write(f"cluster_formation.classic_config.nodes.{number} = {name}\n")
        cookie = folder / ".erlang.cookie"
        cookie.write_text(self.cookie)
        cookie.chmod(0o400)

    @property
    def url(self) -> str:
        """Where to connect, as guest, to the default virtual host."""
        return self.url_of("/")

    def url_of(self, virtual_host: str, *, port: int | None = None, user: str = "guest:guest") -> str:
        """Where to connect to a virtual host; another port leads through a proxy. `user` is name:password."""
        return f"amqp://{user}@127.0.0.1:{port or self.port}/{quote(virtual_host, safe='')}"

    def start(self) -> None:
        """Start the node and wait until it takes connections.

        Raises:
            RuntimeError: it ended, or is not ready in time; the message holds the end of its log.
        """
        if not self._processes and self._joins is None:
            self._spawn("epmd", "-port", str(self.mapper_port), "-address", "127.0.0.1")
        server = self._spawn(str(self._program))
        until = time.monotonic() + START_LIMIT_S
        while not self._is_ready():
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"RabbitMQ did not start. Its last words:\n{self._last_words()}")
            time.sleep(0.1)

    @property
    def is_running(self) -> bool:
        """Whether the node was started and neither killed nor stopped since."""
        return len(self._processes) > (self._joins is None)

    def kill(self) -> None:
        """Kill the node as a power cut would (SIGKILL)."""
        self._end(self._processes.pop(), signal.SIGKILL)

    def lose_disk(self) -> None:
        """Take everything from a killed node that it had written: users, virtual hosts, queues, messages."""
        shutil.rmtree(self._folder / "mnesia")

    def settle(self) -> None:
        """Wait until a queue declared just now survives `kill` with what it confirms."""
        time.sleep(SAFE_TO_KILL_AFTER_S)

    def stop(self) -> None:
        """End the node and the port mapper."""
        for process in reversed(self._processes):
            self._end(process, signal.SIGKILL)
        self._processes.clear()
        self._log.close()

    @contextmanager
    def virtual_host(self) -> Iterator[str]:
        """Lend a fresh virtual host: queues and exchanges of its own."""
        name = f"test-{secrets.token_hex(4)}"
        self.make_virtual_host(name)
        try:
            yield name
        finally:
            self.api("DELETE", f"/vhosts/{name}")

    def make_virtual_host(self, name: str) -> None:
        """Make a virtual host; harmless where it stands."""
        self.api("PUT", f"/vhosts/{name}")
        self.api("PUT", f"/permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API; returns the decoded answer, or None where there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self._management_port, timeout=30)
        try:
            token = base64.b64encode(b"guest:guest").decode()
            headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
            connection.request(method, f"/api{path}", json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= http.client.BAD_REQUEST:
                raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()}")
            return json.loads(text) if text else None
        finally:
            connection.close()

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl against this node; returns what it printed."""
        command = [str(self._program.with_name("rabbitmqctl")), "-n", self.name, *arguments]
        done = subprocess.run(
            command, env=self._environment(), cwd=self._folder, check=True, capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            env=self._environment(),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def _end(self, process: subprocess.Popen[bytes], how: signal.Signals) -> None:
        # The group is the session that _spawn began: the start script and the Erlang machine under it, nobody else.
        if process.poll() is None:
            os.killpg(process.pid, how)
        process.wait(30)

    def _is_ready(self) -> bool:
        try:
            self.api("GET", f"/health/checks/port-listener/{self.port}")
        except (OSError, RuntimeError, http.client.HTTPException):
            return False
        return True

    def _last_words(self) -> str:
        logs = [self._folder / "startup.log", *sorted((self._folder / "log").glob("*.log"))]
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs)

    def _environment(self) -> dict[str, str]:
        folder = self._folder
        return {
            **os.environ,
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self.mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }


class Cluster:
    """Three nodes that know each other. A quorum queue has a replica on each, and does with two."""

    def __init__(self, folder: Path) -> None:
        """Prepare the nodes, with their data under `folder`, which must exist."""
        folders = [folder / str(number) for number in range(3)]
        for each in folders:
            each.mkdir()
        first = RabbitNode(folders[0])
        self.nodes = (first, *(RabbitNode(each, joins=first) for each in folders[1:]))

    def start(self) -> None:
        """Start the nodes and wait until all of them are members. Raises RuntimeError as a node's `start` does.

        A node takes connections a moment before its start-up ends. A virtual host made in that moment never comes to be
        on that node, and the request that made it hangs.
        """
        first, *others = self.nodes
        first.start()
        with ThreadPoolExecutor(len(others)) as pool:
            list(pool.map(RabbitNode.start, others))
        for node in self.nodes:
            node.control("await_startup")
        members = {node["name"] for node in first.api("GET", "/nodes") if node["running"]}
        if members != {node.name for node in self.nodes}:
            raise RuntimeError(f"The cluster did not form; its members are {sorted(members)}.")

    def leader_of(self, virtual_host: str, queue: str, *, ask: RabbitNode | None = None) -> RabbitNode:
        """Find the node that leads a quorum queue; `ask` is a node that runs, the first unless given."""
        name = (ask or self.nodes[0]).api("GET", f"/queues/{virtual_host}/{queue}")["leader"]
        return next(node for node in self.nodes if node.name == name)

    def stop(self) -> None:
        """End all nodes; the first goes last and takes the port mapper along."""
        for node in reversed(self.nodes):
            node.stop()


def _server_program() -> Path:
    # Debian's program on the PATH is a wrapper that changes the user; the one in the library folder does not.
    unwrapped = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    if unwrapped.exists():
        return unwrapped
    found = shutil.which("rabbitmq-server")
    if found is None:
        raise RuntimeError("There is no rabbitmq-server on this machine. Run tests/servers/install.sh.")
    return Path(found).resolve()
