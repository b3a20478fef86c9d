"""Dead letters of the synthetic pipeline in tests.synthetic."""

from datetime import UTC, datetime, timedelta
from typing import Any

from shared.contracts.dead_letter import DeadLetter
from shared.contracts.step import ErrorAccount, Failure, StepMessage
from shared.worker.operation import Operation
from tests import synthetic
from tests.fakes import MemoryStore

DAWN = datetime(2026, 11, 20, 6, 0, 0, 123456, tzinfo=UTC)
OPERATIONS: dict[str, Operation] = {
    operation.name: operation for operation in (synthetic.TEXT, synthetic.PLAIN, synthetic.JUDGE)
}
BROKEN = ErrorAccount(
    kind="Permanent", type="ZeroDivisionError", message="broken on purpose", hint="Mend it.", traceback="line 1\nline 2"
)


def at(minutes: float) -> datetime:
    """An instant so many minutes after dawn."""
    return DAWN + timedelta(minutes=minutes)


def message(job_id: str = "job-1", *, cursor: int = 1, **changes: Any) -> StepMessage:
    """A message that failed at its current step; what earlier steps made is there."""
    first = synthetic.first_message(MemoryStore(), job_id)
    (source,) = first.artifacts["request.photos"]
    made = {f"{step.name}.text": (source,) for step in first.steps[:cursor]}
    failure = Failure(at=DAWN, worker="w1", error=BROKEN)
    fields = {
        "cursor": cursor,
        "artifacts": {**first.artifacts, **made},
        "attempts": 3,
        "plan": 1,
        "failures": (failure, failure),
    }
    return StepMessage.model_validate({**first.model_dump(), **fields, **changes})


def letter(number: int = 1, **changes: Any) -> DeadLetter:
    """The letter of the message of job `job-<number>`, which died so many minutes after dawn."""
    job_id = f"job-{number}"
    failed = message(job_id)
    fields = {
        "letter_id": f"letter-{number}",
        "fingerprint": "f1",
        "queue": "doctorgen.upscale.interactive",
        "died_at": at(number),
        "worker": "w1",
        "job_id": job_id,
        "caller": "tester",
        "subject": synthetic.SUBJECT,
        "step": "two",
        "attempts": 3,
        "error": BROKEN,
        "message": failed,
    }
    return DeadLetter.model_validate({**fields, **changes})


def raw_letter(body: bytes | str, queue: str = "doctorgen.intake", letter_id: str = "raw-1") -> DeadLetter:
    """The letter of a body that could not be read."""
    text = body if isinstance(body, str) else body.decode()
    return DeadLetter(
        letter_id=letter_id,
        fingerprint="f0",
        queue=queue,
        died_at=DAWN,
        worker="w1",
        attempts=1,
        error=BROKEN.model_copy(update={"kind": "InvalidInput", "type": "InvalidInput"}),
        body=text,
    )
