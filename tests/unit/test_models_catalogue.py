"""The catalogue of weights, what a job needs of it, and what the licence policy forbids."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from doctor_image_gen.recipes import find_recipe
from doctor_image_gen.stages import OPERATIONS
from services.gateway.defaults import GenerationDefaults
from services.gateway.planner import plan
from shared.contracts.artifacts import ArtifactRef
from shared.contracts.brief import Brief
from shared.contracts.errors import InvalidInput
from shared.contracts.recipe import Recipe
from shared.contracts.request import JobRequest
from shared.contracts.scene import Framing
from shared.contracts.step import StepMessage
from shared.models.borrowing import FLUX_1
from shared.models.catalogue import Model, load_models, parse
from shared.models.needs import PlannedStep, needs, planned
from shared.models.policy import forbidden
from shared.prompts.catalogue import load_catalogue
from shared.worker.operation import EngineSpec, Operation, Params

CATALOGUE = load_models()
PHOTOS = (ArtifactRef(key="subjects/dr/photo/a.png", sha256="a" * 64, size=1, media_type="image/png"),)


class Gpu(Params):
    """Of an engine that loads what it is told."""

    model: str = "flux1-dev"
    controlnets: tuple[str, ...] = ()
    prompt: str = ""


class Cpu(Params):
    """Of one that loads nothing."""


MAKE = Operation(
    "generate.text_to_image",
    1,
    ("photos",),
    ("image",),
    seeded=True,
    engines={"portable": EngineSpec(Cpu, "nowhere:make"), "flux": EngineSpec(Gpu, "nowhere:make")},
)
RECIPE = Recipe.from_json(
    json.dumps(
        {
            "name": "quick",
            "version": 1,
            "title": "t",
            "result": "make.image",
            "verdict": "make.image",
            "steps": [
                {"name": "make", "operation": "generate.text_to_image", "inputs": {"photos": "request.photos"}},
            ],
        }
    )
)


def step(operation: str = "swap.face", engine: str = "flux", **params: Any) -> PlannedStep:
    return PlannedStep("one", operation, engine, params)


def names(*steps: PlannedStep) -> list[str]:
    return [model.name for model in needs(CATALOGUE, steps).models]


def planned_job(
    policy: str, operations: Mapping[str, Operation] = {MAKE.name: MAKE}, recipe: Recipe = RECIPE, **changes: Any
) -> StepMessage:
    photo = {"key": "inbox/a", "sha256": "b" * 64}
    request = JobRequest.from_json(json.dumps({"subject": "dr", "photos": [photo], "scenario": "s", **changes}))
    brief = Brief(
        scenario="s",
        scenario_name="S",
        style="cinematic",
        prompt="a doctor",
        negative_prompt="blur",
        focus="warmth",
        framing=Framing(face_width=0.2),
        backdrop=load_catalogue(None).backdrops["studio"],
    )
    defaults = GenerationDefaults.model_validate({"licence_policy": policy})
    return plan(request, "job-1", PHOTOS, recipe, brief, operations, defaults)


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=list(CATALOGUE))
def test_an_entry_names_operations_that_there_are_and_only_pickles_and_archives_are_converted(model: Model) -> None:
    places = {*model.used_by, *model.default_for}
    assert {place.partition("/")[0] for place in places} <= OPERATIONS.keys()
    assert set(model.default_for) <= set(model.used_by)
    assert not model.gives or model.format in {"pickle", "zip"}
    assert all(name.endswith((".safetensors", ".onnx")) for name in model.gives), "no worker opens a pickle"
    in_fp32 = any(name.endswith(".onnx") for name in model.gives)  # made of a download in fp16
    in_fp8 = "fp8" in model.title  # and widened once it is read
    assert model.memory_bytes <= 1.2 * model.size or model.format == "zip" or in_fp32 or in_fp8
    assert model.memory_bytes == FLUX_1.weights or not in_fp8


def test_no_operation_has_two_defaults_of_one_role() -> None:
    chosen = [(place, model.role) for model in CATALOGUE.values() for place in model.default_for]
    assert len(chosen) == len(set(chosen))


def test_what_is_not_commercial_at_its_root_is_not_commercial_on_top() -> None:
    """PuLID's own licence would allow more than the models it cannot work without."""
    for model in CATALOGUE.values():
        roots = CATALOGUE.with_requirements(model.name)
        assert model.commercial <= all(root.commercial for root in roots), model.name


def test_every_model_that_the_portrait_names_is_in_the_catalogue() -> None:
    found = needs(CATALOGUE, planned(find_recipe(None, "portrait"), "flux"))
    assert found.unknown == {}
    by_name = {model.name: steps for model, steps in found.models.items()}
    detailers = {"hands", "face_detail"}
    assert detailers < set(by_name["flux1-dev"]), "unnamed at the detailers, which inpaint"
    assert by_name["codeformer-v0.1.0"] == ("face",), "named by its alias"
    assert by_name["antelopev2"] == ("identity", "face_detail")
    assert by_name["buffalo_l"] == ("face",), "required by the face swapper"
    assert by_name["REAL1SM_V3_FP8"] == ("refine",)


def test_the_portable_engine_needs_no_model() -> None:
    assert needs(CATALOGUE, planned(find_recipe(None, "portrait"), "portable")).models == {}
    assert names(step(engine="portable", model="flux1-dev")) == []


def test_a_named_model_takes_the_place_of_the_default_of_its_role() -> None:
    found = names(step("swap.hands", model="flux1-schnell"))
    assert "flux1-schnell" in found
    assert "flux1-dev" not in found
    assert "hand_yolov9c" in found, "the detector was not replaced"


def test_models_are_found_however_deep_parameters_name_them() -> None:
    found = names(step("swap.face", extras=[{"weights": "flux-ip-adapter"}], restorer="gfpgan"))
    assert {"flux-ip-adapter", "GFPGANv1.4"} <= set(found)


def test_a_name_that_the_catalogue_does_not_know_is_reported_unless_it_means_none() -> None:
    found = needs(CATALOGUE, [step(restorer="my-own"), step(detector="none"), step(prompt="a doctor")])
    assert found.unknown == {"my-own": ("one",)}


def test_research_forbids_nothing() -> None:
    assert forbidden(CATALOGUE, "research", planned(find_recipe(None, "portrait"), "flux")) == ()


def test_commercial_use_forbids_models_by_their_licence_and_those_of_unknown_licence() -> None:
    phrases = forbidden(CATALOGUE, "commercial", [step(restorer="codeformer"), step("upscale.image", model="my-own")])
    assert phrases[0].startswith("step 'one' needs codeformer-v0.1.0 (S-Lab License 1.0, non-commercial; ")
    assert "step 'one' names my-own, which is not in the catalogue, so its licence is not known" in phrases
    assert forbidden(CATALOGUE, "commercial", [step("upscale.image", model="RealESRGAN_x4plus")]) == ()


def test_a_job_that_the_policy_forbids_is_refused_with_model_licence_and_a_way_out() -> None:
    with pytest.raises(InvalidInput) as refused:
        planned_job("commercial", engine="flux")
    assert refused.value.field == "recipe"
    assert "step 'make' needs flux1-dev (FLUX.1 [dev] Non-Commercial License)" in refused.value.found
    assert refused.value.mend.startswith("Ask for engine 'portable',")


def test_an_override_decides_with_the_rest() -> None:
    allowed = planned_job("commercial", engine="flux", overrides={"make": {"model": "flux1-schnell"}})
    assert allowed.steps[0].params["model"] == "flux1-schnell"
    with pytest.raises(InvalidInput, match="flux-controlnet-union-pro"):
        planned_job(
            "commercial",
            engine="flux",
            overrides={"make": {"model": "flux1-schnell", "controlnets": ["flux-controlnet-union-pro-2.0"]}},
        )


def test_where_no_engine_would_do_another_recipe_is_offered() -> None:
    only_flux = Operation(MAKE.name, 1, ("photos",), ("image",), True, {"flux": MAKE.engines["flux"]})
    with pytest.raises(InvalidInput, match="Choose a recipe with other models"):
        planned_job("commercial", {MAKE.name: only_flux}, engine="flux")


def portrait(**generate: Any) -> Recipe:
    """The built-in portrait, its step `generate` changed."""
    document = json.loads(find_recipe(None, "portrait").to_json())
    step = next(step for step in document["steps"] if step["name"] == "generate")
    step |= generate
    return Recipe.from_json(json.dumps(document))


@pytest.mark.parametrize(("engine", "model"), [("klein", "flux2-klein-4b"), ("qwen", "qwen-image-edit-2511")])
def test_under_commercial_a_portrait_may_have_its_scene_painted_by_a_model_that_sees_the_photos(
    engine: str, model: str
) -> None:
    made = planned_job("commercial", OPERATIONS, portrait(engine=engine))
    generate = next(step for step in made.steps if step.name == "generate")
    assert (generate.engine, generate.params["model"], generate.params["width"]) == (engine, model, 1024)
    assert generate.params["prompt"] == "a doctor"
    assert {step.engine for step in made.steps} == {engine, "portable"}


def test_under_commercial_kontext_is_refused_by_its_licence() -> None:
    with pytest.raises(InvalidInput, match=r"step 'generate' needs flux1-kontext-dev \(FLUX\.1 \[dev\] Non-Commercial"):
        planned_job("commercial", OPERATIONS, portrait(engine="kontext"))


def test_a_refused_job_is_offered_every_engine_that_could_do_it_or_its_step() -> None:
    """The engines klein and qwen are among them, kontext and flux are not."""
    with pytest.raises(InvalidInput) as refused:
        planned_job("commercial", {MAKE.name: OPERATIONS[MAKE.name]}, engine="flux")
    assert refused.value.mend.startswith("Ask for engine 'portable' or engine 'klein' or engine 'qwen',")
    with pytest.raises(InvalidInput) as refused:
        planned_job("commercial", OPERATIONS, portrait(engine="flux"))
    assert refused.value.mend.startswith(
        "Choose a recipe that gives step 'generate' to engine 'portable' or engine 'klein' or engine 'qwen', or have"
    )


def test_the_policy_research_and_the_portable_engine_let_every_job_in() -> None:
    assert planned_job("research", engine="flux").steps[0].engine == "flux"
    assert planned_job("commercial").steps[0].engine == "portable"


def test_an_unknown_model_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(InvalidInput, match="Did you mean codeformer"):
        CATALOGUE.model("codeforme")


def test_an_entry_with_two_sources_or_with_unknown_requirements_is_no_entry() -> None:
    entry = "{title: t, role: r, hub: a/b, files: [{path: f, bytes: 1}], format: onnx, licence: l, commercial: true, "
    with pytest.raises(ValidationError, match="state one source"):
        parse(f"a: {entry} by_hand: ask, memory_bytes: 1}}")
    with pytest.raises(InvalidInput, match="there is no model 'b'"):
        parse(f"a: {entry} memory_bytes: 1, requires: [b]}}")
