"""The desk between a request and the job store: who is turned away, and how a job is noted."""

from services.gateway import answers
from services.gateway.bell import Bell
from services.gateway.room import Room
from services.gateway.tombs import Tombs
from shared.broker.port import Outgoing
from shared.contracts.errors import InvalidInput
from shared.contracts.event import TERMINAL
from shared.contracts.request import JobRequest
from shared.jobs.port import Job, JobStore
from shared.worker.events import outgoing_event


class Desk:
    """For one thread. Every call may raise what the job store raises."""

    def __init__(self, jobs: JobStore, room: Room, tombs: Tombs, bell: Bell, worker: str) -> None:
        self._jobs = jobs
        self._room = room
        self._tombs = tombs
        self._bell = bell
        self._worker = worker

    def known(self, job_id: str) -> Job | None:
        """The job as it stands, if it does."""
        return self._jobs.get(job_id)

    def wait_s(self, caller: str, wanted: int = 1) -> int | None:
        """None where so many more jobs of a caller may wait; else in how many seconds to ask again."""
        return self._room.wait_s(caller, wanted)

    def refuse_erased(self, request: JobRequest, job_id: str) -> tuple[Outgoing, ...]:
        """The answer to a request of an erased subject, of whom nothing is kept; empty where the subject was not."""
        if not self._tombs.holds(request.subject):
            return ()
        self._tombs.clear(request.subject)
        error = InvalidInput(
            "subject",
            f"'{request.subject}' was erased",
            f"`doctorgen subject allow {request.subject}` lets it in again.",
        )
        return (answers.turned_away(request, job_id, answers.account(error), self._worker),)

    def refuse_crowded(self, request: JobRequest, job_id: str) -> tuple[Outgoing, ...]:
        """The answer to a request for which there is no room; empty where there is."""
        wait_s = self.wait_s(request.caller)
        if wait_s is None:
            return ()
        return (answers.turned_away(request, job_id, answers.no_room(request.caller, wait_s), self._worker),)

    def note(self, request: JobRequest, job: Job) -> tuple[Outgoing, ...]:
        """Note the job, from then on it is safe; the events to tell.

        Looks for an erasure once more: one that began while the request was being looked at may have missed the job.
        """
        noted = self._jobs.add(job)
        erased = self.refuse_erased(request, job.job_id)
        if erased:
            return erased
        if noted.state == "accepted":
            self._room.taken(noted.caller)
            self._bell.ring()
        return answers.standing(noted, self._worker)

    def cancel(self, job_id: str) -> tuple[Outgoing, ...]:
        """End a job at once, waiting or in flight; the event to tell. Nothing where it has ended or is not known."""
        job = self._jobs.get(job_id)
        if job is None or job.state in TERMINAL:
            return ()
        event = answers.cancelled(job, self._worker)
        self._jobs.record(event)
        self._bell.ring()
        return (outgoing_event(event),)
