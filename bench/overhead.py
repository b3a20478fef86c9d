"""What the pipeline adds to a step, over RabbitMQ and S3: python -m bench.overhead.

Raw: the medians of minio's get_object and put_object of 2 MB, of a confirmed publish, and of the way from publish to
delivery (both with plain pika, quorum queue), added up. Ours: the median time from a delivered step message to the
delivery of the next step's message, with an operation that computes nothing: manifest looked for, input fetched and its
digest checked, output stored under its digest, manifest committed, next step published and confirmed. Turn by turn.
"""

import secrets
import threading
from collections.abc import Callable
from io import BytesIO
from statistics import median
from time import perf_counter

import pika
from minio import Minio

from bench.figures import HEADER, Figure
from bench.servers import Servers, servers
from bench.synthetic import MEDIA, SUBJECT, message, stage
from shared.broker.open import open_broker
from shared.broker.topology import topology, work_queues
from shared.storage.artifacts import store_artifact
from shared.storage.open import open_store
from shared.worker.dispatch import Origin, step_outgoing
from shared.worker.worker import Worker

BLOB_BYTES = 2_000_000
ROUNDS, WARM_UP = 60, 10
BOUND = 1.3


def measure(host: Servers) -> list[Figure]:
    """Raw and ours, round by round."""
    raw, ours = Raw(host), Ours(host)
    rows: dict[str, list[float]] = {}
    for number in range(WARM_UP + ROUNDS):
        blob = secrets.token_bytes(BLOB_BYTES)
        taken = {**raw.round(number, blob), "ours": ours.round(number, blob)}
        if number >= WARM_UP:
            for name, seconds in taken.items():
                rows.setdefault(name, []).append(seconds * 1000)
    ours.close()
    medians = {name: median(values) for name, values in rows.items()}
    total = sum(medians[name] for name in ("get", "put", "publish", "deliver"))
    return [
        *(
            Figure(f"raw {name}, 2 MB" if name in {"get", "put"} else f"raw {name}", medians[name], "ms")
            for name in ("get", "put", "publish", "deliver")
        ),
        Figure("raw sum", total, "ms"),
        Figure("a step of ours", medians["ours"], "ms"),
        Figure("a step of ours / raw sum", medians["ours"] / total, "", BOUND),
    ]


class Raw:
    """The clients as their manuals show them."""

    def __init__(self, host: Servers) -> None:
        self._minio = Minio(host.endpoint, host.account.access_key, host.account.secret_key, secure=False)
        self._bucket = host.bucket
        open_store(host.storage)
        connection = pika.BlockingConnection(pika.URLParameters(host.broker_url))
        self._out, self._in = connection.channel(), connection.channel()
        self._out.confirm_delivery()
        self._out.queue_declare("bench.raw", durable=True, arguments={"x-queue-type": "quorum"})
        self._messages = self._in.consume("bench.raw", auto_ack=False)

    def round(self, number: int, blob: bytes) -> dict[str, float]:
        """Seconds of each."""
        key, body = f"raw/{number}", secrets.token_bytes(4_000)
        persistent = pika.BasicProperties(delivery_mode=2)
        put = timed(lambda: self._minio.put_object(self._bucket, key, BytesIO(blob), len(blob)))
        get = timed(lambda: self._get(key))
        start = perf_counter()
        self._out.basic_publish("", "bench.raw", body, persistent, mandatory=True)
        published = perf_counter()
        method, _, _ = next(self._messages)
        delivered = perf_counter()
        self._in.basic_ack(method.delivery_tag)
        return {"get": get, "put": put, "publish": published - start, "deliver": delivered - start}

    def _get(self, key: str) -> None:
        response = self._minio.get_object(self._bucket, key)
        response.read()
        response.close()
        response.release_conn()


class Ours:
    """One worker on `refine`; we stand where `qa` would."""

    def __init__(self, host: Servers) -> None:
        self._store = open_store(host.storage)
        self._broker = open_broker(host.broker_url)
        self._broker.declare(topology())
        self._received = 0.0
        self._worker = Worker(
            stage("refine"), self._broker, self._store, Origin("bench"), usd_per_hour=1, observe=self._observe
        )
        self._listener = open_broker(host.broker_url)
        self._next = self._listener.subscribe(*work_queues("qa"))
        self._thread = threading.Thread(target=self._worker.run, daemon=True)
        self._thread.start()

    def round(self, number: int, blob: bytes) -> float:
        """Seconds from the delivered step to the delivered next one."""
        source = store_artifact(self._store, SUBJECT, "intermediate", blob, MEDIA)
        first = message(f"bench-{number}", source, ("refine", "qa"), (0.0, 0.0))
        self._broker.publish(step_outgoing(first))
        delivery = self._next.receive(30)
        delivered = perf_counter()
        assert delivery is not None
        delivery.ack()
        return delivered - self._received

    def close(self) -> None:
        """End the worker."""
        self._worker.stop()
        self._thread.join()
        self._broker.close()
        self._listener.close()

    def _observe(self, phase: str, _: object) -> None:
        if phase == "received":
            self._received = perf_counter()


def timed(action: Callable[[], object]) -> float:
    """Seconds that it took."""
    start = perf_counter()
    action()
    return perf_counter() - start


if __name__ == "__main__":
    with servers() as host:
        print(HEADER, *(figure.row() for figure in measure(host)), sep="\n")
