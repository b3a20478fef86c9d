"""Six stages under the real stages' names, with small pictures in place of portraits, and the recipe through them.

Descriptions only; the engines import NumPy and OpenCV and lie in tests.chaos.engines.
"""

import json
from typing import Annotated

import yaml
from pydantic import Field

from shared.contracts.recipe import Recipe
from shared.worker.operation import EngineSpec, Operation, Params, Stage

ENGINES = "tests.chaos.engines"


class PictureParams(Params):
    """What every step of the chaos recipe may be told."""

    strength: Annotated[float, Field(ge=0, le=1)] = 0.5
    work_ms: Annotated[float, Field(ge=0, le=10_000)] = 20.0
    """How long the work takes during which it needs no processor, as work on a GPU does, in milliseconds."""


def _operation(name: str, engine: str, inputs: tuple[str, ...], output: str, *, seeded: bool = False) -> Operation:
    spec = EngineSpec(PictureParams, f"{ENGINES}:{engine}")
    return Operation(name, 1, inputs, (output,), seeded=seeded, engines={"portable": spec})


STAGES = {
    stage.name: stage
    for stage in (
        Stage("identity", (_operation("identity.chaos_shrink", "Shrink", ("photos",), "identity"),)),
        Stage(
            "generate",
            (_operation("generate.chaos_paint", "Paint", ("photos", "identity"), "image", seeded=True),),
        ),
        Stage(
            "swap",
            (
                _operation("swap.chaos_swirl", "Swirl", ("image",), "image"),
                _operation("swap.chaos_mend", "Mend", ("image", "identity"), "image"),
            ),
        ),
        Stage("refine", (_operation("refine.chaos_grain", "Grain", ("image",), "image", seeded=True),)),
        Stage("upscale", (_operation("upscale.chaos_double", "Double", ("image",), "image"),)),
        Stage("qa", (_operation("qa.chaos_judge", "Judge", ("image", "identity"), "verdict"),)),
    )
}
OPERATIONS = {operation.name: operation for stage in STAGES.values() for operation in stage.operations}

RECIPE_NAME = "chaos"
RECIPE = """
name: chaos
version: 1
title: Small pictures through all six stages
result: upscale.image
verdict: qa.verdict
steps:
  - {name: identity, operation: identity.chaos_shrink, inputs: {photos: request.photos}}
  - name: paint
    operation: generate.chaos_paint
    inputs: {photos: request.photos, identity: identity.identity}
  - {name: swirl, operation: swap.chaos_swirl, inputs: {image: paint.image}}
  - {name: mend, operation: swap.chaos_mend, inputs: {image: swirl.image, identity: identity.identity}}
  - {name: grain, operation: refine.chaos_grain, inputs: {image: mend.image}}
  - {name: upscale, operation: upscale.chaos_double, inputs: {image: grain.image}}
  - {name: qa, operation: qa.chaos_judge, inputs: {image: upscale.image, identity: identity.identity}}
"""
RECIPES = {RECIPE_NAME: Recipe.from_json(json.dumps(yaml.safe_load(RECIPE)))}
