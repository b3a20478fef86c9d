"""What the planner foretells is what the engines' models then do: tiny ones, through the stages of a portrait."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from services.generate.flux import FluxGenerate
from services.generate.stage import FluxParams
from services.refine.flux import FluxPhotoreal
from services.refine.stage import FluxPhotorealParams
from services.swap.flux_face_detail import FluxFaceDetail
from services.swap.flux_hands import FluxHands
from services.swap.stage import FluxFaceDetailParams, FluxHandsParams
from shared.flux import tiny
from shared.flux.loading import footprint, stored_bytes
from shared.flux.parts import parts
from shared.flux.pulid.artifact import PulidAbout, PulidIdentity, save_identity
from shared.flux.pulid.attention import PerceiverAttentionCA
from shared.flux.pulid.injection import sites
from shared.flux.pulid.weights import pulid_file
from shared.flux.studio import BUFFERS_BYTES, PULID, studio_of
from shared.models.borrowing import FLUX_1, FP8_SAVES, PULID_ATTENTIONS_BYTES, Borrowing, Painting, Whole, Words
from shared.models.forecast import StepToRun, forecast
from shared.models.memory import Footprint
from shared.models.residency import Budget, Figures, Residency
from shared.models.settings import Speed
from shared.vision.codec import decode, encode_png
from shared.vision.networks import tiny_yolo
from shared.worker.operation import Work
from tests.engines.flux_studio import ID_WIDTH, TOKENS, write_models
from tests.pictures import astronaut

F32, BASE, REFINER, PULID_MODEL, DETECTOR = torch.float32, "tiny", "refiner", "pulid_flux_v0.9.1", "found"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        write_models(Path(name))
        tiny.write(Path(name) / REFINER, seed=1)
        tiny_yolo.write(Path(name) / DETECTOR / "found.onnx")
        yield Path(name)


def painting(folder: Path, model: str, identity: str | None) -> Painting:
    files = parts(folder, model)
    of_identity = 0
    if identity is not None:
        of_identity = stored_bytes(pulid_file(folder, identity), F32, lambda name: name.startswith(PULID))
    need = footprint(files.transformer, F32)
    beside = stored_bytes(files.vae, F32)
    return Painting(model=model, identity_model=identity, need=need, beside=beside, attentions=of_identity)


def words(folder: Path, model: str) -> Words:
    encoders = parts(folder, model).encoders
    read = sum(stored_bytes(path, F32) for path in (encoders.clip, encoders.t5))
    return Words(name=f"words of {model}", bytes=read + BUFFERS_BYTES)


def planned(folder: Path) -> list[StepToRun]:
    detector = Whole(name=DETECTOR, bytes=(folder / DETECTOR / "found.onnx").stat().st_size)
    base, nobody = painting(folder, BASE, PULID_MODEL), painting(folder, BASE, None)
    told = words(folder, BASE)
    return [
        StepToRun("generate", Borrowing(words=told, painting=base)),
        StepToRun("hands", Borrowing(alone=(detector,), words=told, painting=nobody)),
        StepToRun("face_detail", Borrowing(alone=(detector,), words=told, painting=base)),
        StepToRun("refine", Borrowing(words=words(folder, REFINER), painting=painting(folder, REFINER, None))),
    ]


def steps(folder: Path, residency: Residency, speed: Speed) -> list[Callable[[str], None]]:
    """The engines of one process, each to be run with other words in each job."""
    about = PulidAbout(models={"idformer": PULID_MODEL}, fusion="mean", photos=1)
    tokens, nobody = torch.randn(TOKENS, ID_WIDTH), torch.randn(TOKENS, ID_WIDTH)
    who = save_identity(PulidIdentity(tokens, nobody, torch.zeros(1, 512), about))
    studio = studio_of(folder, "cpu", residency, speed)
    generate, hands = FluxGenerate(studio), FluxHands(studio)
    face, refine = FluxFaceDetail(studio), FluxPhotoreal(studio)
    picture = encode_png(np.ascontiguousarray(astronaut()[:128, :128]))
    small = {"model": BASE, "detector": DETECTOR, "steps": 1, "guide_size": 64, "max_size": 64}

    def generate_one(prompt: str) -> None:
        asked = FluxParams(model=BASE, prompt=prompt, width=64, height=64, steps=1)
        made = generate.run(Work(asked, {"photos": (b"",), "identity": (who,)}, 1))
        assert decode(made.outputs["image"].data).any()

    def hands_one(prompt: str) -> None:
        made = hands.run(Work(FluxHandsParams.model_validate({**small, "prompt": prompt}), {"image": (picture,)}, 1))
        assert made.outputs["image"].data != picture

    def face_one(prompt: str) -> None:
        asked = FluxFaceDetailParams.model_validate({**small, "prompt": prompt})
        made = face.run(Work(asked, {"image": (picture,), "identity": (who,)}, 1))
        assert made.outputs["image"].data != picture

    def refine_one(prompt: str) -> None:
        asked = FluxPhotorealParams(model=REFINER, prompt=prompt, steps=1, scheduler="beta")
        refine.run(Work(asked, {"image": (picture,)}, 1))

    return [generate_one, hands_one, face_one, refine_one]


def sizes(folder: Path) -> tuple[int, int]:
    base = painting(folder, BASE, PULID_MODEL)
    return base.need.weights + base.beside + base.attentions, words(folder, BASE).bytes


def budgets(folder: Path) -> dict[str, Budget]:
    painter, told = sizes(folder)
    host = 50_000_000
    return {
        "all stay": Budget(host, host),
        "words and painter take turns": Budget(painter + 1000, host),
        "by blocks": Budget(host, host),
        "little host memory": Budget(painter + told + 1000, painter + told),
    }


NAMES = ("all stay", "words and painter take turns", "little host memory", "by blocks")


ORDERS = {"generate first": (0, 1, 2, 3), "hands first": (1, 2, 3, 1)}
"""In the second somebody is to be seen by a transformer that is there for nobody, as where a scene is not FLUX's."""


@pytest.mark.parametrize(
    ("name", "ordered"),
    [*((name, "generate first") for name in NAMES), *((name, "hands first") for name in ("all stay", *NAMES[2:]))],
)
def test_the_residency_does_what_the_plan_says(folder: Path, name: str, ordered: str) -> None:
    """Two jobs of four steps: in each as many models are read and moved, and as many bytes, as the plan foretold."""
    speed, budget, order = Speed(group_offload=name == "by blocks"), budgets(folder)[name], ORDERS[ordered]
    foretold = forecast([planned(folder)[step] for step in order], budget, speed)
    assert foretold.fits
    assert any(step.moves for step in foretold.later) == ("turns" in name or "little" in name)
    residency = Residency(budget, wait_s=0.0)
    engines = [steps(folder, residency, speed)[step] for step in order]
    for job, found in (("first", foretold.first), ("second", foretold.later)):
        for run, wanted in zip(engines, found, strict=True):
            before = residency.figures()
            run(f"{job} words")
            assert done(before, residency.figures()) == (wanted.loads, wanted.moves, wanted.moved_bytes), wanted.step
            assert len(residency.on_device()) == len(wanted.on_device), wanted.step
            assert residency.figures().device_bytes <= wanted.peak_bytes <= budget.device_bytes, wanted.step


def done(before: Figures, after: Figures) -> tuple[int, int, int]:
    return (
        after.loads - before.loads,
        after.moves_to_device - before.moves_to_device,
        after.bytes_to_device - before.bytes_to_device,
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_flux_is_read_once_over_generate_hands_and_faces(folder: Path, order: Sequence[int]) -> None:
    """Whoever comes first: for hands nobody is to be seen, and the others see somebody by the same transformer."""
    residency = Residency(Budget(50_000_000, 50_000_000), wait_s=0.0)
    engines = steps(folder, residency, Speed())
    for step in order:
        engines[step]("words")
    assert residency.figures().loads == 3, "text encoders, FLUX with PuLID, the detector"


def test_the_sizes_that_plans_are_made_with_are_the_architecture_s() -> None:
    with torch.device("meta"):
        flux = FluxTransformer2DModel(guidance_embeds=True)
        attentions = [PerceiverAttentionCA() for _ in sites(flux)]
    blocks = [flux.transformer_blocks, flux.single_transformer_blocks]
    weights = sum(2 * value.numel() for value in flux.parameters())
    block = max(sum(2 * value.numel() for value in one.parameters()) for kind in blocks for one in kind)
    outside = weights - sum(2 * value.numel() for kind in blocks for value in kind.parameters())
    layer = max(
        sum(2 * value.numel() for value in module.parameters()) for module in flux.modules() if not [*module.children()]
    )
    assert Footprint(weights=weights, largest_block=block, largest_layer=layer, outside_blocks=outside) == FLUX_1
    assert sum(2 * value.numel() for one in attentions for value in one.parameters()) == PULID_ATTENTIONS_BYTES
    assert {"weights": saved(blocks, narrow=False), "weights_and_activations": saved(blocks, narrow=True)} == FP8_SAVES


def saved(blocks: Sequence[nn.ModuleList], *, narrow: bool) -> int:
    """Of bf16, where the layers that shared.flux.speed quantises hold a byte a weight and an fp32 scale a row."""
    layers = [
        layer
        for kind in blocks
        for name, layer in kind.named_modules()
        if isinstance(layer, nn.Linear) and not (narrow and ".norm" in name)
    ]
    return sum(layer.weight.numel() - 4 * layer.out_features for layer in layers)
