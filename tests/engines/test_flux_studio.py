"""What the FLUX stages of one process share: loaded once, within the budget, and as it was after every use."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from shared.flux import tiny
from shared.flux.pulid.context import IdentityCall, Subject
from shared.flux.residents import bytes_of
from shared.flux.speed import Speed
from shared.flux.studio import Painter, Studio
from shared.models.process import use_residency
from shared.models.residency import Budget, Residency
from tests.engines.flux_studio import ID_WIDTH, PULIDS, TOKENS, tiny_pulid, write_lora, write_models

OLD, NEW = PULIDS
LARGE = Budget(100_000_000, 100_000_000)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        write_models(Path(name))
        for seed, lora in enumerate(("one", "v1.0-two")):
            write_lora(Path(name), lora, seed)
        yield Path(name)


def studio(folder: Path, budget: Budget = LARGE, dtype: torch.dtype = torch.float32, **speed: Any) -> Studio:
    return Studio(folder, "cpu", dtype, Residency(budget, wait_s=0.0), tiny_pulid, Speed(**speed))


@torch.no_grad()
def predicted(painter: Painter, identity: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    dtype = painter.vae.dtype
    tokens = torch.randn(1, TOKENS, ID_WIDTH, generator=generator).to(dtype)
    with IdentityCall([Subject(tokens=tokens)] if identity else []).around(0):
        answer: Tensor = painter.transformer(
            hidden_states=torch.randn(1, 4, 64, generator=generator).to(dtype),
            encoder_hidden_states=torch.randn(1, 3, tiny.WIDTH, generator=generator).to(dtype),
            pooled_projections=torch.randn(1, tiny.WIDTH, generator=generator).to(dtype),
            timestep=torch.tensor([0.5]),
            guidance=torch.tensor([3.5]),
            img_ids=torch.zeros(4, 3),
            txt_ids=torch.zeros(3, 3),
            return_dict=False,
        )[0]
    return answer


def painted(of: Studio, model: str | None = NEW, identity: bool = False, **loras: float) -> Tensor:
    with of.painting("tiny", model, loras) as painter:
        return predicted(painter, identity)


def test_two_stages_of_a_process_share_one_flux(folder: Path) -> None:
    """As generate and the detailers: read once, one object, one set of books."""
    with use_residency(Residency(LARGE)) as process:
        generate, detailer = (Studio(folder, "cpu", torch.float32, None, tiny_pulid) for _ in range(2))
        with generate.painting("tiny", NEW) as one:
            pass
        with detailer.painting("tiny", NEW) as other:
            assert other is one
        figures = process.figures()
        assert figures.loads == 1
        assert figures.device_bytes == figures.bytes_loaded == bytes_of(one)
        assert process.on_device() == {generate.key("tiny", NEW)} == {detailer.key("tiny", NEW)}


def test_each_version_of_pulid_and_each_precision_is_a_model_of_its_own(folder: Path) -> None:
    of = studio(folder)
    assert of.key("tiny", OLD) != of.key("tiny", NEW) != studio(folder, dtype=torch.bfloat16).key("tiny", NEW)
    assert not torch.equal(painted(of, OLD, identity=True), painted(of, NEW, identity=True))
    assert of.residency.figures().loads == 2


def test_who_is_to_see_nobody_takes_the_flux_that_is_there(folder: Path) -> None:
    """To the last bit as one without identity modules."""
    alone, shared = studio(folder), studio(folder)
    painted(shared, NEW)
    assert torch.equal(painted(shared, None), painted(alone, None))
    assert shared.residency.figures().loads == 1


def test_an_identity_is_seen_and_leaves_no_trace(folder: Path) -> None:
    of = studio(folder)
    before = painted(of)
    assert not torch.equal(painted(of, identity=True), before)
    assert torch.equal(painted(of), before)


def test_adapters_are_loaded_once_booked_and_leave_no_trace(folder: Path) -> None:
    of = studio(folder)
    before, booked = painted(of, identity=True), of.residency.figures().device_bytes
    one = painted(of, identity=True, one=1.0)
    assert not torch.equal(one, before)
    assert torch.equal(painted(of, identity=True), before)
    assert torch.equal(painted(of, identity=True, one=1.0), one)
    with of.painting("tiny", NEW, {"one": 1.0, "v1.0-two": 0.5}) as painter:
        assert not torch.equal(predicted(painter, identity=True), one)
        assert of.residency.figures().device_bytes == bytes_of(painter) > booked
    assert torch.equal(painted(of, identity=True), before)
    assert list(painter.adapters) == ["one", "v1.0-two"]
    assert of.residency.figures().loads == 1
