"""What a model may be called where a parameter names it: a folder below the models folder, and nothing else."""

from typing import Annotated

from pydantic import StringConstraints

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=64)]
