"""What operators and owners tell all workers at once."""

from typing import Literal

from shared.contracts.base import Contract, Identifier


class Control(Contract):
    """`cancel`: stop working on a job. Sent to every worker; those that do not have the job note it all the same."""

    schema_version: Literal[1] = 1
    kind: Literal["cancel"]
    job_id: Identifier
