"""Which of a photo's faces is meant: the rules that identity, swap and verdict share."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doctor_image_gen.recipes import load_recipes
from doctor_image_gen.stages import STAGES
from services.identity.stage import EncodeParams, FluxEncodeParams
from services.qa.stage import FluxScoreParams
from services.swap.stage import FluxFaceParams
from shared.contracts.errors import InvalidInput
from shared.contracts.recipe import REQUEST_PHOTOS, Recipe
from shared.contracts.request import PhotoRef
from shared.vision.boxes import Box
from shared.vision.picks import BACKGROUND_FACE_RATIO, picks_of
from shared.vision.prominent import how_many, picked, prominent


@dataclass(frozen=True)
class Face:
    box: Box


LARGE, MIDDLING, PASSER_BY = Face((50, 0, 100, 100)), Face((300, 0, 40, 60)), Face((0, 0, 39, 60))


def test_faces_are_counted_from_the_left_without_passers_by() -> None:
    """In whatever order they were found."""
    for faces in permutations((LARGE, MIDDLING, PASSER_BY)):
        assert prominent(faces, 0.4) == (LARGE, MIDDLING)
        assert prominent(faces, 0.0) == (PASSER_BY, LARGE, MIDDLING)
        assert prominent(faces, 1.0) == (LARGE,)
    assert prominent((), 0.4) == ()


def test_the_left_is_where_a_face_s_middle_is() -> None:
    """Not its edge: a large face reaches far."""
    behind = Face((60, 0, 60, 60))
    assert prominent((LARGE, behind), 0.4) == (behind, LARGE)


WIDTHS = st.floats(1.0, 1000.0)


@given(st.lists(st.builds(lambda x, width: Face((x, 0.0, width, width)), WIDTHS, WIDTHS), min_size=1), st.floats(0, 1))
def test_of_any_faces_the_widest_counts(faces: Sequence[Face], ratio: float) -> None:
    counted = prominent(faces, ratio)
    assert max(faces, key=lambda face: face.box[2]).box[2] == max(face.box[2] for face in counted)


def test_the_picked_face_is_told_by_its_number() -> None:
    assert picked((LARGE, MIDDLING), 1, 1) is LARGE
    assert picked((LARGE, MIDDLING), 2, 1) is MIDDLING


def test_a_pick_beyond_the_faces_is_refused_as_the_caller_counts() -> None:
    with pytest.raises(InvalidInput) as refused:
        picked((LARGE, MIDDLING), 3, 4, " (here)")
    assert str(refused.value) == (
        "faces[4]: face 3 was picked, but photos[4] shows 2 faces (here). Pick a face from 1 (the leftmost) to 2."
    )
    assert how_many((LARGE,)) == "1 face"


def test_there_is_one_pick_a_photo_or_none_at_all() -> None:
    assert picks_of((), 3, "") == (None, None, None)
    assert picks_of([None, 2], 2, "") == (None, 2)
    with pytest.raises(InvalidInput) as refused:
        picks_of((1,), 2, "the largest face is meant")
    assert str(refused.value) == (
        "faces: 1 entries for 2 photos. Give one entry a photo (null where the largest face is meant), or none at all."
    )


@pytest.mark.parametrize("params", [EncodeParams, FluxEncodeParams, FluxFaceParams, FluxScoreParams])
def test_all_who_read_picks_take_those_that_a_request_may_have(params: type[FluxFaceParams]) -> None:
    most = PhotoRef.model_json_schema()["properties"]["face"]["anyOf"][0]["maximum"]
    schema = params.model_json_schema()["properties"]["faces"]
    (pick,) = (one for one in schema["items"]["anyOf"] if one["type"] == "integer")
    assert (pick["minimum"], pick["maximum"], schema["maxItems"], schema["default"]) == (1, most, 5, [])


@pytest.mark.parametrize("params", [EncodeParams, FluxEncodeParams])
def test_identity_s_passers_by_are_those_of_swap_and_verdict(params: type[EncodeParams]) -> None:
    assert params().background_face_ratio == BACKGROUND_FACE_RATIO


@pytest.mark.parametrize("recipe", load_recipes(None).values(), ids=lambda recipe: recipe.name)
def test_each_recipe_tells_the_picks_to_all_who_read_the_photos_and_know_them(recipe: Recipe) -> None:
    """Else one step would take another person for the subject than the others do."""
    operations = {one.name: one for stage in STAGES.values() for one in stage.operations}
    knowing = [
        step
        for step in recipe.steps
        if REQUEST_PHOTOS in step.inputs.values()
        and any("faces" in spec.params.model_fields for spec in operations[step.operation].engines.values())
    ]
    assert {"identity.encode", "qa.score"} <= {step.operation for step in knowing}
    assert [step.name for step in knowing if "faces" not in step.brief] == []
