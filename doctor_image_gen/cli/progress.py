"""Live progress bars, one a stage, fed by events."""

from collections import Counter, defaultdict
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from doctor_image_gen.cli.parser import STAGES
from shared.contracts.event import TERMINAL, Event
from shared.contracts.recipe import Recipe, stage_of


class Progress:
    """Shows how far each stage is, over all jobs it has heard of, and why a step is tried again. To standard error.

    Args:
        recipe: that all jobs follow.
        quiet: show no bars.
    """

    def __init__(self, recipe: Recipe, *, quiet: bool) -> None:
        self._steps = Counter(stage_of(step.operation) for step in recipe.steps)
        names = [step.name for step in recipe.steps]
        self._again = recipe.steps[names.index(recipe.gate.back_to) :] if recipe.gate else ()
        self._tried: dict[str, int] = {}
        self._bars = Bars(
            TextColumn("{task.description:>9}"),
            BarColumn(),
            TextColumn("{task.completed:.1f}/{task.total:.0f} steps {task.fields[note]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._tasks: dict[str, TaskID] = {}
        self._done: defaultdict[str, dict[tuple[str, str], float]] = defaultdict(dict)
        self._jobs: set[str] = set()
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tasks:
            self._bars.stop()

    def tell(self, event: Event) -> None:
        """Move the bar of the event's stage. The bars appear with the first: a refusal is no progress."""
        if event.stage is None or event.step is None or event.kind in TERMINAL:
            return
        self._bars.start()
        if event.job_id not in self._jobs:
            self._jobs.add(event.job_id)
            for stage in (stage for stage in STAGES if stage in self._steps):
                task = self._tasks.get(stage)
                if task is None:
                    task = self._tasks[stage] = self._bars.add_task(stage, total=0, note="")
                self._bars.update(task, total=self._steps[stage] * len(self._jobs))
        tried = event.attempted.number if event.attempted else event.tried or 0
        if tried > self._tried.get(event.job_id, 0):
            self._go_back(event.job_id, tried)
        if event.kind == "regenerating" or tried < self._tried.get(event.job_id, 0):
            return
        fraction = {"finished": 1.0, "progress": event.fraction or 0.0}.get(event.kind, 0.0)
        done = self._done[event.stage]
        done[(event.job_id, event.step)] = fraction
        note = f"attempt {tried + 1}" if tried else ""
        if event.kind == "retrying" and event.retry_in_s:
            note = f"retrying in {event.retry_in_s:.0f} s"
        if event.kind == "retrying" and event.error and event.event_id not in self._told:
            self._told.add(event.event_id)  # a redelivered step tells the same once more
            said = f"{event.step} is tried again: {event.error.message}"
            self._bars.console.print(said, markup=False, highlight=False, soft_wrap=True)
        self._bars.update(self._tasks[event.stage], completed=sum(done.values()), note=note)

    def _go_back(self, job_id: str, tried: int) -> None:
        """Its picture did not pass: the steps from the gate's on are yet to be done."""
        self._tried[job_id] = tried
        for step in self._again:
            stage = stage_of(step.operation)
            self._done[stage].pop((job_id, step.name), None)
            completed = sum(self._done[stage].values())
            self._bars.update(self._tasks[stage], completed=completed, note=f"attempt {tried + 1}")
