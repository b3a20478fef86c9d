"""The artifact store beside the plain client on one S3 server, turn by turn in the same run.

    python -m bench.storage [--rounds 100]

`step` is all that a worker does with a step's blobs: read a 2 MB input and check its digest, store a 2 MB output under
its digest, commit a 2 KB manifest. Beside it stands the plain client's get and put, which do neither check nor commit.
"""

import argparse
import io
import random
import secrets
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

from minio import Minio
from minio.error import S3Error
from pydantic import SecretStr

from shared.contracts.artifacts import ArtifactRef
from shared.storage.artifacts import fetch, store_artifact
from shared.storage.folder import FolderStore
from shared.storage.port import ArtifactStore
from shared.storage.s3 import S3Store
from tests.servers.ceph import CephS3, S3Account

BUCKET = "bench"
BINARY = "application/octet-stream"
BLOB_BYTES = 2_000_000
MANIFEST_BYTES = 2_000
WARM_UP = 5

Operation = Callable[[int], object]


@dataclass(frozen=True)
class Row:
    """An operation as the plain client does it and as ours does; each is given the number of the round."""

    name: str
    raw: Operation
    ours: Operation


class RawClient:
    """The minio client, used as its manual shows."""

    def __init__(self, endpoint: str, account: S3Account) -> None:
        self._client = Minio(endpoint, account.access_key, account.secret_key, secure=False, region="us-east-1")

    def get(self, key: str) -> bytes:
        response = self._client.get_object(BUCKET, key)
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()

    def miss(self, key: str) -> None:
        try:
            self.get(key)
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(BUCKET, key, io.BytesIO(data), len(data), BINARY)


def step(store: ArtifactStore, ref: ArtifactRef, number: int) -> None:
    """What a worker does with a step's blobs."""
    output = fetch(store, ref)
    store_artifact(store, f"round{number}", "result", output, BINARY)
    assert store.put(f"round{number}/manifest", output[:MANIFEST_BYTES], BINARY)


def rows(raw: RawClient, store: ArtifactStore, ref: ArtifactRef) -> tuple[Row, ...]:
    """Keys that must be new hold the number of the round."""
    blob = fetch(store, ref)
    small = blob[:MANIFEST_BYTES]

    def raw_step(number: int) -> None:
        raw.get(ref.key)
        raw.put(f"round{number}/raw-step", blob)

    return (
        Row("get 2 MB", lambda _: raw.get(ref.key), lambda _: store.get(ref.key)),
        Row("get 2 MB, digest checked", lambda _: raw.get(ref.key), lambda _: fetch(store, ref)),
        Row("get what is missing", lambda _: raw.miss("missing"), lambda _: store.get("missing")),
        Row("put 2 MB", lambda n: raw.put(f"round{n}/a", blob), lambda n: store.put(f"round{n}/b", blob, BINARY)),
        Row("put 2 MB that stand", lambda _: raw.put(ref.key, blob), lambda _: store.put(ref.key, blob, BINARY)),
        Row("put 2 KB", lambda n: raw.put(f"round{n}/c", small), lambda n: store.put(f"round{n}/d", small, BINARY)),
        Row("step", raw_step, lambda n: step(store, ref, n)),
    )


def measure(operations: dict[str, Operation], rounds: int, tidy: Operation) -> dict[str, list[float]]:
    """Milliseconds of each operation in each round, in an order drawn anew every round."""
    order = list(operations)
    shuffle = random.Random(0).shuffle
    taken: dict[str, list[float]] = {name: [] for name in operations}
    for number in range(-WARM_UP, rounds):
        shuffle(order)
        for name in order:
            start = perf_counter()
            operations[name](number + WARM_UP)
            if number >= 0:
                taken[name].append((perf_counter() - start) * 1000)
        tidy(number + WARM_UP)
    return taken


def remove_round(store: ArtifactStore, number: int) -> None:
    """Give back what a round has written."""
    for prefix in (f"round{number}/", f"subjects/round{number}/"):
        for key in list(store.keys(prefix)):
            store.delete(key)


@contextmanager
def s3_server() -> Iterator[tuple[RawClient, S3Store]]:
    """A private S3 server, and both clients of one bucket on it."""
    with tempfile.TemporaryDirectory() as folder:
        ceph = CephS3(Path(folder))
        try:
            account = ceph.start()
            store = S3Store(
                endpoint=ceph.endpoint,
                bucket=BUCKET,
                access_key=SecretStr(account.access_key),
                secret_key=SecretStr(account.secret_key),
                secure=False,
            )
            store.ensure_bucket()
            yield RawClient(ceph.endpoint, account), store
        finally:
            ceph.stop()


def bench_s3(rounds: int) -> None:
    with s3_server() as (raw, store):
        ref = store_artifact(store, "subject", "intermediate", secrets.token_bytes(BLOB_BYTES), BINARY)
        table = rows(raw, store, ref)
        operations = {f"raw {row.name}": row.raw for row in table} | {f"our {row.name}": row.ours for row in table}
        taken = measure(operations, rounds, lambda number: remove_round(store, number))
    print(f"{'S3, ms (median)':28s} {'minio':>8s} {'ours':>8s} {'ratio':>8s}")
    for row in table:
        raw_ms, our_ms = (statistics.median(taken[f"{who} {row.name}"]) for who in ("raw", "our"))
        print(f"{row.name:28s} {raw_ms:8.2f} {our_ms:8.2f} {our_ms / raw_ms:8.2f}")


def bench_folder(rounds: int) -> None:
    print(f"\n{'folder, ms':28s} {'median':>8s} {'95 %':>8s}")
    for durable in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            store = FolderStore(Path(folder), durable=durable)
            ref = store_artifact(store, "subject", "intermediate", secrets.token_bytes(BLOB_BYTES), BINARY)
            name = "step, durable" if durable else "step, not durable"
            ms = measure({name: partial(step, store, ref)}, rounds, partial(remove_round, store))[name]
        print(f"{name:28s} {statistics.median(ms):8.2f} {statistics.quantiles(ms, n=20)[-1]:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    bench_s3(rounds)
    bench_folder(rounds)


if __name__ == "__main__":
    main()
