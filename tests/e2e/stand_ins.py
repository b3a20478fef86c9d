"""A published recipe on the weights of `doctorgen models tiny`: the same steps and engines, smaller and sooner done."""

from typing import Any

from doctor_image_gen.recipes import find_recipe

STAND_INS = {
    "flux1-dev": "tiny-flux",
    "flux1-dev-fp8": "tiny-flux",
    "REAL1SM_V3_FP8": "tiny-flux",
    "pulid_flux_v0.9.1": "tiny-pulid",
    "hand_yolov9c": "tiny-hands",
    "face_yolov8m": "tiny-faces",
    "inswapper_128": "tiny-swapper",
    "codeformer": "tiny-restorer",
    "gfpgan": "tiny-restorer",
    "4x-UltraSharp": "tiny-esrgan",
    "yunet": "tiny-yunet",
    "auraface": "tiny-arcface",
    "antelopev2": "tiny-pulid",
}
"""For each model that a recipe names. tiny-pulid holds a pack of its own."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "identity.encode": {"encoder": None},
    "generate.text_to_image": {"identity_model": "tiny-pulid", "width": 256, "height": 256},
    "swap.hands": {"guide_size": 64, "max_size": 128},
    "swap.face": {"encoder": "tiny-insight"},
    "swap.face_detail": {"identity_model": "tiny-pulid", "guide_size": 64, "max_size": 128},
    "upscale.image": {"width": 512, "height": 512},
    "qa.score": {"width": 512, "height": 512},
}
"""For what operations use without a recipe's saying so, and for the pictures' sizes."""


MOST_SAMPLING_STEPS = 8
SEED = 7


def stand_ins(recipe: str) -> dict[str, Any]:
    """The overrides of a job, `step.parameter` to value."""
    changed: dict[str, Any] = {}
    for step in find_recipe(None, recipe).steps:
        if step.engine is not None:
            continue
        named = step.engines.get("flux", {})
        models = {
            name: STAND_INS[value] for name, value in named.items() if isinstance(value, str) and value in STAND_INS
        }
        fewer = {"steps": MOST_SAMPLING_STEPS} if int(str(named.get("steps", 0))) > MOST_SAMPLING_STEPS else {}
        instead = models | fewer | DEFAULTS.get(step.operation, {})
        changed |= {f"{step.name}.{name}": value for name, value in instead.items()}
    return changed
