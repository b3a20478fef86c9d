"""The step key: a step is a pure function, and its result is addressed by what went into it."""

import json
from collections.abc import Mapping

from shared.contracts.base import Digest
from shared.contracts.step import PinnedStep
from shared.storage.digest import sha256


def step_key(
    step: PinnedStep, models: Mapping[str, Digest], inputs: Mapping[str, tuple[Digest, ...]], revision: int = 1
) -> Digest:
    """SHA-256 over operation, its version, engine, its revision, model digests, parameters, seed and input digests.

    The order of mappings does not matter; that of several blobs in one input does. Neither the step's name nor the
    job takes part, so two jobs, or two places of one recipe, that ask for the same thing get the same key. A first
    revision is left out, as it was before there were any.
    """
    content = {
        "operation": step.operation,
        "version": step.operation_version,
        "engine": step.engine,
        "models": dict(models),
        "params": step.params,
        "seed": step.seed,
        "inputs": {name: list(digests) for name, digests in inputs.items()},
        **({} if revision == 1 else {"revision": revision}),
    }
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())
