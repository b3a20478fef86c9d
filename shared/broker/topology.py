"""The house topology as data: which exchanges and queues the pipeline lives on, and where messages go from them."""

from collections.abc import Sequence
from itertools import pairwise

from shared.broker.port import Exchange, Queue, Topology
from shared.contracts.errors import InvalidInput

STEPS = "doctorgen.steps"
EVENTS = "doctorgen.events"
INTAKE = "doctorgen.intake"
CONTROL = "doctorgen.control"

INTAKE_KEY = "intake"
JOURNAL = "journal"

STAGES = ("identity", "generate", "swap", "refine", "upscale", "qa")
RETRY_LADDER_MS = (1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000)


def queue_name(stage: str) -> str:
    """Name the queue that a stage's workers read; also that of `intake` and of `journal`."""
    return f"doctorgen.{stage}"


def dead_queue(stage: str) -> str:
    """Name the queue where a stage's undeliverable and failed messages rest until someone replays them."""
    return f"doctorgen.{stage}.dead"


def retry_queue(stage: str, delay_ms: int) -> str:
    """Name the queue that holds a message for `delay_ms` and then gives it back to the stage."""
    return f"doctorgen.{stage}.retry.{delay_ms}ms"


def topology(stages: Sequence[str] = STAGES, retry_ladder_ms: Sequence[int] = RETRY_LADDER_MS) -> Topology:
    """Lay out every exchange and queue of the pipeline.

    Steps go to `doctorgen.steps` with the stage as routing key, job requests to `doctorgen.intake` with the key
    `intake`, events to `doctorgen.events` (all of them reach the journal's queue), commands to `doctorgen.control`.

    Args:
        stages: the stages to have queues for.
        retry_ladder_ms: the delays of the retry queues in milliseconds, rising; each stage and the intake get all.

    Raises:
        InvalidInput: the ladder does not rise, or holds a delay below one millisecond.
    """
    _check_ladder(retry_ladder_ms)
    exchanges = (
        Exchange(STEPS, "direct"),
        Exchange(EVENTS, "topic"),
        Exchange(INTAKE, "direct"),
        Exchange(CONTROL, "fanout"),
    )
    queues: list[Queue] = []
    for stage in stages:
        queues += _worked_off(stage, (STEPS, stage), retry_ladder_ms)
    queues += _worked_off(INTAKE_KEY, (INTAKE, INTAKE_KEY), retry_ladder_ms)
    queues += _worked_off(JOURNAL, (EVENTS, "#"), ())
    return Topology(exchanges, tuple(queues))


def _worked_off(stage: str, source: tuple[str, str], retry_ladder_ms: Sequence[int]) -> list[Queue]:
    # The order matters to the broker: a queue's dead-letter target stands before the queue.
    dead = Queue(dead_queue(stage))
    main = Queue(queue_name(stage), bindings=(source,), dead_letter=("", dead.name))
    retries = [Queue(retry_queue(stage, delay), ttl_ms=delay, dead_letter=source) for delay in retry_ladder_ms]
    return [dead, main, *retries]


def _check_ladder(ladder_ms: Sequence[int]) -> None:
    if any(delay < 1 for delay in ladder_ms) or any(later <= sooner for sooner, later in pairwise(ladder_ms)):
        raise InvalidInput(
            "retry_ladder_ms",
            f"found {list(ladder_ms)}",
            "Give rising delays of at least one millisecond, for example 1000, 5000, 30000.",
        )
