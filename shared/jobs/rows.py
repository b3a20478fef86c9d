"""A job as a row, and back. Documents are kept whole, as the JSON of their contracts."""

import json
from typing import Any, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import RowMapping

from shared.contracts.attempt import Attempt
from shared.contracts.base import Contract
from shared.contracts.brief import Brief
from shared.contracts.event import JobResult
from shared.contracts.request import JobRequest, Lane
from shared.contracts.step import ErrorAccount, StepMessage
from shared.jobs.port import Job, StepState

M = TypeVar("M", bound=Contract)

_STEPS: TypeAdapter[tuple[StepState, ...]] = TypeAdapter(tuple[StepState, ...])
_ATTEMPTS: TypeAdapter[tuple[Attempt, ...]] = TypeAdapter(tuple[Attempt, ...])


def row_of(job: Job) -> dict[str, Any]:
    """The columns of a new job."""
    return {
        "job_id": job.job_id,
        "batch_id": job.batch_id,
        "caller": job.caller,
        "lane": lane_of(job),
        "idempotency_key": idempotency_column(job),
        "subject": job.subject,
        "released_at": job.released_at,
        "created_at": job.created_at,
        "request": _document(job.request),
        "brief": _document(job.brief),
        "first_message": _document(job.first_message),
        **changes_of(job),
    }


def changes_of(job: Job) -> dict[str, Any]:
    """The columns that events change."""
    result = job.result
    spent = [(step.seconds or 0.0, step.cost_usd) for step in job.steps if not step.reused]
    spent += [(attempt.seconds, attempt.cost_usd) for attempt in job.attempts]
    return {
        "state": job.state,
        "run": job.run,
        "updated_at": job.updated_at,
        "steps": _STEPS.dump_json(job.steps, exclude_none=True).decode(),
        "attempts": _ATTEMPTS.dump_json(job.attempts, exclude_none=True).decode() if job.attempts else None,
        "error": _document(job.error),
        "result": _document(result),
        "score": result and result.summary.identity_score,
        "passed": result and result.summary.passed,
        "seconds": result.seconds if result else sum(seconds for seconds, _ in spent),
        "cost_usd": result.cost_usd if result else sum(cost for _, cost in spent),
    }


def replay_of(job: Job) -> dict[str, Any]:
    """The columns that a replay changes."""
    return {
        **changes_of(job),
        "lane": lane_of(job),
        "released_at": job.released_at,
        "first_message": _document(job.first_message),
    }


def job_of(row: RowMapping) -> Job:
    """The job a row describes."""
    return Job(
        job_id=row["job_id"],
        batch_id=row["batch_id"],
        caller=row["caller"],
        subject=row["subject"],
        state=row["state"],
        request=_parsed(JobRequest, row["request"]),
        brief=_parsed(Brief, row["brief"]),
        first_message=_parsed(StepMessage, row["first_message"]),
        run=row["run"],
        released_at=row["released_at"],
        steps=_STEPS.validate_json(row["steps"]),
        attempts=_ATTEMPTS.validate_json(row["attempts"] or "[]"),
        error=_parsed(ErrorAccount, row["error"]),
        result=_parsed(JobResult, row["result"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def lane_of(job: Job) -> Lane | None:
    """The lane a job is released in; None where there is nothing to publish."""
    return job.first_message.priority if job.first_message else None


def idempotency_column(job: Job) -> str | None:
    """The key the caller gave, as a JSON string: any character can be kept that way."""
    key = job.request.idempotency_key if job.request else None
    return None if key is None else json.dumps(key)


def _document(model: Contract | None) -> str | None:
    return None if model is None else model.to_json().decode()


def _parsed(model: type[M], document: str | None) -> M | None:
    return None if document is None else model.from_json(document)
