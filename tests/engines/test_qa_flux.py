"""The engine flux of qa.score as a worker builds it, on small models of the published interfaces."""

from pathlib import Path

import numpy as np
import pytest

from services.qa.encoders import CONDITIONING
from services.qa.flux import FluxScorer
from services.qa.stage import STAGE, FluxScoreParams
from shared.contracts.errors import InvalidInput, Permanent
from shared.contracts.verdict import Verdict
from shared.models.residency import Budget, Residency
from shared.vision.codec import Image
from shared.vision.networks import tiny_yolo, tiny_yunet
from shared.vision.networks.tiny_faces import write_recogniser
from shared.worker.operation import Outcome, TakesTurns, Work
from tests.photos import astronaut, hopper, jpeg, png, scaled

SHARE = 0.2
"""Of the small detector's face, as a portrait is to be framed."""

PARAMS = FluxScoreParams(
    width=512,
    height=512,
    detector="finder",
    recogniser="describer",
    hand_detector="hands",
    same_person_cosine=0.9,  # a projection of pixels takes any two faces for rather alike
    max_clipped=0.5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    tiny_yunet.write(models / "finder" / "finder.onnx", SHARE)
    (models / "describer").mkdir()
    write_recogniser(models / "describer" / "describer.onnx")
    tiny_yolo.write(models / "hands" / "hands.onnx", ((0.3, 0.8, 0.1, 0.1), (0.7, 0.8, 0.1, 0.1)))
    return models


@pytest.fixture
def residency() -> Residency:
    return Residency(Budget(10**9, 10**9))


@pytest.fixture
def scorer(folder: Path, residency: Residency) -> FluxScorer:
    return FluxScorer(folder, "cpu", residency)


def centred() -> Image:
    """The astronaut's face in the middle, framed as the small detector says."""
    return np.ascontiguousarray(np.pad(astronaut(), ((126, 0), (30, 0), (0, 0)), mode="reflect")[:512, :512])


def run(scorer: FluxScorer, image: bytes, *photos: bytes, params: FluxScoreParams = PARAMS) -> Outcome:
    inputs = {"image": (image,), "identity": (b"\0 a PulidIdentity, or anything",)}
    return scorer.run(Work(params, {**inputs, "photos": photos} if photos else inputs, seed=0))


def verdict(outcome: Outcome) -> Verdict:
    return Verdict.from_json(outcome.outputs["verdict"].data)


def failed(judged: Verdict) -> set[str]:
    return {check.name for check in judged.checks if not check.passed}


def test_the_stage_builds_its_engine() -> None:
    operation = STAGE.operation("qa.score")
    assert operation is not None
    assert isinstance(operation.engines["flux"].build(), FluxScorer)


def test_the_same_face_passes_and_another_does_not(scorer: FluxScorer) -> None:
    picture = png(centred())
    judged = verdict(run(scorer, picture, jpeg(centred(), 60), picture))
    assert judged.passed, judged.reasons
    assert judged.likeness is not None
    assert judged.likeness.encoder == "describer"
    assert judged.likeness.score > 0.95
    stranger = verdict(run(scorer, picture, png(hopper())))
    assert failed(stranger) == {"likeness", "identities"}


def test_the_facts_hold_the_verdict_in_short_and_no_embedding(scorer: FluxScorer) -> None:
    outcome = run(scorer, png(centred()), png(centred()), png(hopper()))
    assert outcome.facts["passed"] is False
    assert outcome.facts["photos"] == [1, 2]
    assert outcome.facts["hands"] == 2
    each = outcome.facts["likeness_by_photo"]
    assert isinstance(each, list)
    assert len(each) == 2
    assert (outcome.outputs["verdict"].media_type, outcome.outputs["verdict"].kind) == ("application/json", "verdict")


def test_enlarging_changes_little(scorer: FluxScorer) -> None:
    large, small = png(scaled(centred(), 4.0)), png(centred())
    params = PARAMS.model_copy(update={"width": 2048, "height": 2048})
    of_large = verdict(run(scorer, large, small, params=params))
    assert of_large.passed, of_large.reasons
    assert of_large.likeness is not None
    assert of_large.likeness.score > 0.95


@pytest.mark.parametrize("shape", [(512, 512), (1, 1), (3, 900)])
def test_a_black_picture_fails_without_an_error(scorer: FluxScorer, shape: tuple[int, int]) -> None:
    judged = verdict(run(scorer, png(np.zeros((*shape, 3), np.uint8)), png(centred())))
    assert judged.likeness is None
    assert {"likeness", "faces", "not_black", "clipped", "level_spread"} <= failed(judged)


def test_without_photos_the_mend_is_in_the_recipe(scorer: FluxScorer) -> None:
    with pytest.raises(InvalidInput, match=r"photos: request\.photos"):
        run(scorer, png(centred()))


def test_what_is_no_picture_is_refused(scorer: FluxScorer) -> None:
    with pytest.raises(InvalidInput, match="image"):
        run(scorer, b"no picture", png(centred()))


def test_the_models_and_the_keys_are_those_that_a_step_uses(scorer: FluxScorer, residency: Residency) -> None:
    assert isinstance(scorer, TakesTurns)
    run(scorer, png(centred()), png(centred()))
    assert residency.on_device() == scorer.resident_keys(PARAMS)
    assert scorer.models(PARAMS).keys() == {"finder", "describer", "hands"}
    alone = PARAMS.model_copy(update={"hand_detector": "none"})
    assert scorer.models(alone).keys() == {"finder", "describer"}
    assert scorer.resident_keys(alone) < scorer.resident_keys(PARAMS)
    assert "Hands were not looked for." in {
        check.reason for check in verdict(run(scorer, png(centred()), png(centred()), params=alone)).checks
    }


def test_a_missing_model_is_named(scorer: FluxScorer) -> None:
    with pytest.raises(Permanent, match="finder2"):
        scorer.models(PARAMS.model_copy(update={"detector": "finder2"}))


def test_a_copy_of_the_encoder_that_led_the_picture_may_not_judge(
    scorer: FluxScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known by its digest, whatever its folder is called."""
    monkeypatch.setitem(CONDITIONING, scorer.models(PARAMS)["describer"], "antelopev2")
    with pytest.raises(InvalidInput, match="describer is the encoder of antelopev2"):
        run(scorer, png(centred()), png(centred()))


def test_a_gpu_that_is_not_there_is_no_slow_run(folder: Path, residency: Residency) -> None:
    with pytest.raises(Permanent, match="CUDAExecutionProvider"):
        run(FluxScorer(folder, "cuda", residency), png(centred()), png(centred()))
