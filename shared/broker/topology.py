"""The house topology as data: which exchanges and queues the pipeline lives on, and where messages go from them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from shared.broker.port import Exchange, Queue, Topology
from shared.contracts.errors import InvalidInput

STEPS = "doctorgen.steps"
EVENTS = "doctorgen.events"
INTAKE = "doctorgen.intake"
CONTROL = "doctorgen.control"

INTAKE_KEY = "intake"
BATCH_KEY = "batch"
JOURNAL = "journal"

STAGES = ("identity", "generate", "swap", "refine", "upscale", "qa")
LANES: tuple[Literal["interactive"], Literal["bulk"]] = ("interactive", "bulk")
RETRY_LADDER_MS = (1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000)
QUEUE_LIMIT = 10_000

DelayedRetry = Literal["queues", "native"]


def queue_name(stage: str, lane: str | None = None) -> str:
    """Name the queue that a stage's workers read for a lane; `intake` and `journal` have one queue and no lanes."""
    return f"doctorgen.{stage}" if lane is None else f"doctorgen.{stage}.{lane}"


def routing_key(stage: str, lane: str) -> str:
    """Name the key under which a step reaches a stage's lane on `doctorgen.steps`."""
    return f"{stage}.{lane}"


def work_queues(stage: str) -> tuple[str, str]:
    """Name both queues of a stage, that of the interactive lane first."""
    interactive, bulk = LANES
    return queue_name(stage, interactive), queue_name(stage, bulk)


def retry_queue(stage: str, lane: str | None, delay_ms: int) -> str:
    """Name the queue that holds a message for `delay_ms` and then gives it back; the intake's lane is None."""
    return f"{queue_name(stage, lane)}.retry.{delay_ms}ms"


def retry_queues(stage: str, retry_ladder_ms: Sequence[int] = RETRY_LADDER_MS) -> tuple[str, ...]:
    """Name all retry queues of a stage, or of `intake`."""
    return tuple(retry_queue(stage, lane, delay) for lane in _lanes(stage) for delay in retry_ladder_ms)


def dead_queue(stage: str) -> str:
    """Name the queue where a stage's undeliverable and failed messages, of both lanes, wait to be filed."""
    return f"doctorgen.{stage}.dead"


def topology(
    stages: Sequence[str] = STAGES,
    retry_ladder_ms: Sequence[int] = RETRY_LADDER_MS,
    queue_limit: int = QUEUE_LIMIT,
    delayed_retry: DelayedRetry = "queues",
) -> Topology:
    """Lay out every exchange and queue of the pipeline.

    Steps go to `doctorgen.steps` with `<stage>.<lane>` as routing key, job and batch requests to `doctorgen.intake`
    with the keys `intake` and `batch`, events to `doctorgen.events` (all of them reach the journal's queue), commands
    to `doctorgen.control`, from where they reach every worker and the intake's queue: a cancellation is heard though
    no gateway runs, and lies behind the request it means. A batch request that waited in a retry queue comes back
    under the key `intake`.

    Args:
        stages: the stages to have queues for.
        retry_ladder_ms: the delays of the retry queues in milliseconds, rising; each lane and the intake get all.
        queue_limit: how many messages may wait in a lane's queue or the intake's before it refuses more. Messages
            that come back, from retry queues or from consumers, are never lost to it. RabbitMQ tries the way out of a
            retry queue again every three minutes where the queue it leads to was full.
        delayed_retry: `queues` waits in one queue a delay; `native` leaves it to the work queues themselves, with the
            ladder's first and last delay, and declares no retry queues (RabbitMQ 4.3 and later).

    Raises:
        InvalidInput: the ladder does not rise, or holds a delay below one millisecond, or is empty where the queues
            themselves are to delay; or the limit is below one.
    """
    native = delayed_retry == "native"
    _check(retry_ladder_ms, queue_limit, native=native)
    ladder_ms = () if native else retry_ladder_ms
    retry_ms = (retry_ladder_ms[0], retry_ladder_ms[-1]) if native else None
    exchanges = (
        Exchange(STEPS, "direct"),
        Exchange(EVENTS, "topic"),
        Exchange(INTAKE, "direct"),
        Exchange(CONTROL, "fanout"),
    )
    queues: list[Queue] = []
    for stage in stages:
        # The order matters to the broker: a queue's dead-letter target stands before the queue.
        queues.append(Queue(dead_queue(stage)))
        for lane in LANES:
            source = (STEPS, routing_key(stage, lane))
            main = _main(stage, lane, (source,), queue_limit, retry_ms)
            queues += (main, *_retries(stage, lane, source, ladder_ms))
    queues.append(Queue(dead_queue(INTAKE_KEY)))
    requests = ((INTAKE, INTAKE_KEY), (INTAKE, BATCH_KEY), (CONTROL, ""))
    queues.append(_main(INTAKE_KEY, None, requests, queue_limit, retry_ms))
    queues += _retries(INTAKE_KEY, None, requests[0], ladder_ms)
    queues.append(Queue(dead_queue(JOURNAL)))
    queues.append(_main(JOURNAL, None, ((EVENTS, "#"),), None, None))
    return Topology(exchanges, tuple(queues))


def _main(
    stage: str,
    lane: str | None,
    sources: tuple[tuple[str, str], ...],
    limit: int | None,
    retry_ms: tuple[int, int] | None,
) -> Queue:
    dead = ("", dead_queue(stage))
    return Queue(queue_name(stage, lane), bindings=sources, dead_letter=dead, max_length=limit, retry_ms=retry_ms)


def _retries(stage: str, lane: str | None, back: tuple[str, str], ladder_ms: Sequence[int]) -> list[Queue]:
    return [Queue(retry_queue(stage, lane, delay), ttl_ms=delay, dead_letter=back) for delay in ladder_ms]


def _lanes(stage: str) -> tuple[str | None, ...]:
    return (None,) if stage == INTAKE_KEY else LANES


def _check(ladder_ms: Sequence[int], queue_limit: int, *, native: bool) -> None:
    empty = native and not ladder_ms
    if empty or any(delay < 1 for delay in ladder_ms) or any(later <= sooner for sooner, later in pairwise(ladder_ms)):
        raise InvalidInput(
            "retry_ladder_ms",
            f"found {list(ladder_ms)}",
            "Give rising delays of at least one millisecond, for example 1000, 5000, 30000.",
        )
    if queue_limit < 1:
        raise InvalidInput("queue_limit", f"found {queue_limit}", "Let at least one message wait, for example 10000.")
