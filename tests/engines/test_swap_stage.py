"""What the swap stage promises."""

import pytest
from pydantic import ValidationError

from services.swap.stage import STAGE, FaceDetailParams, FaceParams, FluxFaceParams, HandsParams, Target
from shared.worker.operation import Operation, Params

BY_NAME = {operation.name: operation for operation in STAGE.operations}


def test_the_stage_offers_the_three_swap_operations_and_those_that_paint_are_seeded() -> None:
    seeded = {name: operation.seeded for name, operation in BY_NAME.items()}
    assert seeded == {"swap.hands": True, "swap.face": False, "swap.face_detail": True}


@pytest.mark.parametrize("operation", STAGE.operations, ids=lambda operation: operation.name)
def test_every_engine_can_be_built_and_names_its_weights(operation: Operation) -> None:
    spec = operation.engines["portable"]
    models = spec.build().models(spec.params())
    assert models
    assert all(len(digest) == 64 for digest in models.values())


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        (HandsParams, "strength", 1.1),
        (HandsParams, "max_hands", 0),
        (FaceParams, "feather", 0.5),
        (FaceParams, "inset", -0.1),
        (FaceParams, "require_face", "yes"),
        (FaceDetailParams, "features", 2.5),
        (FaceDetailParams, "strenght", 0.5),
        (FluxFaceParams, "boost_px", 384),
        (FluxFaceParams, "masks", ()),
        (FluxFaceParams, "masks", ("area",)),
        (Target, "index", 0),
        (Target, "order", "detector"),
    ],
)
def test_a_parameter_out_of_range_of_the_wrong_type_or_unknown_is_refused(
    model: type[Params], name: str, value: object
) -> None:
    with pytest.raises(ValidationError, match=name):
        model.model_validate({name: value})
