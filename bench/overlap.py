"""Do the stages overlap? One worker a stage over RabbitMQ and S3: python -m bench.overlap.

The slowest stage's own rate is that of its worker alone on a queue that is never empty. Against it stands the rate at
which jobs leave a pipeline of all six stages, from the first to the last. Work is time during which no processor is
needed, as on a GPU.
"""

import secrets
import threading
from time import perf_counter

from bench.figures import HEADER, Figure
from bench.servers import Servers, servers
from bench.synthetic import MEDIA, SUBJECT, message, stage
from shared.broker.open import open_broker
from shared.broker.port import Broker
from shared.broker.topology import EVENTS, STAGES, topology, work_queues
from shared.contracts.event import Event
from shared.storage.artifacts import store_artifact
from shared.storage.open import open_store
from shared.storage.port import ArtifactStore
from shared.worker.dispatch import Origin, step_outgoing
from shared.worker.worker import Worker

BLOB_BYTES = 2_000_000
JOBS = 30
SLOWEST = "swap"
WORK_MS = {"identity": 150.0, "generate": 250.0, "swap": 400.0, "refine": 200.0, "upscale": 300.0, "qa": 150.0}
BOUND = 0.95


def measure(host: Servers) -> list[Figure]:
    """The slowest stage alone, then all of them."""
    alone = rate(host, (SLOWEST,))
    together = rate(host, STAGES)
    return [
        Figure(f"{SLOWEST} alone, {WORK_MS[SLOWEST]:g} ms of work a step", alone, "jobs/s"),
        Figure("six stages, one worker each", together, "jobs/s"),
        Figure("throughput / the slowest stage's own rate", together / alone, "", BOUND, at_least=True),
    ]


def rate(host: Servers, stages: tuple[str, ...]) -> float:
    """Jobs that leave the last of the stages a second, between the first and the last of them."""
    broker, store = open_broker(host.broker_url), open_store(host.storage)
    broker.declare(topology())
    events = broker.listen(EVENTS, ("job.*.finished",))
    file_jobs(broker, store, stages)
    workers = [Worker(stage(name), broker, store, Origin("bench"), usd_per_hour=1) for name in stages]
    threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    left: list[float] = []
    while len(left) < JOBS:
        delivery = events.receive(60)
        assert delivery is not None, "the pipeline stands still"
        if Event.from_json(delivery.body).stage == stages[-1]:
            left.append(perf_counter())
    if stages[-1] != "qa":
        leave_empty(broker, "qa")
    for worker in workers:
        worker.stop()
    for thread in threads:
        thread.join()
    broker.close()
    return (JOBS - 1) / (left[-1] - left[0])


def leave_empty(broker: Broker, name: str) -> None:
    """Take what the measured stages have passed on."""
    subscription = broker.subscribe(*work_queues(name))
    for _ in range(JOBS):
        delivery = subscription.receive(10)
        assert delivery is not None
        delivery.ack()
    subscription.close()


def file_jobs(broker: Broker, store: ArtifactStore, stages: tuple[str, ...]) -> None:
    """Jobs with inputs of their own, so that none finds another's results. All end in `qa`, worked off or not."""
    route = stages if stages[-1] == "qa" else (*stages, "qa")
    for _ in range(JOBS):
        blob = secrets.token_bytes(BLOB_BYTES)
        source = store_artifact(store, SUBJECT, "intermediate", blob, MEDIA)
        work = tuple(WORK_MS[name] for name in route)
        broker.publish(step_outgoing(message(f"bench-{secrets.token_hex(6)}", source, route, work)))


if __name__ == "__main__":
    with servers() as host:
        print(HEADER, *(figure.row() for figure in measure(host)), sep="\n")
