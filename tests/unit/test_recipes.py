"""The recipes that ship, and those of the user's folder: what is taken, what is refused and by which words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from doctor_image_gen.recipes import find_recipe, load_recipes
from doctor_image_gen.recipes.wiring import check_wiring
from doctor_image_gen.stages import OPERATIONS
from services.gateway.defaults import GenerationDefaults
from shared.contracts.brief import Brief
from shared.contracts.errors import InvalidInput
from shared.contracts.recipe import Recipe
from shared.models.catalogue import load_models
from shared.models.needs import PlannedStep
from shared.models.policy import forbidden

BUILT_IN = load_recipes(None)
PORTRAIT = BUILT_IN["portrait"]

GPU = {
    "generate": {
        "model": "flux1-dev",
        "width": 1024,
        "height": 1024,
        "steps": 100,
        "sampler": "euler",
        "scheduler": "beta",
        "cfg": 1.0,
        "guidance": 3.5,
        "identity_weight": 0.85,
    },
    "hands": {"detector": "hand_yolov9c", "steps": 50, "denoise": 0.25},
    "face": {"model": "inswapper_128", "restorer": "codeformer", "restorer_weight": 0.5},
    "face_detail": {"detector": "face_yolov8m", "steps": 150, "denoise": 0.66, "scheduler": "beta"},
    "refine": {"steps": 35, "denoise": 0.4, "scheduler": "karras"},
    "upscale": {"method": "lanczos", "scale": 4, "width": 4096, "height": 4096},
}


def test_portrait_has_the_eight_steps_in_their_order() -> None:
    assert [step.operation for step in PORTRAIT.steps] == [
        "identity.encode",
        "generate.text_to_image",
        "swap.hands",
        "swap.face",
        "swap.face_detail",
        "refine.photoreal",
        "upscale.image",
        "qa.score",
    ]
    assert (PORTRAIT.result, PORTRAIT.verdict) == ("upscale.image", "qa.verdict")


@pytest.mark.parametrize("name", GPU)
def test_portrait_holds_the_parameters_of_the_gpu_engines(name: str) -> None:
    (step,) = [step for step in PORTRAIT.steps if step.name == name]
    params = {**step.params, **step.engines.get("flux", {})}
    assert {parameter: params.get(parameter) for parameter in GPU[name]} == GPU[name]


def test_portrait_identifies_with_pulid_and_refines_with_real1sm() -> None:
    models = {step.name: str(step.engines.get("flux", {}).get("model")) for step in PORTRAIT.steps}
    assert models["identity"].startswith("pulid_flux")
    assert models["refine"].startswith("REAL1SM")


@pytest.mark.parametrize("recipe", BUILT_IN.values(), ids=BUILT_IN)
def test_each_recipe_fits_what_the_stages_can_do(recipe: Recipe) -> None:
    check_wiring(recipe, OPERATIONS)


@pytest.mark.parametrize("recipe", BUILT_IN.values(), ids=BUILT_IN)
def test_each_step_takes_from_the_brief_only_what_there_is(recipe: Recipe) -> None:
    offered = {*Brief.model_fields, "faces"}
    assert [name for step in recipe.steps for name in step.brief if name not in offered] == []


@pytest.mark.parametrize("recipe", BUILT_IN.values(), ids=BUILT_IN)
def test_the_judge_expects_the_size_that_is_made(recipe: Recipe) -> None:
    steps = {step.name: step for step in recipe.steps}
    made, judged = steps[recipe.result.split(".")[0]], steps[recipe.verdict.split(".")[0]]
    assert (judged.params["width"], judged.params["height"]) == (made.params["width"], made.params["height"])


def test_the_rehearsal_is_done_by_the_gpu_engines_whatever_engine_is_asked_for() -> None:
    """In portrait's steps, with models that every licence policy allows."""
    rehearsal = BUILT_IN["rehearsal"]
    assert [step.name for step in rehearsal.steps] == [step.name for step in PORTRAIT.steps]
    assert {step.engine for step in rehearsal.steps} == {"flux"}
    steps = {step.name: step for step in rehearsal.steps}
    assert steps["identity"].engines["flux"]["model"] == steps["generate"].engines["flux"]["identity_model"]
    pinned = []
    for step in rehearsal.steps:
        params = OPERATIONS[step.operation].engines["flux"].parse(step.engines["flux"], step.name)
        pinned.append(PlannedStep(step.name, step.operation, "flux", params.model_dump(mode="json")))
    assert forbidden(load_models(), "commercial", pinned) == ()


def test_the_default_recipe_exists() -> None:
    assert GenerationDefaults().recipe in BUILT_IN


def test_an_optional_input_may_read_an_image_of_the_request() -> None:
    whole = with_step(1, inputs={"photos": "request.photos", "identity": "identity.identity", "style": "request.room"})
    recipe = Recipe.model_validate(whole, strict=False)
    check_wiring(recipe, OPERATIONS)
    assert recipe.images == ("room",)


@pytest.mark.parametrize("slot", ["request.photos", "request.pose"])
def test_what_the_request_brings_is_no_result(slot: str) -> None:
    with pytest.raises(InvalidInput, match=f"no step makes '{slot}'"):
        check_wiring(Recipe.model_validate(document(result=slot), strict=False), OPERATIONS)


def test_portrait_posed_is_portrait_with_a_pose_and_an_identity_that_flux_reads() -> None:
    """Its last steps read the identity of whichever engine does them; what FLUX paints is held to PuLID's."""
    posed = BUILT_IN["portrait-posed"]
    steps, known = ({step.name: step for step in recipe.steps} for recipe in (posed, PORTRAIT))
    assert posed.images == ("pose",)
    for name in known.keys() - {"generate"}:
        assert steps[name] == known[name]
    assert {name: steps[name].engine for name in ("likeness", "generate")} == {"likeness": "flux", "generate": "flux"}
    assert steps["likeness"].engines == known["identity"].engines
    before, now = known["generate"].engines["flux"], dict(steps["generate"].engines["flux"])
    assert now.pop("controls") == [{"kind": "openpose", "strength": 0.9, "end": 0.65}]
    assert now == before


@pytest.mark.parametrize("name", ["portrait-klein", "portrait-restaged"])
def test_other_portraits_differ_from_portrait_in_how_the_scene_is_made_alone(name: str) -> None:
    """A change of portrait's later steps has to be made in its variants, too."""
    steps, known = ({step.name: step for step in recipe.steps} for recipe in (BUILT_IN[name], PORTRAIT))
    assert {one: steps[one] for one in known.keys() - {"generate"}} == {
        one: known[one] for one in known.keys() - {"generate"}
    }
    assert steps.keys() - known.keys() <= {"likeness"}


def document(**changes: Any) -> dict[str, Any]:
    """A small recipe that fits."""
    return {
        "name": "quick",
        "version": 1,
        "title": "Small and quick",
        "result": "generate.image",
        "verdict": "qa.verdict",
        "steps": [
            {"name": "identity", "operation": "identity.encode", "inputs": {"photos": "request.photos"}},
            {
                "name": "generate",
                "operation": "generate.text_to_image",
                "inputs": {"photos": "request.photos", "identity": "identity.identity"},
                "params": {"width": 512, "height": 512},
            },
            {
                "name": "qa",
                "operation": "qa.score",
                "inputs": {"image": "generate.image", "identity": "identity.identity"},
            },
        ],
        **changes,
    }


def with_step(number: int, **changes: Any) -> dict[str, Any]:
    whole = document()
    whole["steps"][number] |= changes
    return whole


def put(folder: Path, text: str | bytes, name: str = "quick.yaml") -> Path:
    """A user's folder with this recipe."""
    (folder / "recipes").mkdir(exist_ok=True)
    (folder / "recipes" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def refusal(folder: Path, name: str = "quick") -> InvalidInput:
    with pytest.raises(InvalidInput) as refused:
        find_recipe(folder, name)
    return refused.value


def test_a_user_s_recipe_is_added(tmp_path: Path) -> None:
    put(tmp_path, yaml.safe_dump(document()))
    assert [*load_recipes(tmp_path)] == [*BUILT_IN, "quick"]
    assert find_recipe(tmp_path, "quick").title == "Small and quick"
    assert find_recipe(tmp_path, "portrait") == PORTRAIT


def test_a_user_s_recipe_goes_before_the_built_in_one_of_its_name(tmp_path: Path) -> None:
    put(tmp_path, yaml.safe_dump(document(name="portrait", title="Ours")), "portrait.yaml")
    assert find_recipe(tmp_path, "portrait").title == "Ours"
    assert [*load_recipes(tmp_path)] == [*BUILT_IN]


def test_a_changed_file_counts_for_the_next_job(tmp_path: Path) -> None:
    put(tmp_path, yaml.safe_dump(document(title="Before")))
    assert find_recipe(tmp_path, "quick").title == "Before"
    put(tmp_path, yaml.safe_dump(document(title="After")))
    assert find_recipe(tmp_path, "quick").title == "After"


def test_a_folder_without_recipes_and_files_of_other_types_are_left_alone(tmp_path: Path) -> None:
    assert [*load_recipes(tmp_path)] == [*BUILT_IN]
    put(tmp_path, "notes", "README.md")
    assert [*load_recipes(tmp_path)] == [*BUILT_IN]


def test_a_broken_recipe_is_nobody_else_s_trouble(tmp_path: Path) -> None:
    put(tmp_path, "a: [", "broken.yaml")
    assert find_recipe(tmp_path, "portrait") == PORTRAIT
    with pytest.raises(InvalidInput, match=r"^recipes/broken\.yaml: it cannot be read as YAML"):
        load_recipes(tmp_path)


def test_an_unknown_recipe_is_refused_with_the_nearest_names(tmp_path: Path) -> None:
    put(tmp_path, yaml.safe_dump(document()))
    assert str(refusal(tmp_path, "quik")) == "recipe: there is no recipe 'quik'. Did you mean quick?"
    assert refusal(tmp_path, "portait").mend.startswith("Did you mean portrait or ")


def test_a_user_s_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    error = refusal(tmp_path / "nowhere", "portrait")
    assert error.field == "user_folder"
    assert "there is no folder" in error.found


@pytest.mark.parametrize(
    ("text", "field", "found"),
    [
        ("a: [", "recipes/quick.yaml", "it cannot be read as YAML"),
        (b"\xff\xfe", "recipes/quick.yaml", "it cannot be read as YAML"),
        ("- 1", "recipes/quick.yaml: Recipe", "Input should be an object"),
        ("", "recipes/quick.yaml: Recipe", "Input should be an object"),
        (yaml.safe_dump(document(setps=[])), "recipes/quick.yaml: setps", "there is no such field"),
        ("name: quick\nversion: 2024-01-01", "recipes/quick.yaml: version", "found '2024-01-01'"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str | bytes, field: str, found: str) -> None:
    error = refusal(put(tmp_path, text))
    assert error.field == field
    assert found in error.found


@pytest.mark.parametrize(
    ("whole", "field", "found", "mend"),
    [
        (document(name="quikc"), "name", "it is 'quikc'", "Call it as its file is called, or the file quikc.yaml."),
        (
            with_step(1, operation="zzz.yyy"),
            "steps.generate.operation",
            "no stage can do 'zzz.yyy'",
            "There are:",
        ),
        (
            with_step(1, operation="generate.text_to_imgae"),
            "steps.generate.operation",
            "no stage can do 'generate.text_to_imgae'",
            "Did you mean generate.text_to_image",
        ),
        (
            with_step(2, inputs={"image": "generate.image"}),
            "steps.qa.inputs",
            "it has image",
            "qa.score reads image and identity, and may read photos.",
        ),
        (
            with_step(0, inputs={"photos": "request.photos", "more": "request.photos"}),
            "steps.identity.inputs",
            "it has more, photos",
            "identity.encode reads photos.",
        ),
        (
            with_step(2, inputs={"image": "generate.picture", "identity": "identity.identity"}),
            "steps.qa.inputs.image",
            "no step before makes 'generate.picture'",
            "Did you mean generate.image",
        ),
        (document(result="generate.picture"), "result", "no step makes 'generate.picture'", "Did you mean"),
        (
            with_step(1, params={"widht": 512}),
            "steps.generate.params.widht",
            "there is no such field",
            "Did you mean width",
        ),
        (
            with_step(1, params={"width": 100}),
            "steps.generate.params.width",
            "Input should be greater than or equal to 512, found 100",
            "",
        ),
        (
            with_step(1, engines={"portable": {"light_wrap": 7}}),
            "steps.generate.params.light_wrap",
            "Input should be less than or equal to 1, found 7",
            "",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_before_any_work(
    tmp_path: Path, whole: dict[str, Any], field: str, found: str, mend: str
) -> None:
    error = refusal(put(tmp_path, yaml.safe_dump(whole)))
    assert error.field == f"recipes/quick.yaml: {field}"
    assert error.found == found
    assert error.mend.startswith(mend)


def test_parameters_for_an_engine_that_is_not_built_yet_are_left_to_it(tmp_path: Path) -> None:
    put(tmp_path, yaml.safe_dump(with_step(1, engines={"flux": {"sampler": "euler"}})))
    assert find_recipe(tmp_path, "quick").steps[1].engines["flux"] == {"sampler": "euler"}
