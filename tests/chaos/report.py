"""A run's outcome as Markdown, and whether every promise was kept."""

from collections import Counter
from collections.abc import Sequence

from tests.chaos.audit import Ends, Recovery, Repetition
from tests.chaos.run import Account

SHOWN = 20


def promises_broken(ends: Ends, account: Account) -> list[str]:
    """What was promised and does not hold; empty where all is well."""
    broken = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}"
        for what, names in (
            ("jobs lost", ends.lost),
            ("jobs ended otherwise than done", ends.ended_otherwise),
            ("jobs finished twice", ends.finished_twice),
            ("images changed", ends.changed),
        )
        if names
    ]
    if account.left_in_queues:
        broken.append(f"left in queues: {account.left_in_queues}")
    rude = {name: status for name, status in account.statuses.items() if status}
    if rude:
        broken.append(f"processes that did not end politely on SIGTERM: {rude}")
    missed = Counter(fault.kind for row in account.plan.rows for fault in row)
    missed.subtract(each.fault.kind for each in account.struck)
    return broken + [f"{count} planned faults of the kind '{kind}' did not strike" for kind, count in (+missed).items()]


def table(account: Account, ends: Ends, repetition: Repetition, recovery: dict[str, Recovery]) -> str:
    """The tables."""
    struck = Counter(each.fault.kind for each in account.struck)
    acts = Counter(entry.act for entry in account.entries)
    share = repetition.seconds / account.seconds if account.seconds else 0.0
    rows = [
        ("seed", account.plan.seed),
        ("jobs", ends.jobs),
        ("worker kills (SIGKILL)", struck["worker"]),
        ("workers told to end (SIGTERM)", struck["drain"]),
        ("gateway kills", struck["gateway"]),
        ("broker kills", struck["broker"]),
        ("losses of the broker's disk with all messages", struck["disk"]),
        ("storage outages", struck["storage"]),
        ("network faults", struck["network"]),
        ("database sessions ended", struck["database"]),
        ("steps that hung", struck["hang"]),
        ("artifacts and manifests cut short", struck["corruption"]),
        ("messages told again, late and out of order", acts["again"]),
        ("clock jumps", acts["jumped"]),
        ("**lost**", len(ends.lost)),
        ("**ended otherwise than done**", len(ends.ended_otherwise)),
        ("**finished twice**", len(ends.finished_twice)),
        ("**images that differ from a run without faults**", len(ends.changed)),
        ("messages left in queues", sum(account.left_in_queues.values())),
        ("different steps computed", repetition.steps),
        ("steps run more than once", repetition.steps_run_again),
        ("runs beyond the first of a step", repetition.runs - repetition.steps),
        ("runs that a kill cut short", repetition.cut_short),
        ("worker seconds that they cost", f"{repetition.seconds:.1f} ({share:.2%} of the run's)"),
        ("duration in seconds", f"{account.seconds:.0f}"),
    ]
    return "\n".join([_grid(("", "count"), rows), "", _recovery_grid(recovery)])


def _recovery_grid(recovery: dict[str, Recovery]) -> str:
    rows = [
        (title, found.count, f"{found.median_s:.1f}", f"{found.longest_s:.1f}") for title, found in recovery.items()
    ]
    return _grid(("fault", "count", "median s until the next job ended", "longest"), rows)


def _grid(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
