"""Torch modules under a residency. The device is the CPU here: what is proven is the books and the objects."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

from shared.contracts.errors import Permanent
from shared.flux.residents import ModuleResident, bytes_of
from shared.models.residency import Budget, Residency

LINEAR_BYTES = (8 * 8 + 8) * 4


class Tied(nn.Module):
    """Two names for one parameter, another parameter that is a view of it, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(8, 8)
        self.same = nn.Linear(8, 8)
        self.same.weight = self.one.weight
        self.view = nn.Parameter(self.one.weight.detach())
        self.register_buffer("steps", torch.arange(4))


def copied(tensor: Tensor) -> Tensor:
    """Stands for another device: it makes a new tensor, as a copy to one does."""
    return tensor.clone()


def halves(module: nn.ParameterList) -> list[Tensor]:
    """What the first weight is made of."""
    whole: Any = module[0]
    return [whole.a, whole.b]


class Machine:
    """Linear layers of one size, and how often each was read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def linear(self, name: str) -> ModuleResident[nn.Linear]:
        def read() -> nn.Linear:
            self.read.append(name)
            return nn.Linear(8, 8)

        return ModuleResident(name, read, LINEAR_BYTES, "cpu")


def test_shared_tensors_count_once_and_buffers_count() -> None:
    own_bias_bytes = 2 * 8 * 4
    assert bytes_of(Tied()) == 8 * 8 * 4 + own_bias_bytes + 4 * 8


def test_what_two_modules_share_counts_once() -> None:
    one, other = nn.Linear(8, 8), nn.Linear(8, 8)
    other.weight = one.weight
    assert bytes_of(one, other) == LINEAR_BYTES + 8 * 4


def test_two_users_share_one_module() -> None:
    """As generate and the detailers share the FLUX base: read once, one object."""
    machine, residency = Machine(), Residency(Budget(LINEAR_BYTES, LINEAR_BYTES))
    with (
        residency.use("base", lambda: machine.linear("base")) as generate,
        residency.use("base", lambda: machine.linear("base")) as detailer,
    ):
        assert generate is detailer
    assert machine.read == ["base"]
    assert residency.figures().device_bytes == LINEAR_BYTES


def test_a_module_comes_back_from_host_memory_as_the_same_object_with_the_same_weights() -> None:
    machine, residency = Machine(), Residency(Budget(LINEAR_BYTES, 2 * LINEAR_BYTES))
    with residency.use("base", lambda: machine.linear("base")) as before:
        weight = before.weight.detach().clone()
        parameter = before.weight
    with residency.use("other", lambda: machine.linear("other")):
        assert residency.on_host() == {"base"}
    with residency.use("base", lambda: machine.linear("base")) as after:
        assert after is before
        assert after.weight is parameter
        assert torch.equal(after.weight, weight)
    assert machine.read == ["base", "other"]


def test_moving_keeps_tied_weights_tied_and_types() -> None:
    resident = ModuleResident("tied", Tied, bytes_of(Tied()), "cpu")
    module = resident.load()
    before = module.one.weight.detach().clone()
    resident._move(copied)  # noqa: SLF001  # this machine has one device only
    assert module.one.weight is module.same.weight
    assert module.view.data_ptr() == module.one.weight.data_ptr()
    assert torch.equal(module.one.weight, before)
    assert isinstance(module.view, nn.Parameter)
    assert cast(Tensor, module.steps).dtype == torch.int64
    assert bytes_of(module) == resident.bytes


def test_a_module_larger_than_was_said_is_refused_and_leaves_nothing() -> None:
    residency = Residency(Budget(10_000, 10_000))
    resident = ModuleResident("base", lambda: nn.Linear(8, 8), LINEAR_BYTES - 1, "cpu")
    with pytest.raises(Permanent, match=r"\(288 bytes\).*\(287 bytes\)"), residency.use("base", lambda: resident):
        pytest.fail("it was given out")
    assert (residency.figures().device_bytes, residency.figures().host_bytes) == (0, 0)


def test_weights_that_are_several_tensors_in_one_are_counted_and_moved_whole() -> None:
    """As quantised weights are. Tied under two names, to prove that the second visit changes nothing."""

    def read() -> nn.ParameterList:
        weight = nn.Parameter(TwoTensor(torch.ones(4, 4), torch.zeros(4, 4)))
        return nn.ParameterList([weight, weight])

    resident = ModuleResident("quantised", read, 2 * 4 * 4 * 4, "cpu")
    module = resident.load()
    assert bytes_of(module) == resident.bytes
    parts = [part.data_ptr() for part in halves(module)]
    resident._move(copied)  # noqa: SLF001  # this machine has one device only
    assert module[0] is module[1]
    assert isinstance(module[0], nn.Parameter)
    assert [part.sum().item() for part in halves(module)] == [16, 0]
    assert {part.data_ptr() for part in halves(module)}.isdisjoint(parts)


@pytest.mark.parametrize(
    ("device", "begun", "told"),
    [("cuda", True, ["device", "host"]), ("cuda", False, ["device"]), ("cpu", True, [])],
)
def test_a_dropped_models_memory_goes_back_to_the_machine(
    monkeypatch: pytest.MonkeyPatch, device: str, begun: bool, told: list[str]
) -> None:
    """Torch keeps what was pinned, for the next to be parked: 24 GB that the books call free are not."""
    found: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: begun)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: found.append("device"))
    monkeypatch.setattr(torch.accelerator, "empty_host_cache", lambda: found.append("host"))
    ModuleResident("base", lambda: nn.Linear(8, 8), LINEAR_BYTES, device).drop()
    assert found == told
