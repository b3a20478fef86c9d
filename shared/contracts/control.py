"""What operators and owners tell all workers at once."""

from typing import Literal, Self

from pydantic import Field, model_validator

from shared.contracts.base import Contract, Identifier


class Control(Contract):
    """Sent to every worker; those that have nothing of the job or subject note it all the same.

    `cancel`: stop working on a job. `erase`: stop working on anything of a subject, and leave nothing of it.
    """

    schema_version: Literal[1] = 1
    kind: Literal["cancel", "erase"]
    job_id: Identifier | None = Field(default=None, description="of `cancel`")
    subject: Identifier | None = Field(default=None, description="of `erase`")

    @model_validator(mode="after")
    def _says_whom_it_means(self) -> Self:
        if (self.job_id is None) == (self.kind == "cancel") or (self.subject is None) == (self.kind == "erase"):
            raise ValueError("`cancel` names a job_id, `erase` a subject, and nothing else")
        return self
