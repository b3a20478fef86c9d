"""Writes the JSON Schemas of what crosses a process's border: `python -m shared.contracts.schemas FOLDER`."""

import json
import sys
from pathlib import Path

from shared.contracts.artifacts import ArtifactRef, Manifest
from shared.contracts.attempts import Attempts
from shared.contracts.base import Contract
from shared.contracts.batch import BatchEvent, BatchRequest
from shared.contracts.beat import Beat
from shared.contracts.control import Control
from shared.contracts.dead_letter import DeadLetter
from shared.contracts.event import Event
from shared.contracts.identity import IdentityRecord
from shared.contracts.recipe import Recipe
from shared.contracts.request import JobRequest
from shared.contracts.step import StepMessage
from shared.contracts.verdict import Verdict

PUBLISHED: dict[str, type[Contract]] = {
    "job-request": JobRequest,
    "recipe": Recipe,
    "step-message": StepMessage,
    "event": Event,
    "artifact-ref": ArtifactRef,
    "manifest": Manifest,
    "verdict": Verdict,
    "attempts": Attempts,
    "identity-record": IdentityRecord,
    "dead-letter": DeadLetter,
    "control": Control,
    "beat": Beat,
    "batch-request": BatchRequest,
    "batch-event": BatchEvent,
}


def schema_files() -> dict[str, str]:
    """File name to the text of the schema in it."""
    return {
        f"{name}.schema.json": json.dumps(model.model_json_schema(), indent=2, sort_keys=True) + "\n"
        for name, model in PUBLISHED.items()
    }


def main(folder: Path) -> None:
    """Write them all."""
    for name, text in schema_files().items():
        (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
