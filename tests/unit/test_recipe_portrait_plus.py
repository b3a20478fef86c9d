"""The recipe portrait-plus is portrait with a refinement that refines."""

import pytest

from doctor_image_gen.recipes import find_recipe
from services.refine.stage import FluxPhotorealParams
from shared.flux.levels import noise_levels


def start(recipe: str) -> float:
    (step,) = (step for step in find_recipe(None, recipe).steps if step.name == "refine")
    params = FluxPhotorealParams.model_validate(step.engines["flux"])
    return noise_levels(params, 1024, 1024, params.denoise)[0]


def test_it_differs_from_portrait_in_how_refine_is_told_alone() -> None:
    """A change of portrait has to be made here, too."""
    plain, plus = (find_recipe(None, name) for name in ("portrait", "portrait-plus"))
    changed = {
        one.name for one, other in zip(plain.steps, plus.steps, strict=True) if one.model_dump() != other.model_dump()
    }
    assert changed == {"refine"}
    before, after = (next(step for step in recipe.steps if step.name == "refine") for recipe in (plain, plus))
    assert after.model_copy(update={"engines": before.engines}) == before
    assert (plain.result, plain.verdict, plain.gate) == (plus.result, plus.verdict, plus.gate)


def test_portrait_starts_where_comfyui_does_and_portrait_plus_where_texture_is_repainted() -> None:
    """The figures that docs/recipes.md argues with."""
    assert start("portrait") == pytest.approx(0.023876, abs=1e-6)
    assert start("portrait-plus") == pytest.approx(0.306970, abs=1e-6)
