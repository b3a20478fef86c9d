"""Faults at random, planned from a seed: whatever is told twice, lost or cut short, a gated job comes to one end."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from random import Random

import pytest

from shared.broker.port import Outgoing
from shared.broker.topology import EVENTS
from shared.contracts.event import Event
from shared.contracts.step import StepMessage
from shared.jobs.journal import apply
from shared.jobs.port import Job
from shared.worker.dispatch import Origin, advanced
from shared.worker.ending import ended
from shared.worker.step import Engines, StepContext, advance, perform, prepare, record_of
from tests.fakes import MemoryStore
from tests.synthetic import QA, REFINE, UPSCALE, gated_message, ran
from tests.unit.test_worker_gate import job_of

MOST_DELIVERIES = 400
STORIES = 25
ENGINES = {stage.name: Engines(stage) for stage in (REFINE, UPSCALE, QA)}
ORIGIN = Origin("w")


@pytest.fixture(scope="module")
def io() -> Iterator[Executor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@dataclass
class Fleet:
    """Workers that may die after any part of what they publish, a broker that may deliver twice or lose all."""

    io: Executor
    rng: Random
    faults: bool = True
    store: MemoryStore = field(default_factory=MemoryStore)
    told: list[Event] = field(default_factory=list)

    def work_off(self, first: StepMessage) -> Job:
        job, queue = job_of(first), [first]
        for _ in range(MOST_DELIVERIES):
            message = queue.pop(self.rng.randrange(len(queue)))
            queue += [message] if self._happens(0.05) else []
            published = self._published(message)
            if self._happens(0.15):
                published = self.rng.sample(published, self.rng.randrange(len(published) + 1))
                queue.append(message)
            for outgoing in published:
                if outgoing.exchange != EVENTS:
                    queue.append(StepMessage.from_json(outgoing.body))
                    continue
                self.told.append(Event.from_json(outgoing.body))
                job = apply(job, self.told[-1])
            if self._happens(0.05):
                queue = [first]
            if not queue:
                return job
        raise AssertionError("it never ends")

    def _happens(self, chance: float) -> bool:
        return self.faults and self.rng.random() < chance

    def _published(self, message: StepMessage) -> list[Outgoing]:
        context = StepContext(
            store=self.store,
            io=self.io,
            worker="w",
            usd_per_hour=3600,
            turn=lambda _: nullcontext(),
            reached=lambda _phase, _message: None,
            progress=lambda _: None,
            show=lambda _: None,
        )
        manifest, reused = perform(prepare(message, ENGINES[message.step.stage]), context)
        record = record_of(message, manifest, reused=reused)
        ahead = advance(message, manifest, record)
        if not message.is_last:
            dispatch = advanced(message, record, ahead, ORIGIN)
        else:
            dispatch = ended(message, record, ahead, self.store, ORIGIN)
        return [dispatch.first, *dispatch.then]


def test_whatever_goes_wrong_the_job_ends_once_with_the_same_attempts_and_pays_for_each_once(io: Executor) -> None:
    """The same picture as without faults; every step computed once; every telling of a happening says the same."""
    calm = Fleet(io, Random(0), faults=False)
    wanted = calm.work_off(gated_message(calm.store, attempts=4)).result
    assert wanted is not None
    for story in range(STORIES):
        ran.clear()
        fleet = Fleet(io, Random(story))
        job = fleet.work_off(gated_message(fleet.store, attempts=4))
        assert job.state == "done", story
        assert job.result is not None
        assert (job.result.image, job.result.verdict, job.result.kept) == (wanted.image, wanted.verdict, wanted.kept)
        assert [one.seed for one in job.result.attempts or ()] == [one.seed for one in wanted.attempts or ()]
        assert {step.state for step in job.steps} == {"finished"}
        assert len(ran) == 1 + 4 * 3, "the step before the gate's once, the others once an attempt"
        computed = {one.record.key: one.record.cost_usd for one in fleet.told if one.record}
        assert job.result.cost_usd == pytest.approx(sum(computed.values()))
        tellings = {(one.event_id, one.model_copy(update={"at": job.updated_at}).to_json()) for one in fleet.told}
        assert len(tellings) == len({one.event_id for one in fleet.told})
