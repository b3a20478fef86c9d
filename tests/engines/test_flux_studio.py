"""What the FLUX stages of one process share: loaded once, within the budget, and as it was after every use."""

import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, _dynamo

from shared.contracts.errors import Permanent, ResourceExhausted, Transient
from shared.flux import painter as painters
from shared.flux import speed as speeds
from shared.flux import tiny
from shared.flux.loading import footprint, stored_bytes
from shared.flux.painter import Painter
from shared.flux.pulid.context import IdentityCall, Subject
from shared.flux.residents import bytes_of
from shared.flux.speed import Speed
from shared.flux.studio import Studio
from shared.models.process import use_residency
from shared.models.residency import Budget, Residency
from tests.engines.flux_models import assert_same
from tests.engines.flux_studio import ID_WIDTH, PULIDS, TOKENS, write_lora, write_models

OLD, NEW = PULIDS
LARGE = Budget(100_000_000, 100_000_000)
ENCODERS_BYTES = 1_230_592
"""Of the tiny text encoders, with what is allowed for their buffers."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        write_models(Path(name))
        for seed, lora in enumerate(("one", "v1.0-two")):
            write_lora(Path(name), lora, seed)
        yield Path(name)


def studio(folder: Path, budget: Budget = LARGE, dtype: torch.dtype = torch.float32, **speed: Any) -> Studio:
    return Studio(folder, "cpu", dtype, Residency(budget, wait_s=0.0), Speed(**speed), compiler="eager")


@torch.no_grad()
def predicted(painter: Painter, identity: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    dtype = painter.vae.dtype
    tokens = torch.randn(1, TOKENS, ID_WIDTH, generator=generator).to(dtype)
    cached = painter.transformer.cache_context("anybody" if identity else "nobody")
    with IdentityCall([Subject(tokens=tokens)] if identity else []).around(0), cached:
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
        generate, detailer = (Studio(folder, "cpu", torch.float32) for _ in range(2))
        with generate.painting("tiny", NEW) as one:
            pass
        with detailer.painting("tiny", NEW) as other:
            assert other is one
        figures = process.figures()
        assert figures.loads == 1
        assert figures.device_bytes == figures.bytes_loaded == bytes_of(one)
        assert process.on_device() == {generate.key("tiny")} == {detailer.key("tiny")}


def test_two_stages_of_a_process_encode_the_same_words_once(folder: Path) -> None:
    """As all that paint one job: the encoders are moved once. Another process knows nothing of it."""
    with use_residency(Residency(LARGE)) as process:
        generate, detailer = (Studio(folder, "cpu", torch.float32) for _ in range(2))
        one = generate.prompt("tiny", "a doctor")
        process.drop_idle()
        other = detailer.prompt("tiny", "a doctor")
        assert torch.equal(one.sequence, other.sequence)
        assert process.figures().loads == 1
        detailer.prompt("tiny", "a nurse")
        assert process.figures().loads == 2
    apart = studio(folder)
    apart.prompt("tiny", "a doctor")
    assert apart.residency.figures().loads == 1


def test_encoders_that_were_replaced_encode_anew(tmp_path: Path) -> None:
    """By files of the same size and names, though the old ones are in memory and their words remembered."""
    tiny.write(tmp_path / "tiny", seed=1)
    tiny.write(tmp_path / "other", seed=2)
    of = studio(tmp_path)
    before = of.prompt("tiny", "a doctor")
    for file in (tmp_path / "other/text_encoder_2").iterdir():
        file.replace(tmp_path / "tiny/text_encoder_2" / file.name)
    after = of.prompt("tiny", "a doctor")
    assert not torch.equal(after.sequence, before.sequence)
    assert torch.equal(after.pooled, before.pooled)
    assert torch.equal(after.sequence, studio(tmp_path).prompt("tiny", "a doctor").sequence)


def test_weights_that_were_replaced_are_read_anew(tmp_path: Path) -> None:
    """Of the transformer, of an identity model and of an adapter, by files of the same names, while all are in use."""
    write_models(tmp_path)
    write_lora(tmp_path, "one", 1)
    write_lora(tmp_path, "other", 2)
    tiny.write(tmp_path / "another", seed=2)
    of = studio(tmp_path)
    found = [painted(of, NEW, identity=True, one=1.0)]
    for new, old in (
        (tmp_path / "other/other.safetensors", tmp_path / "one/one.safetensors"),
        (tmp_path / OLD / f"{OLD}.safetensors", tmp_path / NEW / f"{NEW}.safetensors"),
        *((file, tmp_path / "tiny/transformer" / file.name) for file in (tmp_path / "another/transformer").iterdir()),
    ):
        new.replace(old)
        found.append(painted(of, NEW, identity=True, one=1.0))
        assert torch.equal(found[-1], painted(studio(tmp_path), NEW, identity=True, one=1.0)), old.name
    assert not any(torch.equal(one, other) for one, other in pairwise(found[:3]))
    assert not torch.equal(found[2], found[-1])


def test_each_precision_is_a_model_of_its_own(folder: Path) -> None:
    assert studio(folder).key("tiny") != studio(folder, dtype=torch.bfloat16).key("tiny")


@pytest.mark.parametrize(
    "speed",
    [
        {},
        {"group_offload": True},
        {"fused_qkv": True, "first_block_cache": 1e-9},
        {"fp8": "weights"},
    ],
    ids=lambda speed: "-".join(speed) or "plain",
)
def test_an_identity_model_is_put_into_the_flux_that_is_there(folder: Path, speed: dict[str, Any]) -> None:
    """Read once for who sees nobody and then somebody, by either model: what is painted is as of one of its own."""
    wanted = {model: painted(studio(folder, **speed), model, identity=model is not None) for model in (None, NEW, OLD)}
    of = studio(folder, **speed)
    for model in (None, NEW, None, OLD):
        found = painted(of, model, identity=model is not None)
        torch.testing.assert_close(found, wanted[model], atol=1e-5, rtol=0)
        if not speed:
            assert torch.equal(found, wanted[model])
        with of.painting("tiny", model) as painter:
            size = of.residency.figures().device_bytes
            assert speed.get("group_offload") or size == bytes_of(painter)
    assert not torch.equal(wanted[OLD], wanted[NEW])
    assert of.residency.figures().loads == 1


def test_identity_modules_move_with_the_flux_that_they_were_put_into(folder: Path) -> None:
    """Booked there and back; dropped, nothing is left of them."""
    whole, _ = sizes(folder)
    of = studio(folder, Budget(max(whole, ENCODERS_BYTES), whole + ENCODERS_BYTES))
    painted(of, None)
    before = painted(of, NEW, identity=True)
    assert of.residency.figures().device_bytes == whole
    of.prompt("tiny", "a doctor")
    assert (of.residency.figures().device_bytes, of.residency.figures().host_bytes) == (ENCODERS_BYTES, whole)
    assert torch.equal(painted(of, NEW, identity=True), before)
    assert of.residency.figures().loads == 2
    of.residency.drop_idle()
    assert of.residency.figures().device_bytes == of.residency.figures().host_bytes == 0


def test_identity_modules_that_cannot_be_had_leave_the_flux_as_it_was(folder: Path) -> None:
    """Missing, or without room; who asks for those that there are gets them."""
    of = studio(folder)
    before, booked = painted(of, None), of.residency.figures().device_bytes
    with pytest.raises(Permanent, match="absent"):
        painted(of, "absent")
    assert torch.equal(painted(of, None), before)
    assert of.residency.figures().device_bytes == booked
    tight = studio(folder, Budget(booked, 2 * booked))
    painted(tight, None)
    with pytest.raises(ResourceExhausted):
        painted(tight, NEW)
    assert torch.equal(painted(tight, None), before)
    assert tight.residency.figures().device_bytes == booked


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


def test_the_adapters_used_last_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painters, "ADAPTERS_KEPT", 1)
    of = studio(folder)
    before, booked = painted(of), of.residency.figures().device_bytes
    one = painted(of, one=1.0)
    with of.painting("tiny", NEW, {"v1.0-two": 1.0}) as painter:
        assert list(painter.adapters) == ["one", "v1.0-two"]
    assert list(painter.adapters) == ["v1.0-two"]
    assert of.residency.figures().device_bytes == booked + painter.adapters["v1.0-two"]
    assert torch.equal(painted(of), before)
    assert torch.equal(painted(of, one=1.0), one)


def test_an_adapter_that_cannot_be_had_changes_nothing(folder: Path) -> None:
    of = studio(folder)
    before, booked = painted(of), of.residency.figures().device_bytes
    with pytest.raises(Permanent, match=r"absent\.safetensors is missing"):
        painted(of, absent=1.0)
    wrong = of.painting("tiny", NEW, {"one": 1.0, OLD: 1.0})
    with pytest.raises(Permanent, match="no LoRA adapter of this transformer"), wrong:
        pytest.fail("it was taken")
    assert torch.equal(painted(of), before)
    assert of.residency.figures().device_bytes == booked + stored_bytes(folder / "one", torch.float32)


def test_a_worker_that_has_seen_many_adapters_takes_more_of_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled blocks are compiled for each kind of call, so often and no more: what comes then is not compiled."""
    monkeypatch.setattr(speeds, "RECOMPILE_LIMIT", 1)
    _dynamo.reset()
    plain, compiled = studio(folder), studio(folder, compiled_blocks=True)
    told: list[dict[str, Any]] = [{}, {"one": 1.0}, {"v1.0-two": 1.0}]
    for loras in told:
        torch.testing.assert_close(painted(compiled, **loras), painted(plain, **loras), rtol=0, atol=1e-5)


def test_the_transformer_knows_adapters_by_few_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler compiles its blocks for a name; of 45 adapters, eight kept, it then compiled for 17 and not for 45."""
    monkeypatch.setattr(painters, "ADAPTERS_KEPT", 1)
    of, called = studio(folder), set()
    before = painted(of)
    for name in ("one", "v1.0-two", "one", "v1.0-two"):
        with of.painting("tiny", NEW, {name: 1.0}) as painter:
            called |= set(painter.transformer.peft_config)
    assert called == {"adapter0", "adapter1"}
    assert torch.equal(painted(of), before)


def test_adapters_and_fused_projections_exclude_each_other(folder: Path) -> None:
    with pytest.raises(Permanent, match=r"cannot be had with flux\.fused_qkv"):
        painted(studio(folder, fused_qkv=True), one=1.0)


def test_speed_is_applied_once_after_the_identity_modules(folder: Path) -> None:
    plain, quick = studio(folder), studio(folder, fused_qkv=True, first_block_cache=1e-9)
    assert plain.key("tiny") != quick.key("tiny")
    assert_same(painted(quick, identity=True), painted(plain, identity=True))
    assert not torch.equal(painted(quick), painted(quick, identity=True))
    with quick.painting("tiny", NEW) as painter:
        assert painter.transformer.is_cache_enabled
        assert quick.residency.figures().device_bytes == bytes_of(painter)


@pytest.mark.parametrize("error", [ValueError("no kernel"), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_painter_that_was_sped_up_in_part_is_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Fused and no more: the next step begins with the weights as they are in their files."""
    of, kept = studio(folder, fused_qkv=True), []

    def fail(vae: Any, _: int | None) -> None:
        kept.append(weakref.ref(vae.decoder.conv_in.weight))
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(speeds, "tile_from", fail)
        with pytest.raises(ResourceExhausted if isinstance(error, torch.OutOfMemoryError) else ValueError) as told:
            painted(of)
    assert told.value.__traceback__ is not None
    assert kept[0]() is None, "the error holds what was dropped"
    figures = of.residency.figures()
    assert (figures.drops, figures.device_bytes, figures.host_bytes) == (1, 0, 0)
    assert torch.equal(painted(of), painted(studio(folder, fused_qkv=True)))


def test_who_waited_for_a_painter_that_was_spoilt_tries_again(folder: Path) -> None:
    of = studio(folder)
    with of.residency.use(of.key("tiny"), lambda: of.resident("tiny")) as painter:
        painter.spoil()  # as who had it before does
        with pytest.raises(Transient, match="anew"):
            painted(of, None)


# Within a budget


def sizes(folder: Path) -> tuple[int, int]:
    """Of the painter, and of what is on the device with it where the transformer's blocks take turns."""
    need = footprint(folder / "tiny", torch.float32)
    attentions = stored_bytes(folder / NEW, torch.float32, lambda name: name.startswith("pulid_ca."))
    beside = stored_bytes(folder / "tiny/vae", torch.float32) + attentions
    return need.weights + beside, need.outside_blocks + 2 * need.largest_block + beside


def test_where_it_does_not_fit_its_blocks_take_turns_with_the_same_result(folder: Path) -> None:
    whole, by_blocks = sizes(folder)
    small = studio(folder, Budget(whole - 1, whole))
    assert_same(painted(small, identity=True), painted(studio(folder), identity=True))
    figures = small.residency.figures()
    beside = figures.bytes_loaded - figures.host_bytes
    assert (figures.bytes_loaded, figures.device_bytes) == (whole, by_blocks)
    assert 0 < beside < by_blocks < whole
    with small.painting("tiny", NEW) as painter:
        assert bytes_of(painter) == whole
        assert bytes_of(painter.vae, painter.attentions) == beside


def test_offloading_can_be_asked_for(folder: Path) -> None:
    of = studio(folder, group_offload=True)
    painted(of)
    assert of.residency.figures().device_bytes == sizes(folder)[1]


def test_a_step_that_ran_out_of_memory_can_ask_for_it(folder: Path) -> None:
    """But not where settings of speed need the whole transformer on the device."""
    of = studio(folder)
    before = painted(of)
    with of.painting("tiny", NEW, offloaded=True) as painter:
        assert painter.booked is None
        assert_same(predicted(painter), before)
    quick = studio(folder, fused_qkv=True)
    assert quick.key("tiny", offloaded=True) == quick.key("tiny")


def test_adapters_work_where_blocks_take_turns(folder: Path) -> None:
    whole, offloaded = studio(folder), studio(folder, group_offload=True)
    before = painted(offloaded, identity=True)
    assert_same(painted(offloaded, identity=True, one=1.0), painted(whole, identity=True, one=1.0))
    assert torch.equal(painted(offloaded, identity=True), before)
    adapter = stored_bytes(folder / "one", torch.float32)
    figures = offloaded.residency.figures()
    assert figures.device_bytes == sizes(folder)[1] + adapter
    assert figures.bytes_loaded == sizes(folder)[0] + adapter


def test_what_fits_by_no_plan_is_refused_before_anything_is_loaded(folder: Path) -> None:
    of = studio(folder, Budget(sizes(folder)[0], sizes(folder)[0] - 1))
    with pytest.raises(ResourceExhausted, match=r"resident needs .* group offload needs .* sequential"):
        painted(of)
    assert of.residency.figures().loads == 0


def test_text_encoders_and_painter_take_turns_where_they_do_not_fit_together(folder: Path) -> None:
    whole, _ = sizes(folder)
    of = studio(folder, Budget(max(whole, ENCODERS_BYTES), whole + ENCODERS_BYTES))
    first = of.prompt("tiny", "a doctor")
    painted(of)
    assert of.residency.on_device() == {of.key("tiny")}
    of.prompt("tiny", "a nurse")
    painted(of)
    figures = of.residency.figures()
    assert (figures.loads, figures.drops, figures.evictions_to_host) == (2, 0, 3)
    assert torch.equal(of.prompt("tiny", "a doctor").sequence, first.sequence)
    assert of.residency.figures() == figures


def test_text_encoders_too_large_for_the_device_encode_on_the_cpu(folder: Path) -> None:
    of = studio(folder, Budget(ENCODERS_BYTES - 1, 2 * ENCODERS_BYTES))
    assert_same(of.prompt("tiny", "a doctor").sequence, studio(folder).prompt("tiny", "a doctor").sequence)
    figures = of.residency.figures()
    assert (figures.device_bytes, figures.host_bytes) == (0, ENCODERS_BYTES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_take_what_was_said_in_each_precision(folder: Path, dtype: torch.dtype) -> None:
    """More than was said would be refused."""
    of = studio(folder, dtype=dtype)
    assert of.prompt("tiny", "a doctor").sequence.dtype == dtype
    with of.painting("tiny", NEW, {"one": 1.0}) as painter:
        assert predicted(painter).dtype == dtype
        booked = of.residency.figures().device_bytes - (ENCODERS_BYTES if dtype == torch.float32 else 0)
        if dtype == torch.float32:
            assert bytes_of(painter) == booked
        assert {weight.dtype for weight in painter.parameters()} == {dtype}


@pytest.mark.parametrize("group_offload", [False, True])
def test_a_painter_that_is_dropped_is_gone(folder: Path, group_offload: bool) -> None:
    """At once, though its blocks refer to themselves: the next model is to have its memory."""
    of = studio(folder, group_offload=group_offload)
    with of.painting("tiny", NEW, {"one": 1.0}) as painter:
        predicted(painter, identity=True)
        weights = weakref.ref(painter.transformer.proj_out.weight)
    del painter
    assert of.residency.drop_idle() == 1
    assert weights() is None
    assert of.residency.figures().device_bytes == of.residency.figures().host_bytes == 0


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
])  # fmt: skip
def test_running_out_of_memory_is_told_and_lets_go_of_what_nobody_uses(folder: Path, error: RuntimeError) -> None:
    """Also where it is not torch's allocator that ran out, but a library beside it."""
    of = studio(folder)
    of.prompt("tiny", "a doctor")
    with pytest.raises(ResourceExhausted, match=r"cpu ran out of memory .* 1 models"), of.painting("tiny", NEW):
        raise error
    assert of.residency.on_device() == {of.key("tiny")}


def test_another_error_of_torch_stays_what_it_is(folder: Path) -> None:
    of = studio(folder)
    of.prompt("tiny", "a doctor")
    with pytest.raises(RuntimeError, match="mat1"), of.painting("tiny", NEW):
        raise RuntimeError("mat1 and mat2 must have the same dtype")
    assert len(of.residency.on_device()) == 2


def test_what_ran_out_of_memory_does_not_live_on_in_the_error(folder: Path) -> None:
    """The activations of the call that failed: gigabytes, which whoever handles the error would hold from the next."""
    of, activations = studio(folder), []

    def fail(painter: Painter) -> None:
        activation = torch.zeros_like(painter.transformer.proj_out.weight)
        activations.append(weakref.ref(activation))
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {activation.nbytes} bytes more")

    with pytest.raises(ResourceExhausted) as error, ExitStack() as held:
        fail(held.enter_context(of.painting("tiny")))
    assert error.value.__cause__ is not None
    assert activations[0]() is None


# Several at once


def test_one_step_at_a_time_paints_with_a_transformer(folder: Path) -> None:
    """Adapters are the transformer's: who would paint meanwhile would be changed by them."""
    of = studio(folder)
    before = painted(of)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with of.painting("tiny", NEW, {"one": 1.0}):
            inside.set()
            assert leave.wait(20)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(hold)
        assert inside.wait(20)
        second = threads.submit(painted, of)
        assert not second.done()
        leave.set()
        first.result(20)
        assert torch.equal(second.result(20), before)
