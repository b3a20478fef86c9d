"""What would be in memory at each step of a job, on a machine of any size: nothing is read, and no torch is imported.

The steps borrow stand-ins of the models' sizes, of a Residency of that budget and by the planner that the engines use
(`shared.models.memory.plan_for`). So it is not reckoned what fits: it is tried.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from shared.contracts.errors import Permanent, ResourceExhausted
from shared.models.borrowing import Borrowing, Painting, Whole, Words
from shared.models.memory import WORKING_BYTES, Plan, needs, plan_for
from shared.models.residency import Budget, Residency, Smaller
from shared.models.settings import Speed

ON_CPU = "on the CPU"
WHOLE = ("fp8", "fused_qkv", "first_block_cache")
"""Settings that need the whole transformer on the device."""


class StepToRun(NamedTuple):
    """A step and what it borrows."""

    name: str
    borrowing: Borrowing


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Placed(_Data):
    """How a model of a step is run."""

    name: str
    how: str
    """A plan, or `on the CPU`."""
    device_bytes: NonNegativeInt


class StepForecast(_Data):
    """A step of a job."""

    step: str
    models: tuple[Placed, ...]
    loads: NonNegativeInt
    """Models read from the disk."""
    loaded_bytes: NonNegativeInt
    moves: NonNegativeInt
    """Models moved to the device."""
    moved_bytes: NonNegativeInt
    peak_bytes: NonNegativeInt
    """Of all models on the device while it runs, without working memory."""
    on_device: tuple[str, ...]
    """Models there after it."""


class Forecast(_Data):
    """What jobs of a recipe do to a machine's memory, one at a time."""

    device_bytes: NonNegativeInt
    """Models may take."""
    host_bytes: NonNegativeInt
    working_bytes: NonNegativeInt = WORKING_BYTES
    first: tuple[StepForecast, ...] = ()
    """Of a process's first job, to the step that does not fit if there is one."""
    later: tuple[StepForecast, ...] = ()
    """Of every further one."""
    refused_step: str | None = None
    refused: str | None = None
    """Why that step cannot run."""

    @property
    def fits(self) -> bool:
        """Whether every step can run."""
        return self.refused is None

    @property
    def peak_bytes(self) -> int:
        """Of the device, working memory within."""
        return self.working_bytes + max((step.peak_bytes for step in (*self.first, *self.later)), default=0)


def forecast(steps: Sequence[StepToRun], budget: Budget, speed: Speed | None = None) -> Forecast:
    """Run a job's steps twice: what is each job's own to say is new each time, and all its steps say the same."""
    process = _Process(Residency(budget, wait_s=0.0), speed or Speed())
    jobs: list[tuple[StepForecast, ...]] = []
    sizes = {"device_bytes": budget.device_bytes, "host_bytes": budget.host_bytes}
    for _ in range(2):
        done: list[StepForecast] = []
        process.begin()
        for step in steps:
            try:
                done.append(process.run(step))
            except (Permanent, ResourceExhausted) as error:
                return Forecast(**sizes, first=tuple(done), refused_step=step.name, refused=str(error))
        jobs.append(tuple(done))
    return Forecast(**sizes, first=jobs[0], later=jobs[1])


class _StandIn:
    """A resident of a size and nothing else. What it gives is itself."""

    def __init__(self, name: str, size: int, how: str, device_bytes: int, host_bytes: int, saves: int = 0) -> None:
        self.name = name
        self.bytes = size
        self.how = how
        self.device_bytes = device_bytes
        self.host_bytes = host_bytes
        self.saves = saves
        self.smaller: Sequence[Smaller] = ()
        self.is_fresh = False
        self.identity: str | None = None
        self.attentions = 0
        self._first: tuple[str | None, int] = (None, 0)

    def starts_with(self, identity: str | None, attentions: int) -> "_StandIn":
        """The identity's modules are in it whenever it is loaded."""
        self._first = (identity, attentions)
        return self

    @property
    def grown(self) -> int:
        """What identity modules take more than those that it was loaded with."""
        return self.attentions - self._first[1]

    def load(self) -> "_StandIn":
        self.is_fresh = True
        self.identity, self.attentions = self._first
        return self

    def to_device(self) -> None:
        """There is nothing to move."""

    def to_host(self) -> None:
        """Likewise."""

    def drop(self) -> None:
        """Likewise."""


class _Process:
    def __init__(self, residency: Residency, speed: Speed) -> None:
        self._residency = residency
        self._speed = speed
        self._job = 0
        self._remembered: set[tuple[str, str]] = set()
        self._called: dict[str, str] = {}

    def begin(self) -> None:
        """The next job."""
        self._job += 1

    def run(self, step: StepToRun) -> StepForecast:
        before, peak, placed = self._residency.figures(), 0, []
        asked = step.borrowing
        for one in asked.alone:
            with self._residency.use(one.name, partial(_whole, one)) as used:
                placed.append(_placed(used))
                peak = max(peak, self._residency.figures().device_bytes)
        if asked.words is not None and self._are_new(asked.words):
            with self._residency.use(asked.words.name, partial(self._words, asked.words)) as used:
                placed.append(_placed(used))
                peak = max(peak, self._residency.figures().device_bytes)
        with ExitStack() as held:
            placed += [
                _placed(held.enter_context(self._residency.use(one.name, partial(_whole, one)))) for one in asked.held
            ]
            if asked.painting is not None:
                key = asked.painting.model
                used = held.enter_context(self._residency.use(key, partial(self._painter, asked.painting)))
                peak = max(peak, self._residency.figures().device_bytes)
                if used.is_fresh and used.saves:
                    self._residency.grow(key, -used.saves)
                used.is_fresh = False
                self._see(asked.painting, used)
                self._called[key] = used.name
                placed.append(_placed(used))
            peak = max(peak, self._residency.figures().device_bytes)
        after = self._residency.figures()
        return StepForecast(
            step=step.name,
            models=tuple(placed),
            loads=after.loads - before.loads,
            loaded_bytes=after.bytes_loaded - before.bytes_loaded,
            moves=after.moves_to_device - before.moves_to_device,
            moved_bytes=after.bytes_to_device - before.bytes_to_device,
            peak_bytes=peak,
            on_device=tuple(sorted(self._called.get(key, key) for key in self._residency.on_device())),
        )

    def _are_new(self, asked: Words) -> bool:
        """Whether nobody in the process has read them, as `shared.flux.text`; from now on somebody has."""
        said = {(asked.name, words) for words in asked.fixed}
        said |= {(asked.name, f"{own} of job {self._job}") for own in asked.own}
        new = not said <= self._remembered
        self._remembered |= said
        return new

    def _words(self, asked: Words) -> _StandIn:
        """As `shared.flux.studio`: on the device, or, where that is too small for them even when empty, on the CPU."""
        fits = asked.bytes <= self._residency.budget.device_bytes
        on_device, on_host = (asked.bytes, 0) if fits else (0, asked.bytes)
        return _StandIn(asked.name, asked.bytes, Plan.RESIDENT.value if fits else ON_CPU, on_device, on_host)

    def _see(self, asked: Painting, used: _StandIn) -> None:
        """As `shared.flux.studio`: an identity's modules are put into the transformer that is there."""
        if asked.identity_model is None or used.identity == asked.identity_model:
            return
        if used.attentions:
            self._residency.grow(asked.model, -used.attentions)
        used.identity, used.attentions = None, 0
        self._residency.grow(asked.model, asked.attentions)
        used.identity, used.attentions, used.name = asked.identity_model, asked.attentions, asked.name

    def _painter(self, asked: Painting) -> _StandIn:
        first = Plan.GROUP_OFFLOAD if self._speed.group_offload else Plan.RESIDENT
        beside = asked.beside + asked.attentions
        plan = plan_for(asked.name, asked.need, beside, self._residency.budget, first)
        whole = plan is Plan.RESIDENT
        needing = [name for name in WHOLE if getattr(self._speed, name)]
        if needing and not whole:
            raise Permanent(
                f"flux.{needing[0]} needs the whole transformer of {asked.name} on the device, which has no room for "
                f"it: it is brought by {plan.value}. Leave flux.{needing[0]} out, or use a larger GPU."
            )
        return _StandIn(
            asked.name,
            asked.need.weights + beside,
            plan.value,
            needs(asked.need, beside)[plan].device_bytes,
            0 if whole else asked.need.weights,
            asked.fp8_saves if whole else 0,
        ).starts_with(asked.identity_model, asked.attentions)


def _whole(asked: Whole) -> _StandIn:
    return _StandIn(asked.name, asked.bytes, Plan.RESIDENT.value, asked.bytes, 0)


def _placed(one: _StandIn) -> Placed:
    return Placed(name=one.name, how=one.how, device_bytes=one.device_bytes - one.saves + one.grown)
