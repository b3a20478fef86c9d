"""From a request to a routing slip."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import pytest
from pydantic import Field

from doctor_image_gen.recipes import load_recipes
from doctor_image_gen.stages import OPERATIONS as ALL_OPERATIONS
from services.gateway.defaults import GenerationDefaults
from services.gateway.planner import check_images, job_id_of, plan, seed_of
from shared.contracts.artifacts import ArtifactRef
from shared.contracts.base import MESSAGE_LIMIT_BYTES
from shared.contracts.brief import Brief
from shared.contracts.errors import InvalidInput
from shared.contracts.recipe import Recipe
from shared.contracts.request import JobRequest
from shared.contracts.scene import Backdrop, Framing
from shared.contracts.step import StepMessage
from shared.prompts.catalogue import load_catalogue
from shared.prompts.compiler import compile_brief
from shared.worker.operation import EngineSpec, Operation, Params


class Portable(Params):
    """Does not care for words."""

    strength: Annotated[float, Field(ge=0, le=1)] = 0.5
    width: int = 0
    framing: Framing = Framing()


class Gpu(Params):
    """Does."""

    width: int = 0
    prompt: str = ""
    identity_weight: float = 1.0
    steps: int = 20


MAKE = Operation(
    "generate.make",
    3,
    ("photos",),
    ("image",),
    seeded=True,
    engines={"portable": EngineSpec(Portable, "nowhere:make"), "flux": EngineSpec(Gpu, "nowhere:make")},
)
JUDGE = Operation("qa.judge", 1, ("image",), ("verdict",), seeded=False, engines=MAKE.engines)
CATALOGUE = load_catalogue(None)
OPERATIONS: Mapping[str, Operation] = {"generate.make": MAKE, "qa.judge": JUDGE}
RECIPE = Recipe.from_json(
    json.dumps(
        {
            "name": "r",
            "version": 4,
            "title": "t",
            "result": "make.image",
            "verdict": "judge.verdict",
            "steps": [
                {
                    "name": "make",
                    "operation": "generate.make",
                    "inputs": {"photos": "request.photos"},
                    "brief": ["prompt", "framing", "identity_weight"],
                    "params": {"width": 1024},
                    "engines": {"flux": {"steps": 100, "identity_weight": 0.85}},
                },
                {"name": "judge", "operation": "qa.judge", "inputs": {"image": "make.image"}},
            ],
        }
    )
)
PHOTOS = (ArtifactRef(key="subjects/dr/photo/a.png", sha256="a" * 64, size=1, media_type="image/png"),)


def brief(backdrop: Backdrop, **changes: Any) -> Brief:
    fields: dict[str, Any] = {
        "scenario": "s",
        "scenario_name": "S",
        "style": "cinematic",
        "prompt": "a doctor",
        "negative_prompt": "blur",
        "focus": "warmth",
        "framing": Framing(face_width=0.2),
        "backdrop": backdrop,
    }
    return Brief(**{**fields, **changes})


@pytest.fixture(scope="module")
def backdrop() -> Backdrop:
    return CATALOGUE.backdrops["studio"]


def request(**changes: Any) -> JobRequest:
    document = {"subject": "dr", "photos": [{"key": "inbox/a", "sha256": "b" * 64}], "scenario": "s", **changes}
    return JobRequest.from_json(json.dumps(document))


def planned(
    backdrop: Backdrop,
    defaults: GenerationDefaults | None = None,
    words: Brief | None = None,
    recipe: Recipe = RECIPE,
    **changes: Any,
) -> StepMessage:
    return plan(
        request(**changes),
        "job-1",
        PHOTOS,
        recipe,
        words or brief(backdrop),
        OPERATIONS,
        defaults or GenerationDefaults(),
    )


@pytest.mark.parametrize("engine", ["portable", "flux"])
@pytest.mark.parametrize("recipe", load_recipes(None).values(), ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("scenario", CATALOGUE.scenarios)
def test_every_scenario_s_message_leaves_room_under_16_kib(scenario: str, recipe: Recipe, engine: str) -> None:
    """With all photos, the images of the recipe and as many words as may be."""
    image = {"key": "inbox/a", "sha256": "b" * 64}
    wish = request(photos=[image] * 5, images=dict.fromkeys(recipe.images, image), custom_prompt="wörds " * 160)
    wish = wish.model_copy(update={"engine": engine})
    words = compile_brief(CATALOGUE, scenario, None, wish.attributes, wish.custom_prompt)
    images = dict.fromkeys(recipe.images, PHOTOS[0])
    slip = plan(wish, "job-1", PHOTOS * 5, recipe, words, ALL_OPERATIONS, GenerationDefaults(), images)
    assert slip.size < MESSAGE_LIMIT_BYTES - 7 * 1024
    assert slip.artifacts == {"request.photos": PHOTOS * 5} | {f"request.{name}": PHOTOS for name in recipe.images}


def test_an_engine_gets_the_parameters_it_knows_and_no_others(backdrop: Backdrop) -> None:
    """A wording that the engine does not read must not change the step key."""
    assert planned(backdrop).steps[0].params == {
        "strength": 0.5,
        "width": 1024,
        "framing": Framing(face_width=0.2).model_dump(mode="json"),
    }
    flux = planned(backdrop, engine="flux").steps[0].params
    assert flux == {"width": 1024, "prompt": "a doctor", "identity_weight": 0.85, "steps": 100}


def test_a_step_that_names_its_engine_is_done_by_it_whatever_the_job_asks_for(backdrop: Backdrop) -> None:
    """So a recipe may mix engines. One that there is not is the recipe's fault."""

    def with_engine(name: str) -> Recipe:
        make, judge = RECIPE.steps
        return RECIPE.model_copy(update={"steps": (make.model_copy(update={"engine": name}), judge)})

    steps = planned(backdrop, recipe=with_engine("flux"), engine="portable").steps
    assert [step.engine for step in steps] == ["flux", "portable"]
    assert steps[0].params["steps"] == 100
    with pytest.raises(InvalidInput, match=r"recipe: generate\.make has no engine 'magic'"):
        planned(backdrop, recipe=with_engine("magic"))


def test_the_scenario_s_own_identity_weight_goes_before_the_recipe_s(backdrop: Backdrop) -> None:
    crowd = brief(backdrop, identity_weight=0.7)
    assert planned(backdrop, words=crowd, engine="flux").steps[0].params["identity_weight"] == 0.7


def test_the_request_s_overrides_go_before_the_deployment_s(backdrop: Backdrop) -> None:
    defaults = GenerationDefaults(overrides={"make": {"strength": 0.1, "width": 512}})
    params = planned(backdrop, defaults, overrides={"make": {"strength": 0.9}}).steps[0].params
    assert (params["strength"], params["width"]) == (0.9, 512)


@pytest.mark.parametrize(
    ("deployment", "asked", "made", "expected"),
    [
        ({}, {}, (4096, 4096), (4096, 4096)),
        ({}, {"upscale": {"width": 2048, "height": 2560}}, (2048, 2560), (2048, 2560)),
        ({}, {"upscale": {"width": 2048}, "qa": {"min_likeness": 0.7}}, (2048, 4096), (2048, 4096)),
        ({"upscale": {"width": 1024}}, {"upscale": {"height": 2048}}, (1024, 2048), (1024, 2048)),
        ({"qa": {"width": 1024}}, {"upscale": {"width": 2048}}, (2048, 4096), (2048, 4096)),
        ({"upscale": {"width": 2048}}, {"qa": {"width": 1024}}, (2048, 4096), (1024, 4096)),
        ({}, {"upscale": {"width": 2048}, "qa": {"width": 1024}}, (2048, 4096), (1024, 4096)),
        ({}, {"generate": {"width": 512}}, (4096, 4096), (4096, 4096)),
    ],
)
def test_the_judge_expects_the_size_that_is_asked_of_the_picture_unless_it_is_told_another(
    backdrop: Backdrop,
    deployment: dict[str, Any],
    asked: dict[str, Any],
    made: tuple[int, int],
    expected: tuple[int, int],
) -> None:
    defaults = GenerationDefaults(overrides=deployment)
    recipe = load_recipes(None)["portrait"]
    message = plan(request(overrides=asked), "job-1", PHOTOS, recipe, brief(backdrop), ALL_OPERATIONS, defaults)
    params = {step.name: step.params for step in message.steps}
    assert (params["upscale"]["width"], params["upscale"]["height"]) == made
    assert (params["qa"]["width"], params["qa"]["height"]) == expected


def test_a_judge_of_another_picture_than_the_result_expects_no_other_size(backdrop: Backdrop) -> None:
    """A recipe may judge before it enlarges."""
    make, judge = RECIPE.steps
    larger = judge.model_copy(
        update={"name": "larger", "operation": "generate.make", "inputs": {"photos": "make.image"}}
    )
    recipe = RECIPE.model_copy(update={"steps": (make, judge, larger), "result": "larger.image"})
    steps = planned(backdrop, recipe=recipe, overrides={"larger": {"width": 4096}}).steps
    assert [step.params["width"] for step in steps] == [1024, 0, 4096]


def test_only_operations_that_draw_random_numbers_get_a_seed(backdrop: Backdrop) -> None:
    make, judge = planned(backdrop, seed=7).steps
    assert make.seed is not None
    assert judge.seed is None


def test_a_request_without_a_seed_gets_the_same_one_each_time_and_others_another() -> None:
    assert seed_of(request()) == seed_of(request(caller="someone-else", priority="bulk", job_id="x"))
    assert seed_of(request()) == seed_of(request(subject="x", photos=[{"key": "inbox/other-name", "sha256": "b" * 64}]))
    assert seed_of(request()) != seed_of(request(scenario="other"))
    assert seed_of(request()) != seed_of(request(photos=[{"key": "inbox/a", "sha256": "c" * 64}]))
    assert seed_of(request(seed=5)) == 5


def test_of_an_image_its_name_and_its_bytes_decide_on_the_seed_and_no_image_leaves_it_as_it_was() -> None:
    """A request of a version that knew no images has the seed that it had then."""
    drawn = request(images={"pose": {"key": "inbox/p", "sha256": "d" * 64}})
    assert seed_of(drawn) == seed_of(request(images={"pose": {"key": "inbox/q", "sha256": "d" * 64, "shared": True}}))
    assert seed_of(drawn) != seed_of(request(images={"pose": {"key": "inbox/p", "sha256": "e" * 64}}))
    assert seed_of(drawn) != seed_of(request(images={"style": {"key": "inbox/p", "sha256": "d" * 64}}))
    assert seed_of(request(images={})) == seed_of(request()) == 637835956


def reading(**slots: str) -> Recipe:
    """The recipe, its first step reading these inputs, too."""
    make, judge = RECIPE.steps
    return RECIPE.model_copy(update={"steps": (make.model_copy(update={"inputs": make.inputs | slots}), judge)})


@pytest.mark.parametrize(
    ("given", "read", "refusal"),
    [
        ((), {}, None),
        (("pose",), {"control": "request.pose"}, None),
        (("pose",), {"control": "request.pose", "more": "request.pose"}, None),
        (
            (),
            {"control": "request.pose"},
            "images.pose: it is not given, and the recipe 'r' reads pose. Give it, or choose another recipe.",
        ),
        (
            ("pose",),
            {},
            (
                "images.pose: it is given, and the recipe 'r' reads no image beside the photos. "
                "Leave it out, or choose a recipe that reads it."
            ),
        ),
        (
            ("posse", "style"),
            {"control": "request.pose", "style": "request.style"},
            "images.posse: it is given, and the recipe 'r' reads pose and style. Did you mean pose?",
        ),
    ],
)
def test_a_request_brings_the_images_that_its_recipe_reads_and_no_others(
    given: tuple[str, ...], read: dict[str, str], refusal: str | None
) -> None:
    wish = request(images={name: {"key": "inbox/p", "sha256": "d" * 64} for name in given})
    if refusal is None:
        check_images(wish, reading(**read))
        return
    with pytest.raises(InvalidInput) as refused:
        check_images(wish, reading(**read))
    assert str(refused.value) == refusal


def test_a_job_s_id_follows_from_the_caller_s_key_or_from_the_bytes() -> None:
    """So that a request which is delivered twice is one job."""
    assert job_id_of(request(job_id="mine"), b"") == "mine"
    keyed = request(idempotency_key="k", caller="c")
    assert job_id_of(keyed, b"one") == job_id_of(request(idempotency_key="k", caller="c", scenario="other"), b"two")
    assert job_id_of(keyed, b"one") != job_id_of(request(idempotency_key="k", caller="d"), b"one")
    assert job_id_of(request(), b"one") != job_id_of(request(), b"two")


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"overrides": {"mkae": {}}}, "overrides.mkae", "Did you mean make?"),
        ({"overrides": {"make": {"strenght": 1}}}, "overrides.make.strenght", "Did you mean strength?"),
        ({"overrides": {"make": {"strength": 2.0}}}, "overrides.make.strength", "less than or equal to 1"),
        ({"overrides": {"make": {"strength": "much"}}}, "overrides.make.strength", "found 'much'"),
        ({"overrides": {"make": {"width": "wide"}}}, "overrides.make.width", "found 'wide'"),
        ({"engine": "fluks"}, "engine", "Did you mean flux?"),
    ],
)
def test_a_request_that_cannot_be_planned_is_refused(
    backdrop: Backdrop, changes: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        planned(backdrop, **changes)
    assert caught.value.field == field
    assert words in str(caught.value)


def gated(**gate: Any) -> Recipe:
    """The recipe, with a gate that goes back to its first step."""
    document = json.loads(RECIPE.to_json()) | {"gate": {"back_to": "make", "engines": ["flux"], **gate}}
    return Recipe.from_json(json.dumps(document))


def test_a_gate_is_pinned_with_the_budget_of_the_recipe_or_the_request(backdrop: Backdrop) -> None:
    recipe = gated(max_cost_usd=2.0)
    own = planned(backdrop, recipe=recipe, engine="flux").gate
    assert own is not None
    assert (own.back_to, own.attempts, own.max_cost_usd, own.finished) == ("make", 3, 2.0, 0)
    asked = planned(backdrop, recipe=recipe, engine="flux", attempts=5, max_cost_usd=1).gate
    assert asked is not None
    assert (asked.attempts, asked.max_cost_usd) == (5, 1.0)


@pytest.mark.parametrize(
    ("recipe", "wish"),
    [
        (RECIPE, {"engine": "flux"}),
        (RECIPE, {"engine": "flux", "attempts": 1}),
        (gated(), {"engine": "portable"}),
        (gated(), {"engine": "flux", "attempts": 1}),
        (gated(attempts=1), {"engine": "flux"}),
    ],
    ids=["no-gate", "no-gate-and-one-attempt", "another-engine", "switched-off", "of-one-attempt"],
)
def test_without_a_gate_the_first_picture_is_delivered(
    backdrop: Backdrop, recipe: Recipe, wish: dict[str, Any]
) -> None:
    assert planned(backdrop, recipe=recipe, **wish).gate is None


def test_a_gate_for_whichever_engine_is_pinned_for_each(backdrop: Backdrop) -> None:
    assert planned(backdrop, recipe=gated(engines=[]), engine="portable").gate is not None


@pytest.mark.parametrize(
    ("recipe", "wish", "field", "words"),
    [
        (RECIPE, {"attempts": 2}, "attempts", "makes one attempt only, for it has no gate"),
        (RECIPE, {"max_cost_usd": 1}, "max_cost_usd", "it has no gate"),
        (gated(), {"attempts": 2}, "attempts", "where flux does the step 'make', and here portable does"),
        (gated(engines=["fluks"]), {"engine": "flux"}, "recipe", "Did you mean flux?"),
    ],
)
def test_a_budget_that_nothing_would_heed_is_refused(
    backdrop: Backdrop, recipe: Recipe, wish: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        planned(backdrop, recipe=recipe, **wish)
    assert caught.value.field == field
    assert words in str(caught.value)


def test_the_budget_for_attempts_leaves_the_first_picture_as_it_was() -> None:
    assert seed_of(request(attempts=4, max_cost_usd=2.5)) == seed_of(request())


def test_a_deployment_s_bad_default_is_named_as_such(backdrop: Backdrop) -> None:
    with pytest.raises(InvalidInput, match=r"^generation\.overrides\.make\.strength: "):
        planned(backdrop, GenerationDefaults(overrides={"make": {"strength": 5}}))


def test_a_message_that_would_grow_too_large_is_refused_before_any_work(backdrop: Backdrop) -> None:
    with pytest.raises(InvalidInput, match="Shorten custom_prompt"):
        planned(backdrop, engine="flux", overrides={"make": {"prompt": "x" * 12_000}})
