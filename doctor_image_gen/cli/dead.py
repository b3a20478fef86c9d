"""`doctorgen dead …`: what could not be worked off, and what becomes of it."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice

from doctor_image_gen.cli.agreement import agreed
from doctor_image_gen.cli.console import console, errors, print_table
from doctor_image_gen.cli.letters import as_json, groups_table, letters_table, lines_of
from doctor_image_gen.cli.line_file import read_lines, write_lines
from doctor_image_gen.cli.wishes import parameters_of
from doctor_image_gen.client import Client
from doctor_image_gen.dead import DeadLetters, wish_of
from doctor_image_gen.replayer import Outcome
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections, Stack
from shared.contracts.base import now
from shared.contracts.errors import DoctorGenError, InvalidInput

FILTERS = ("stage", "step", "kind", "fingerprint", "job_id", "batch_id", "caller", "subject", "state")
MALFORMED_SHOWN = 20


def show_list(arguments: argparse.Namespace) -> int:
    """A line for each cause, or with --each for each letter."""
    wanted = _filter(arguments)
    if arguments.limit < 1:
        raise InvalidInput("--limit", f"{arguments.limit} letters were asked for", "Ask for at least one.")
    with DeadLetters.open() as dead:
        if arguments.each:
            letters = list(islice(dead.each(**wanted), arguments.limit))
            documents = [filed.model_dump(mode="json", exclude_none=True) for filed in letters]
            table = letters_table(letters, now())
        else:
            groups = dead.list(**wanted)
            documents = [group.model_dump(mode="json") for group in groups]
            table = groups_table(groups, now())
    if arguments.json:
        print(json.dumps(documents, indent=2))  # noqa: T201 - what --json is for
    elif documents:
        print_table(table)
    else:
        errors.print("no dead letters")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """All about one letter."""
    with DeadLetters.open() as dead:
        shown = dead.show(arguments.letter_or_job)
    if arguments.json:
        print(as_json(shown))  # noqa: T201 - what --json is for
    else:
        for line in lines_of(shown, now()):
            console.print(line)
    return 0


def replay(arguments: argparse.Namespace) -> int:
    """0 when every letter was replayed, 1 when some were refused, 2 when all were; with --wait, as the jobs end."""
    wish = wish_of(arguments.from_step, parameters_of(arguments.set))
    with _where_steps_are_worked_off(arguments) as (dead, client):
        chosen = dead.choose(arguments.letter_or_job, _filter(arguments), everything=arguments.all)
        replays = dead.replays(chosen, wish, rate=arguments.rate, dry_run=arguments.dry_run)
        needs_asking = not (arguments.letter_or_job or arguments.dry_run)
        if needs_asking and not agreed(f"Replay {_count(dead, arguments)} letters?", yes=arguments.yes):
            return 1
        counts, runs, refusal = _tell(replays, as_json=arguments.json)
        if refusal is not None:
            raise refusal
        errors.print(_in_words(counts) if counts else "no dead letters")
        if client is None or not runs:
            return int(counts["refused"] > 0)
        jobs = client.follow_runs(runs, lambda _: None)
        computed = dead.computed(runs)
    ends = Counter[str](job.state for job in jobs)
    errors.print(f"ended: {_in_words(ends)}\ncomputed: {_in_words(computed)}")
    return int(set(ends) != {"done"} or counts["refused"] > 0)


def discard(arguments: argparse.Namespace) -> int:
    """Print how many there were."""
    with DeadLetters.open() as dead:
        ids, wanted = arguments.letter_or_job, _filter(arguments)
        chosen = dead.choose(ids, wanted, everything=arguments.all)
        count = len(list(chosen)) if ids else _count(dead, arguments)
        if count > 1 and not agreed(f"Discard {count} letters?", yes=arguments.yes):
            return 1
        count = dead.discard(*ids, everything=arguments.all, **wanted)
    console.print(f"discarded {count}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write letters as JSON lines."""
    with DeadLetters.open() as dead:
        count = write_lines(arguments.file, dead.export(**_filter(arguments)))
    errors.print(f"exported {count}")
    return 0


def import_(arguments: argparse.Namespace) -> int:
    """File letters from JSON lines; 1 when a line was malformed."""
    with DeadLetters.open() as dead, read_lines(arguments.file) as lines:
        outcome = dead.import_(lines)
    for number, error in outcome.malformed[:MALFORMED_SHOWN]:
        errors.print(f"line {number}: {error}")
    if len(outcome.malformed) > MALFORMED_SHOWN:
        errors.print(f"and {len(outcome.malformed) - MALFORMED_SHOWN} more lines like these")
    console.print(f"filed {outcome.filed}, standing already {outcome.standing}, malformed {len(outcome.malformed)}")
    return 1 if outcome.malformed else 0


def _filter(arguments: argparse.Namespace) -> dict[str, str | None]:
    return {name: getattr(arguments, name, None) for name in FILTERS}


def _count(dead: DeadLetters, arguments: argparse.Namespace) -> int:
    return sum(group.count for group in dead.list(**_filter(arguments)))


@contextmanager
def _where_steps_are_worked_off(arguments: argparse.Namespace) -> Iterator[tuple[DeadLetters, Client | None]]:
    """The embedded pipeline is run for as long as the replayed jobs take; elsewhere workers are at work."""
    settings = Settings.load()
    policy = settings.generation.licence_policy
    if settings.embedded and not arguments.dry_run:
        with Stack(settings) as stack:
            watching = Client(stack.connections, settings.photo_limits, stack.check)
            yield DeadLetters(stack.connections, licence_policy=policy), watching
        return
    with closing(Connections.open(settings)) as connections:
        wait = arguments.wait and not arguments.dry_run
        client = Client(connections, settings.photo_limits) if wait else None
        yield DeadLetters(connections, licence_policy=policy), client


def _tell(outcomes: Iterator[Outcome], *, as_json: bool) -> tuple[Counter[str], dict[str, int], DoctorGenError | None]:
    """Print each outcome; how many of each kind, the jobs and their runs, and the first refusal if all are refused."""
    counts: Counter[str] = Counter()
    runs: dict[str, int] = {}
    refusal: DoctorGenError | None = None
    for outcome in outcomes:
        counts[outcome.result] += 1
        refusal = refusal or outcome.error
        if outcome.result == "replayed" and outcome.job_id is not None and outcome.run is not None:
            runs[outcome.job_id] = outcome.run
        if as_json:
            document = {name: value for name, value in vars(outcome).items() if name != "error"}
            print(json.dumps(document))  # noqa: T201 - what --json is for
        elif outcome.error is None or counts.total() > 1:
            console.print(f"{outcome.letter_id} {outcome.result}: {outcome.words}")
    return counts, runs, refusal if counts.total() == counts["refused"] else None


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
