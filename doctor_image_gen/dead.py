"""Dead letters: what could not be worked off, to be looked at, replayed, discarded, carried elsewhere and back."""

import getpass
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import sleep
from types import TracebackType
from typing import Final, Self

from pydantic import JsonValue, ValidationError

from doctor_image_gen.replay import Wish
from doctor_image_gen.replayer import Outcome, Pace, Replayer
from doctor_image_gen.settings import Settings
from doctor_image_gen.stack import Connections
from shared.contracts.base import Parameters, invalid_input
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.errors import InvalidInput
from shared.jobs.port import FiledLetter, Job, LetterFilter, LetterGroup
from shared.models.policy import LicencePolicy

PAGE: Final = 100


@dataclass(frozen=True)
class Shown:
    """All that is known of one dead letter, and the job's further letters, the oldest first."""

    filed: FiledLetter
    job: Job | None
    others: tuple[FiledLetter, ...]


@dataclass(frozen=True)
class Imported:
    """What became of the lines of an import. A malformed one is told by its number, from 1."""

    filed: int
    standing: int
    malformed: tuple[tuple[int, InvalidInput], ...]


class DeadLetters:
    """The dead letters of a deployment.

    Filters are keywords, the fields of LetterFilter; only open letters count unless `state` says otherwise. `by` says
    who replays or discards: at most 100 characters; user and host where absent. What `licence_policy` forbids is not
    replayed.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        by: str | None = None,
        may_replay: bool = True,
        licence_policy: LicencePolicy = "research",
        pause: Callable[[float], None] = sleep,
    ) -> None:
        self._connections = connections
        self._jobs = connections.jobs
        self._may_replay = may_replay
        self._pause = pause
        name = (by or _whoever_this_is())[:100]
        self._replayer = Replayer(connections, name, licence_policy=licence_policy, pause=pause)

    @classmethod
    def open(cls, settings: Settings | None = None, *, by: str | None = None) -> Self:
        """On connections of its own, which `close` or the end of a `with` gives back."""
        settings = settings or Settings.load()
        policy = settings.generation.licence_policy
        return cls(Connections.open(settings), by=by, may_replay=not settings.embedded, licence_policy=policy)

    def list(self, **wanted: str | None) -> tuple[LetterGroup, ...]:
        """The letters grouped by stage, error and fingerprint, the largest group first."""
        return self._jobs.letter_groups(filter_of(wanted))

    def each(self, **wanted: str | None) -> Iterator[FiledLetter]:
        """The letters that match now, the oldest first; those that die meanwhile are not among them."""
        return self._each(filter_of(wanted))

    def show(self, letter_or_job: str) -> Shown:
        """A letter by its id, or the newest one of a job. Raises InvalidInput where there is none."""
        filed = self._named(letter_or_job)[-1]
        job_id = filed.letter.job_id
        if job_id is None:
            return Shown(filed, None, ())
        of_job = self._each(LetterFilter(job_id=job_id, state=None))
        others = tuple(one for one in of_job if one.letter.letter_id != filed.letter.letter_id)
        return Shown(filed, self._jobs.get(job_id), others)

    def replay(
        self,
        *letters_or_jobs: str,
        from_step: str | None = None,
        overrides: Mapping[str, JsonValue] | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        everything: bool = False,
        **wanted: str | None,
    ) -> tuple[Outcome, ...]:
        """Have letters worked off again, each as a new run of its job; what became of each.

        Args:
            letters_or_jobs: ids of letters, or of jobs, which stand for their open letters.
            from_step: where to start instead of at the step that failed; a step before it.
            overrides: other parameters: `{"refine.grain": 0.3}` or `{"refine": {"grain": 0.3}}`.
            rate: at most so many a second.
            dry_run: only say what would be done.
            everything: all open letters, where neither ids nor a filter are given.
            **wanted: a filter: fields of LetterFilter.

        Raises:
            InvalidInput: nothing is chosen, or an id is nobody's, or no letter can be replayed like that.
            Transient: the broker or the database is away; letters not replayed by then are open as before.
        """
        chosen = self.choose(letters_or_jobs, wanted, everything=everything)
        outcomes = tuple(self.replays(chosen, wish_of(from_step, overrides or {}), rate=rate, dry_run=dry_run))
        if outcomes and all(outcome.result == "refused" for outcome in outcomes) and outcomes[0].error is not None:
            raise outcomes[0].error
        return outcomes

    def replays(
        self, chosen: Iterable[FiledLetter], wish: Wish, *, rate: float | None = None, dry_run: bool = False
    ) -> Iterator[Outcome]:
        """The same for letters that were chosen, one by one as they are asked for."""
        if not self._may_replay and not dry_run:
            raise InvalidInput(
                "broker_url",
                "the embedded pipeline ends with its process, so nobody would work the replay off",
                "Use DoctorImageGenerator(...).dead, or `doctorgen dead replay`.",
            )
        return self._replayer.replays(chosen, wish, Pace(rate, self._pause), dry_run=dry_run)

    def choose(
        self, ids: Sequence[str], wanted: Mapping[str, str | None], *, everything: bool = False
    ) -> Iterator[FiledLetter]:
        """The letters of these ids, or those that a filter finds, or all open ones.

        Raises:
            InvalidInput: not exactly one of the three is given, or an id is nobody's or has no open letter.
        """
        given = {name: value for name, value in wanted.items() if value is not None}
        if [bool(ids), bool(given), everything].count(True) != 1:
            found = "both ids and a filter are given" if ids else "neither an id nor a filter is given"
            raise InvalidInput("letters", found, "Name ids, or say by a filter which are meant, or say all.")
        return iter([filed for one in ids for filed in self._open(one)]) if ids else self._each(filter_of(given))

    def computed(self, runs: Mapping[str, int]) -> Counter[str]:
        """How often each step was computed, and not found done, in these runs of these jobs."""
        told = (event for job_id, run in runs.items() for event in self._jobs.events(job_id) if event.run == run)
        return Counter(event.step for event in told if event.kind == "started" and event.step is not None)

    def discard(self, *letters_or_jobs: str, everything: bool = False, **wanted: str | None) -> int:
        """Have done with letters; how many. They can still be shown and exported. Raises InvalidInput as `replay`."""
        chosen = self.choose(letters_or_jobs, wanted, everything=everything)
        return sum(self._replayer.discard(filed) for filed in chosen)

    def export(self, *letters_or_jobs: str, **wanted: str | None) -> Iterator[bytes]:
        """Letters as JSON, one a line, each ending in a newline. Raises InvalidInput where an id is nobody's."""
        named = (filed for one in letters_or_jobs for filed in self._named(one))
        chosen = named if letters_or_jobs else self._each(filter_of(wanted))
        return (filed.letter.to_json() + b"\n" for filed in chosen)

    def import_(self, lines: Iterable[bytes]) -> Imported:
        """File letters that were exported. One that stands already is no change; empty lines are skipped.

        A malformed line does not keep the others out: mend it, and import the file again.
        """
        filed = standing = 0
        malformed = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                letter = DeadLetter.from_json(line)
                self._replayer.check_not_erased(letter.subject)
            except InvalidInput as error:
                malformed.append((number, error))
                continue
            new = self._jobs.file_letter(letter)
            filed, standing = filed + new, standing + (not new)
        return Imported(filed, standing, tuple(malformed))

    def close(self) -> None:
        """Give the connections back."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _each(self, wanted: LetterFilter) -> Iterator[FiledLetter]:
        left = sum(group.count for group in self._jobs.letter_groups(wanted))
        after = None
        while left > 0:
            page = self._jobs.letters(wanted, min(left, PAGE), after)
            if not page:
                return
            yield from page
            left -= len(page)
            after = page[-1].letter

    def _named(self, letter_or_job: str) -> tuple[FiledLetter, ...]:
        """The letter of that id, else all letters of the job of that id."""
        for field in ("letter_id", "job_id"):
            found = tuple(self._each(filter_of({field: letter_or_job, "state": ANY})))
            if found:
                return found
        found_not = f"there is no dead letter '{letter_or_job}', and none of a job of that id"
        raise InvalidInput("letter", found_not, "`doctorgen dead list` shows what there is.")

    def _open(self, letter_or_job: str) -> tuple[FiledLetter, ...]:
        named = self._named(letter_or_job)
        still_open = tuple(filed for filed in named if filed.state == "open")
        if not still_open:
            last = named[-1]
            by, at = last.settled_by or "somebody", last.settled_at
            found = f"'{letter_or_job}' was {last.state} by {by}" + (f" at {at:%Y-%m-%d %H:%M:%S}" if at else "")
            raise InvalidInput("letter", found, "`doctorgen status` shows how its job stands.")
        return still_open


ANY: Final = "any"
"""As `state` of a filter: letters in every state."""


def filter_of(wanted: Mapping[str, str | None]) -> LetterFilter:
    """The keywords as a filter; None stands for an absent one.

    Raises:
        InvalidInput: there is no such field, or its value cannot be one.
    """
    given: dict[str, str | None] = {name: value for name, value in wanted.items() if value is not None}
    if given.get("state") == ANY:
        given["state"] = None
    try:
        return LetterFilter.model_validate(given)
    except ValidationError as error:
        raise invalid_input(error, "", LetterFilter) from error


def wish_of(from_step: str | None, overrides: Mapping[str, JsonValue]) -> Wish:
    """What a replay is to do otherwise. `{"refine.grain": 0.3}` is short for `{"refine": {"grain": 0.3}}`.

    Raises:
        InvalidInput: an override is neither.
    """
    by_step: dict[str, Parameters] = {}
    for name, value in overrides.items():
        step, dot, parameter = name.partition(".")
        if dot and step and parameter:
            by_step.setdefault(step, {})[parameter] = value
        elif not dot and isinstance(value, dict):
            by_step.setdefault(step, {}).update(value)
        else:
            raise InvalidInput(f"overrides.{name}", "it names no parameter", "Write it as refine.grain=0.3.")
    return Wish(from_step, by_step)


def _whoever_this_is() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
