"""What the flux engine is given beside words, on tiny random weights: further people, drawings, a style, a picture."""

import gc
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from bench.counted import GPU, counted
from services.generate.flux import FluxGenerate
from services.generate.stage import STAGE, Control, FluxImageParams, FluxParams, Region
from shared.contracts.errors import InvalidInput
from shared.flux import tiny
from shared.flux.ip_adapter import IpAdapter, Sizes
from shared.flux.levels import noise_levels
from shared.flux.pulid.artifact import PulidAbout, PulidIdentity, save_identity
from shared.flux.studio import BUFFERS_BYTES, studio_of
from shared.models.residency import Budget, Residency
from shared.vision.codec import Image, decode, encode_png
from shared.worker.operation import Work
from tests.engines.flux_controlnets import controlnet, union
from tests.engines.flux_studio import ID_WIDTH, TOKENS, write_models

BUDGET_BYTES = 100_000_000
SIDE = 64
PORTABLE = b'{"schema_version": 1}'
LEFT, RIGHT = Region(left=0.0, right=0.5, feather=0.0), Region(left=0.5, right=1.0, feather=0.0)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        models = Path(name)
        write_models(models)
        controlnet().save_pretrained(str(models / "edges"))
        union().save_pretrained(str(models / "modes"))
        torch.manual_seed(3)
        sizes = Sizes(blocks=2, inner=tiny.WIDTH, width=tiny.WIDTH, embedding=24, tokens=4)
        (models / "moods").mkdir()
        save_file(IpAdapter(sizes).state_dict(), models / "moods" / "moods.safetensors")
        vision = CLIPVisionConfig(
            hidden_size=32, intermediate_size=32, projection_dim=24, num_hidden_layers=1, num_attention_heads=2,
            image_size=28, patch_size=14,
        )  # fmt: skip
        CLIPVisionModelWithProjection(vision).save_pretrained(models / "moods" / "image_encoder")
        yield models


@pytest.fixture(scope="module")
def engine(folder: Path) -> FluxGenerate:
    return FluxGenerate(studio_of(folder, "cpu", Residency(Budget(BUDGET_BYTES, BUDGET_BYTES))))


def who(seed: int) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    tokens = 3 * torch.randn(TOKENS, ID_WIDTH, generator=generator)
    uncond = torch.randn(TOKENS, ID_WIDTH, generator=generator)
    about = PulidAbout(models={"idformer": "pulid_flux_v0.9.1"}, fusion="mean", photos=1)
    return save_identity(PulidIdentity(tokens, uncond, torch.zeros(1, 512), about))


def photo(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).integers(0, 256, (80, 100, 3)).astype(np.uint8))


def paint(engine: FluxGenerate, given: dict[str, bytes] | None = None, seed: int = 7, **params: Any) -> Image:
    small = {"model": "tiny", "prompt": "a doctor", "width": SIDE, "height": SIDE, "steps": 2, "cfg_start_step": 0}
    kind = FluxImageParams if "image" in (given or {}) else FluxParams
    inputs = {"photos": (b"",), "identity": (PORTABLE,), **{name: (blob,) for name, blob in (given or {}).items()}}
    return decode(engine.run(Work(kind(**{**small, **params}), inputs, seed)).outputs["image"].data)


def differs(one: Image, other: Image) -> NDArray[np.float64]:
    """How far apart the pictures are in their left half and in their right one, in grey levels."""
    apart = np.abs(one.astype(float) - other.astype(float))
    return np.array([apart[:, : SIDE // 2].mean(), apart[:, SIDE // 2 :].mean()])


def test_every_input_that_the_stage_promises_changes_the_picture(engine: FluxGenerate) -> None:
    plain = paint(engine, {"identity": who(1)})
    others = [
        paint(engine, {"identity": who(1), "control": photo(1)}, controls=(Control(kind="canny", model="edges"),)),
        paint(engine, {"identity": who(1), "style": photo(1)}, ip_adapter="moods", ip_adapter_weight=2.0),
        paint(engine, {"identity": who(1), "image": photo(1)}, denoise=0.5),
        paint(engine, {"identity": who(1), "identity_2": who(2)}, regions=(LEFT, RIGHT)),
        plain,
    ]
    assert len({picture.tobytes() for picture in others}) == len(others)
    assert paint(engine, {"identity": who(1)}).tobytes() == plain.tobytes()


def everything() -> dict[str, bytes]:
    """An input of every kind."""
    return {
        "identity": who(1), "identity_2": who(2), "control": photo(1), "control_2": photo(2), "style": photo(3),
        "image": photo(4),
    }  # fmt: skip


ALL_AT_ONCE: dict[str, Any] = {
    "regions": (LEFT, RIGHT),
    "controls": (Control(kind="canny", model="edges"), Control(kind="depth", model="modes", start=0.0, end=1.0)),
    "ip_adapter": "moods",
    "cfg": 2.0,
    "negative_prompt": "blur",
}


def test_all_of_them_at_once_with_true_guidance_give_the_same_bytes_again(engine: FluxGenerate) -> None:
    """And leave no trace on the model that other steps share."""
    plain = paint(engine)
    first = paint(engine, everything(), **ALL_AT_ONCE)
    assert paint(engine).tobytes() == plain.tobytes()
    assert paint(engine, everything(), **ALL_AT_ONCE).tobytes() == first.tobytes()


def test_all_of_them_at_once_compute_on_a_gpu_in_its_dtype(folder: Path) -> None:
    """On a device that has no numbers, where tensors of two devices or dtypes that meet are an error.

    What its Residency says is there is there: less what it keeps for the text encoders' buffers, more by rounding.
    """
    borrow = Residency(Budget(BUDGET_BYTES, BUDGET_BYTES))
    with counted() as memory:
        paint(FluxGenerate(studio_of(folder, GPU, borrow)), everything(), **ALL_AT_ONCE)
        gc.collect()
        held = borrow.figures().device_bytes
        assert memory.operations > 1000
        assert held - BUFFERS_BYTES <= memory.live <= held


def test_each_person_acts_most_where_they_are_to_be(engine: FluxGenerate) -> None:
    """Exchanging the person on the left changes the left half the more, and the other way round.

    Attention carries some of it across, so this is a matter of more and less.
    """
    both = {"identity": who(1), "identity_2": who(2)}
    strong: dict[str, Any] = {"regions": (LEFT, RIGHT), "identity_weight": 3.0, "steps": 1}
    pair = paint(engine, both, **strong)
    other_left = differs(pair, paint(engine, {**both, "identity": who(3)}, **strong))
    other_right = differs(pair, paint(engine, {**both, "identity_2": who(3)}, **strong))
    assert other_left[0] > other_left[1]
    assert other_right[1] > other_right[0]


def test_the_less_is_painted_anew_the_nearer_the_picture_stays_to_the_one_given(engine: FluxGenerate) -> None:
    def distance(denoise: float, cut: str) -> float:
        made = paint(engine, {"image": photo(5)}, denoise=denoise, schedule_cut=cut, steps=4)
        return float(differs(untouched, made).mean())

    untouched = paint(engine, {"image": photo(5)}, denoise=0.01, steps=1)
    for cut in ("comfy", "strength"):
        assert distance(0.3, cut) < distance(1.0, cut)


def test_a_cut_schedule_is_comfys_or_diffusers() -> None:
    """Comfy keeps the number of steps and starts lower; diffusers leaves out the first steps."""

    def levels(cut: Literal["comfy", "strength"], denoise: float) -> list[float]:
        return noise_levels(FluxImageParams(steps=20), 1024, 1024, denoise, cut)

    whole = noise_levels(FluxParams(steps=20), 1024, 1024)
    assert levels("comfy", 1.0) == levels("strength", 1.0) == whole
    assert len(levels("comfy", 0.4)) == len(whole)
    assert levels("strength", 0.4) == whole[12:]
    assert levels("comfy", 0.4)[0] < 1.0


@pytest.mark.parametrize(
    ("given", "params", "field", "found"),
    [
        ({"control": photo(1)}, {}, "controls", "0 for 1 control pictures"),
        ({}, {"controls": (Control(kind="canny", model="edges"),)}, "controls", "1 for 0 control pictures"),
        ({"style": photo(1)}, {}, "ip_adapter", "nothing is named"),
        ({}, {"ip_adapter": "moods"}, "ip_adapter", "no picture"),
        ({"identity": who(1), "identity_2": PORTABLE}, {}, "identity_2", "portable"),
        ({"identity": who(1), "identity_2": who(2)}, {}, "regions", "none for 2 people"),
        ({"identity": who(1)}, {"regions": (LEFT, RIGHT)}, "regions", "2 for one person"),
        ({"control": photo(1)}, {"controls": (Control(kind="seg", model="modes"),)}, "controls", "not trained"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    engine: FluxGenerate, given: dict[str, bytes], params: dict[str, Any], field: str, found: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        paint(engine, given, **params)
    assert refused.value.field == field
    assert found in refused.value.found


def test_the_models_that_a_step_uses_are_those_that_it_names(engine: FluxGenerate) -> None:
    plain = FluxParams(model="tiny")
    more = FluxParams(model="tiny", controls=(Control(kind="canny", model="edges"),), ip_adapter="moods")
    assert set(engine.models(more)) - set(engine.models(plain)) == {"edges", "moods"}


def test_the_stage_paints_over_a_picture_with_flux_alone() -> None:
    operation = STAGE.operation("generate.image_to_image")
    assert operation is not None
    assert set(operation.engines) == {"flux"}
    assert operation.inputs == ("image", "photos", "identity")
    assert operation.engines["flux"].params is FluxImageParams
