"""Engines on a CUDA device without numbers (bench/counted.py): nothing is left behind on the CPU, no dtypes are mixed.

What they paint is not seen here, since there is nothing to be seen.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from bench.counted import GPU, Memory, counted
from bench.gpu import PULID_BOUND, sampling
from bench.gpu_machine import LAYERS_TFLOP, STEP_TFLOP, identity_of, prompt_of
from bench.gpu_machine import models as made
from bench.gpu_memory import COUNTED, held_by
from bench.gpu_recipe import onnx_on_cpu
from bench.gpu_stages import Way, tasks
from doctor_image_gen.cli import models
from doctor_image_gen.recipes import find_recipe
from services.generate.stage import STAGE as GENERATE
from services.identity.stage import STAGE as IDENTITY
from services.qa.stage import STAGE as QA
from services.refine.stage import STAGE as REFINE
from services.swap.stage import STAGE as SWAP
from services.upscale.stage import STAGE as UPSCALE
from shared.flux.speed import Speed
from shared.flux.studio import studio_of
from shared.models.memory import WORKING_BYTES
from shared.models.process import use_residency
from shared.models.residency import Budget, Residency
from shared.worker.operation import EngineSpec, Work
from tests.photos import astronaut, png, scaled

STAGES = {stage.name: stage for stage in (IDENTITY, GENERATE, SWAP, REFINE, UPSCALE, QA)}
ROOM = Budget(10**10, 10**10)
IN_TORCH = {"identity", "generate", "hands", "face", "face_detail", "refine", "upscale"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `doctorgen models tiny` makes."""
    place = tmp_path_factory.mktemp("models")
    models.tiny(Namespace(folder=str(place)))
    return place


@pytest.fixture
def there() -> Iterator[Memory]:
    with onnx_on_cpu(), counted() as memory:
        yield memory


def engine_of(spec: EngineSpec, folder: Path) -> Any:
    """Told where its models lie and where it computes, whichever way it is told."""
    module, _, name = spec.factory.partition(":")
    make = getattr(import_module(module), name)
    ways: Mapping[str, Any] = {
        "studio": studio_of(folder, GPU),
        "folder": folder,
        "device": GPU,
    }
    return make(**{slot: ways[slot] for slot in signature(make).parameters if slot in ways})


def test_every_stage_computes_on_the_device_that_it_was_told(folder: Path, there: Memory) -> None:
    """One picture through the whole recipe. Tensors of two devices, or products of two dtypes, are errors."""
    photo = png(scaled(astronaut(), 0.5))
    there_is: dict[str, tuple[bytes, ...]] = {"request.photos": (png(astronaut()),)}
    computed = set()
    with use_residency(Residency(ROOM)):
        for step in find_recipe(None, "rehearsal").steps:
            operation = STAGES[step.operation.partition(".")[0]].operation(step.operation)
            assert operation is not None
            spec = operation.engines["flux"]
            params = spec.parse({**step.params, **step.engines["flux"]}, step.name)
            inputs = {slot: there_is[str(source)] for slot, source in step.inputs.items()}
            there.restart()
            before = there.operations
            outcome = engine_of(spec, folder).run(Work(params, inputs, seed=7))
            if there.operations > before:
                computed.add(step.name)
            # what came back is black, and in black nobody is found
            there_is |= {
                f"{step.name}.{slot}": (photo if slot == "image" else output.data,)
                for slot, output in outcome.outputs.items()
            }
    assert computed == IN_TORCH


def test_flux_at_full_size_needs_beside_its_weights_less_than_is_kept_free(folder: Path) -> None:
    """FLUX.1 with PuLID, a megapixel and its decoding, in bf16: what a budget leaves for that is enough, twice over."""
    way = Way("plain", Speed(), 1)
    task = next(one for one in tasks(COUNTED, way) if one.name == "generate")
    held = held_by(task, way, COUNTED, folder, png(astronaut()))
    flux = 11_901_408_320
    assert 2 * flux < held.weights < 1.05 * 2 * flux, "the transformer, PuLID's attentions and the autoencoder"
    assert 0 < held.peak - held.weights < WORKING_BYTES / 2


def test_the_arithmetic_limit_is_what_a_step_computes() -> None:
    """And PuLID adds less than 5 % to it: what is left of its bound for a kernel's delays can be told from that."""

    def operations(run: Callable[[int], object]) -> float:
        with FlopCounterMode(display=False) as counter:
            run(1)
        return float(counter.get_total_flops()) / 1e12

    with counted():
        transformer, _ = made(COUNTED)
        prompt = prompt_of(COUNTED)
        call = identity_of(COUNTED, transformer)
        layers = operations(sampling(COUNTED, transformer, prompt))
        with_pulid = operations(sampling(COUNTED, transformer, prompt, call.around))
    assert layers == pytest.approx(LAYERS_TFLOP, rel=1e-3)
    assert 0.02 < (with_pulid - layers) / STEP_TFLOP < PULID_BOUND - 1
