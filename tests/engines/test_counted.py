"""The device without numbers of bench/counted.py: what it counts, and what it does not let pass."""

import gc

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.counted import GPU, MEMORY_BYTES, UNIT, counted


def test_tensors_are_counted_while_they_live() -> None:
    """In whole units; a view adds nothing, and the peak outlives what made it."""
    with counted() as memory:
        one = torch.zeros(1000, 1000, device=GPU)
        view = one[10:20]
        assert memory.live == -(-4_000_000 // UNIT) * UNIT
        other = one + one
        assert memory.live == memory.peak == 2 * -(-4_000_000 // UNIT) * UNIT
        del one, other
        gc.collect()
        assert memory.live == memory.peak // 2, "the view keeps the whole"
        del view
        gc.collect()
        assert memory.live == 0
        memory.restart()
        assert memory.peak == 0
        assert torch.cuda.mem_get_info() == (MEMORY_BYTES, MEMORY_BYTES)


def test_a_module_takes_there_what_its_weights_take() -> None:
    with counted() as memory:
        layer = nn.Linear(1024, 1024, bias=False).to(GPU, torch.bfloat16)
        assert memory.live == layer.weight.nbytes == 2 * 1024 * 1024
        layer.to("cpu")
        gc.collect()
        assert memory.live == 0


def test_what_is_on_the_cpu_stays_real_and_what_comes_back_is_zeros() -> None:
    with counted():
        here = torch.arange(4.0)
        assert (here * 2).tolist() == [0, 2, 4, 6]
        rows = torch.ones(1, 4, 1)
        assert torch.equal(nn.functional.scaled_dot_product_attention(rows, rows, rows), rows)
        assert np.array_equal(here.to(GPU).cpu().numpy(), np.zeros(4))
        assert here.copy_(torch.ones(4, device=GPU)).tolist() == [0, 0, 0, 0]


def test_tensors_of_two_devices_do_not_meet() -> None:
    with counted(), pytest.raises(RuntimeError, match="cuda:0"):
        torch.zeros(3, device=GPU) + torch.zeros(3)


def test_a_number_of_the_cpu_may_meet_them() -> None:
    with counted():
        assert (torch.zeros(3, device=GPU) * torch.tensor(2.0)).device.type == "cuda"


def test_a_product_of_two_dtypes_is_refused_as_by_cuda() -> None:
    with counted():
        layer = nn.Linear(4, 4, device=GPU, dtype=torch.bfloat16)
        assert layer(torch.zeros(1, 4, device=GPU, dtype=torch.bfloat16)).dtype is torch.bfloat16
        with pytest.raises(TypeError, match="one dtype"):
            layer(torch.zeros(1, 4, device=GPU))
        query = torch.zeros(1, 2, 8, 4, device=GPU)
        with pytest.raises(TypeError, match="attention"):
            nn.functional.scaled_dot_product_attention(query, query, query.to(torch.bfloat16))


def test_numbers_are_not_read_of_what_is_on_the_device() -> None:
    with counted(), pytest.raises(TypeError, match="bring it to the CPU first"):
        torch.zeros(3, device=GPU).numpy()


def test_parts_have_the_shapes_that_torch_gives_them() -> None:
    shape, rows = (2, 3, 4, 5), torch.tensor([0, 1, 1])
    here = torch.zeros(shape)
    with counted():
        there = here.to(GPU)
        for index in (0, (..., 0), (slice(None), None, 1), (slice(0, 1), ..., slice(1, 5, 2)), (0, ..., None), rows):
            assert there[index].shape == here[index].shape, index
        there[:, 1] = 7.0
        assert there.shape == shape


@pytest.mark.parametrize("mode", ["nearest", "bicubic"])
def test_pictures_are_enlarged_there_while_operations_are_counted(mode: str) -> None:
    """As an autoencoder does. torch takes both apart by functions of its own, which ask for a memory format."""
    with counted(), FlopCounterMode(display=False):
        there = torch.zeros(1, 2, 4, 4, device=GPU).to(memory_format=torch.channels_last)
        larger = nn.functional.interpolate(there, scale_factor=2.0, mode=mode)
        assert (larger.shape, larger.device.type) == ((1, 2, 8, 8), "cuda")


def test_afterwards_torch_is_as_before() -> None:
    def state() -> tuple[object, ...]:
        storage, tensor = torch.UntypedStorage.data_ptr, torch.Tensor.contiguous
        return (nn.Module._apply, torch.cuda.is_available, torch.version.cuda, storage, tensor)  # noqa: SLF001

    before = state()
    with counted():
        pass
    assert state() == before
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device=GPU)
