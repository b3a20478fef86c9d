"""What gateway and worker processes answer to whoever probes them."""

import json
from pathlib import Path
from time import monotonic, sleep
from urllib.error import HTTPError
from urllib.request import urlopen

from tests.e2e.deployment import LIMIT_S, Deployment
from tests.servers.ports import free_ports


def asked(port: int, path: str) -> tuple[int, dict[str, object]]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def well(port: int, path: str) -> dict[str, object]:
    """The report, probed as an orchestrator does: again and again, for consumers take a moment to stand."""
    until = monotonic() + LIMIT_S
    while (answer := asked(port, path))[0] != 200:
        assert monotonic() < until, answer
        sleep(0.05)
    return answer[1]


def test_gateway_and_worker_say_that_they_live_and_are_ready(deployment: Deployment) -> None:
    """The gateway answers for the job store, a worker for its models; it has figures, too."""
    ports = dict(zip(("gateway", "qa"), free_ports(2), strict=True))
    commands = {"gateway": ("doctor_image_gen.cli", "gateway"), "qa": ("services.qa",)}
    for name, port in ports.items():
        process = deployment.start(f"probed-{name}", *commands[name], DOCTORGEN_HEALTH_PORT=str(port))
        process.wait_until_ready()
        assert well(port, "/live") == {"loop": "ok", "consumer": "ok"}
        report = well(port, "/ready")
        assert set(report.values()) == {"ok"}
        assert set(report) == {"broker", "storage", "draining", "jobs" if name == "gateway" else "models"}
        status, figures = asked(port, "/figures")
        assert (status, "doctorgen_turns_total" in figures) == (200, name == "qa")
        assert asked(port, "/metrics")[0] == 404
        assert process.terminate() == 0


def test_a_worker_that_asks_for_what_the_broker_cannot_do_says_so_and_ends(deployment: Deployment) -> None:
    """RabbitMQ before 4.3 cannot delay retries by itself; nothing was declared or consumed."""
    name = "too-new"
    process = deployment.start(name, "services.qa", DOCTORGEN_RETRY__DELAYED_RETRY="native")
    assert process.wait() == 2
    del deployment.processes[name]
    said = Path(deployment.folder, f"{name}.log").read_text()
    assert "Native delayed retry needs RabbitMQ 4.3 or later; this server says it is '3." in said
    assert "Set retry.delayed_retry to queues" in said
