"""Replays dead letters one by one: publishes what was planned, and settles the letter in the same transaction."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Final, Literal

from doctor_image_gen.replay import GoneOnError, Plan, Wish, plan_replay
from doctor_image_gen.stack import Connections
from doctor_image_gen.stages import OPERATIONS
from shared.contracts.base import now
from shared.contracts.errors import InvalidInput, Permanent, QueueFull
from shared.contracts.step import StepMessage
from shared.jobs.port import FiledLetter, LetterState
from shared.models.catalogue import load_models
from shared.models.policy import LicencePolicy, forbidden, refusal
from shared.worker.operation import Operation

FULL_PAUSE_S: Final = 1.0
FULL_PATIENCE: Final = 300
"""How often a replay that meets a full queue waits so long and tries again."""

Result = Literal["planned", "replayed", "gone on", "refused"]


@dataclass(frozen=True)
class Outcome:
    """What became of one letter in a replay; `words` says it, `run` is the job's new run.

    `gone on`: the job needs no replay, or somebody else has settled the letter. `refused`: it cannot be replayed like
    that and stays open; `error` says why.
    """

    letter_id: str
    result: Result
    words: str
    job_id: str | None = None
    run: int | None = None
    error: InvalidInput | Permanent | None = None


class Pace:
    """Spreads calls evenly. `rate` is calls a second; None does not wait."""

    def __init__(
        self, rate: float | None, pause: Callable[[float], None] = sleep, clock: Callable[[], float] = monotonic
    ) -> None:
        """Raises InvalidInput where the rate is not above 0."""
        if rate is not None and not rate > 0:
            raise InvalidInput("rate", f"found {rate:g}", "Give how many letters a second, for example 5 or 0.2.")
        self._interval = 0.0 if rate is None else 1 / rate
        self._pause = pause
        self._clock = clock
        self._next = clock()

    def wait(self) -> None:
        """Return when it is the next call's turn."""
        early = self._next - self._clock()
        if early > 0:
            self._pause(early)
        self._next = max(self._next, self._clock()) + self._interval


@dataclass(frozen=True)
class Replayer:
    """Replays in the name of `by`."""

    connections: Connections
    by: str
    operations: Mapping[str, Operation] = field(default_factory=lambda: OPERATIONS)
    licence_policy: LicencePolicy = "research"
    pause: Callable[[float], None] = sleep

    def replays(self, chosen: Iterable[FiledLetter], wish: Wish, pace: Pace, *, dry_run: bool) -> Iterator[Outcome]:
        """Replay letters in their order, and say of each what became of it.

        Raises:
            Transient: the broker or the database is away; the letter at hand and those after it are open as before.
        """
        for filed in chosen:
            yield self._replay(filed, wish, pace, dry_run=dry_run)

    def discard(self, filed: FiledLetter) -> bool:
        """Whether the letter was open, and is now discarded."""
        return self._settle(filed, "discarded", lambda _: None)

    def check_not_erased(self, subject: str | None) -> None:
        """Raise InvalidInput where a letter is of an erased subject, of which nothing is kept."""
        if subject is not None and self.connections.jobs.is_entombed(subject):
            raise InvalidInput("subject", f"'{subject}' was erased", f"`doctorgen subject allow {subject}` allows it.")

    def _replay(self, filed: FiledLetter, wish: Wish, pace: Pace, *, dry_run: bool) -> Outcome:
        letter = filed.letter
        job = self.connections.jobs.get(letter.job_id) if letter.job_id else None
        try:
            self.check_not_erased(letter.subject)
            plan = plan_replay(letter, job, wish, self.by, now(), self.operations)
            if plan.message is not None:
                ahead = plan.message.steps[plan.message.cursor :]
                phrases = forbidden(load_models(), self.licence_policy, ahead)
                if phrases:
                    raise refusal(phrases)
        except GoneOnError as reason:
            if not dry_run:
                self.discard(filed)
            return Outcome(letter.letter_id, "gone on", str(reason), letter.job_id)
        except (InvalidInput, Permanent) as error:
            return Outcome(letter.letter_id, "refused", str(error), letter.job_id, error=error)
        run = plan.message.run if plan.message else None
        if dry_run:
            return Outcome(letter.letter_id, "planned", plan.words, letter.job_id, run)
        pace.wait()
        if self._publish(filed, plan):
            return Outcome(letter.letter_id, "replayed", plan.words, letter.job_id, run)
        return Outcome(letter.letter_id, "gone on", "somebody else has settled it meanwhile", letter.job_id)

    def _publish(self, filed: FiledLetter, plan: Plan) -> bool:
        """A full queue is waited for outside the transaction, which others may need to empty it."""

        def act(_: FiledLetter) -> StepMessage | None:
            for outgoing in plan.outgoing:
                self.connections.broker.publish(outgoing)
            return plan.message

        for _ in range(FULL_PATIENCE):
            try:
                return self._settle(filed, "replayed", act)
            except QueueFull:
                self.pause(FULL_PAUSE_S)
        return self._settle(filed, "replayed", act)

    def _settle(self, filed: FiledLetter, state: LetterState, act: Callable[[FiledLetter], StepMessage | None]) -> bool:
        return self.connections.jobs.settle_letter(filed.letter.letter_id, state, self.by, act) is not None
