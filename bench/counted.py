"""A CUDA device that is not there: its tensors have shapes, dtypes and sizes, and no numbers.

Engines that are told to compute on `GPU` within `counted()` run as they would on a GPU, at full size and on any
machine: their tensors on the CPU are real, those on the device are torch's fake tensors, and what comes back from there
is zeros. So it can be seen what is live on the device at each moment, to the byte, and three mistakes that a CPU never
shows: an operation on tensors of two devices, a matrix product of two dtypes, which CUDA's kernels refuse, and numbers
read from a tensor that is still on the device. How fast it would be, and what it would paint, cannot be seen.

What is counted are tensors, each storage once, in the allocator's units of 512 bytes. A real peak is higher by what
kernels need beside them (cuBLAS and cuDNN workspaces), by the CUDA context, and by memory that the allocator cannot
give out again because it is in pieces. Attention is taken as of a kernel that never holds all weights at once, as all
do that CUDA chooses from.

Source: torch's FakeTensorMode, "Fake tensor", PyTorch's documentation, 2026.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch
from weakref import finalize

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

GPU: Final = "cuda:0"
MEMORY_BYTES: Final = 141 * 10**9
"""What the device says that it has: an H200."""
UNIT: Final = 512
"""The CUDA allocator's."""

_aten = torch.ops.aten
_ONE_DTYPE: Final = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.bmm.default,
        _aten.baddbmm.default,
        _aten.linear.default,
        _aten.convolution.default,
        _aten.native_layer_norm.default,
        _aten.native_group_norm.default,
    }
)
"""Their CUDA kernels take tensors of one dtype."""
_MAKING: Final = frozenset({torch.tensor, torch.as_tensor})
_DRAWN: Final = frozenset({_aten.uniform_.default, _aten.normal_.default})
_DRAWING: Final = frozenset({_aten.randn.default, _aten.rand.default})
_NUMBERS: Final[Mapping[Any, Callable[[Any], Any]]] = {
    Tensor.__bool__: lambda _: True,
    Tensor.__int__: int,
    Tensor.__float__: float,
    Tensor.item: lambda value: value,
    Tensor.tolist: lambda value: value,
}
_real_address = torch.UntypedStorage.data_ptr
_real_contiguous = Tensor.contiguous


class Memory(TorchDispatchMode):
    """What is on the device, and the most that ever was, in bytes; and how many operations it has done."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self.operations = 0
        self._fakes = FakeTensorMode()
        self._storages: set[int] = set()

    def restart(self) -> None:
        """Forget the peak."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """An operation: on the device where it has a tensor there or makes one, else as ever."""
        kwargs = kwargs or {}
        named = list(tree_iter((args, kwargs)))
        given = [one for one in named if isinstance(one, Tensor)]
        if not any(map(_there, named)):
            return func(*args, **kwargs)
        _refuse_dtypes(func, given)
        if func is _aten.copy_.default and not isinstance(args[0], FakeTensor):
            return args[0].zero_()
        if func in _DRAWN:
            return args[0]
        if func in _DRAWING:
            func = _aten.empty.memory_format
        self.operations += 1
        with self._fakes:
            made = func(*tree_map_only(Tensor, self._fake, args), **tree_map_only(Tensor, self._fake, kwargs))
        return tree_map_only(Tensor, self._seen, made)

    def _fake(self, given: Tensor) -> Tensor:
        return given if isinstance(given, FakeTensor) else self._fakes.from_tensor(given)

    def _seen(self, made: Tensor) -> Tensor:
        """Count it; what has come to the CPU is zeros."""
        if made.device.type != "cuda":
            return torch.zeros(made.shape, dtype=made.dtype)
        storage = made.untyped_storage()
        key, size = _address(storage), -(-storage.nbytes() // UNIT) * UNIT
        if key not in self._storages:
            self._storages.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            finalize(storage, self._freed, key, size)
        return made

    def _freed(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.live -= size


class Calls(TorchFunctionMode):
    """Calls that in a build without CUDA fail before they come to `Memory`, by others that do the same."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call of torch."""
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func in _MAKING and kwargs.get("device") is not None:
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        if not (args and isinstance(args[0], FakeTensor)):
            return func(*args, **kwargs)
        if func in _NUMBERS:
            return _NUMBERS[func](torch.zeros(args[0].shape, dtype=args[0].dtype).tolist())
        return _INSTEAD.get(func, func)(*args, **kwargs)


@contextmanager
def counted() -> Iterator[Memory]:
    """Within, torch has a CUDA device of MEMORY_BYTES."""
    memory = Memory()
    with ExitStack() as held:
        for module, name, instead in (
            (nn.Module, "_apply", _apply),
            (torch.UntypedStorage, "data_ptr", _address),
            (Tensor, "contiguous", _contiguous),  # not only by `Calls`: torch's own decompositions ask for it as well
            (torch.version, "cuda", "13.0"),
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "is_available", lambda: True),
            (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
            (torch.cuda, "synchronize", lambda *_: None),
            (torch.cuda, "empty_cache", lambda: None),
            (torch.cuda, "mem_get_info", lambda *_: (MEMORY_BYTES - memory.live, MEMORY_BYTES)),
        ):
            held.enter_context(patch.object(module, name, instead))
        held.enter_context(torch.no_grad())  # what is made for gradients asks CUDA for its streams
        held.enter_context(memory)
        held.enter_context(Calls())
        yield memory


def _no_numbers(tensor: Tensor) -> None:
    raise TypeError(f"numbers of a tensor on {tensor.device} were asked for: bring it to the CPU first")


def _like(tensor: Tensor, values: Any, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    return torch.tensor(values, dtype=dtype or tensor.dtype).to(device or tensor.device)


def _contiguous(tensor: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    if not isinstance(tensor, FakeTensor):
        return _real_contiguous(tensor, memory_format=memory_format)
    return tensor if tensor.is_contiguous(memory_format=memory_format) else tensor.clone(memory_format=memory_format)


def _set_part(whole: Tensor, index: Any, values: Any) -> None:
    _aten.copy_(_part(whole, index), torch.as_tensor(values))


def _there(one: Any) -> bool:
    return isinstance(one, FakeTensor) or (isinstance(one, torch.device) and one.type == "cuda")


def _refuse_dtypes(func: Any, given: list[Tensor]) -> None:
    kinds = {one.dtype for one in given if one.is_floating_point()}
    if func in _ONE_DTYPE and len(kinds) > 1:
        shapes = " and ".join(f"{one.dtype} {tuple(one.shape)}" for one in given)
        raise TypeError(f"{func} was given {shapes}: its CUDA kernel takes one dtype")


def _attention(query: Tensor, key: Tensor, value: Tensor, *more: Any, **kwargs: Any) -> Tensor:
    """As large as a kernel's answer, that holds nothing beside it; on the CPU the answer."""
    if not isinstance(query, FakeTensor):
        return nn.functional.scaled_dot_product_attention(query, key, value, *more, **kwargs)
    kinds = {(one.dtype, one.device) for one in (query, key, value)}
    if len(kinds) > 1:
        raise TypeError(f"attention was given tensors of {kinds}")
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


def _address(storage: torch.UntypedStorage) -> int:
    """One that no other has; what holds no numbers lies nowhere."""
    return storage._cdata if storage.device.type == "meta" else _real_address(storage)  # noqa: SLF001


def _part(whole: Tensor, index: Any) -> Tensor:
    """What `whole[index]` is, by integers, slices, None and an ellipsis, or by tensors of numbers."""
    wanted = index if isinstance(index, tuple) else (index,)
    named = sum(1 for one in wanted if one is not None and one is not Ellipsis)
    if any(isinstance(one, Tensor) for one in wanted):
        return _picked(whole, wanted)
    part, axis = whole, 0
    for one in wanted:
        if one is Ellipsis:
            axis += whole.dim() - named
        elif one is None:
            part, axis = part.unsqueeze(axis), axis + 1
        elif isinstance(one, slice):
            part, axis = _aten.slice(part, axis, one.start, one.stop, one.step or 1), axis + 1
        elif isinstance(one, int):
            part = part.select(axis, one)
        else:
            raise NotImplementedError(f"an index of {type(one).__name__} on a device without numbers")
    return part


def _picked(whole: Tensor, wanted: tuple[Any, ...]) -> Tensor:
    if any(not isinstance(one, Tensor) and one != slice(None) for one in wanted):
        raise NotImplementedError("an index of tensors and others on a device without numbers")
    picked: Tensor = _aten.index(whole, [one if isinstance(one, Tensor) else None for one in wanted])
    return picked


def _apply(self: nn.Module, moved: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, by new parameters: torch puts what is fake into none that is real."""
    for module in self.modules() if recurse else (self,):
        for name, weight in module._parameters.items():  # noqa: SLF001 - what it is for
            if weight is not None:
                made = nn.Parameter(moved(weight.detach()), requires_grad=weight.requires_grad)
                module._parameters[name] = made  # noqa: SLF001
        for name, buffer in module._buffers.items():  # noqa: SLF001
            if buffer is not None:
                module._buffers[name] = moved(buffer)  # noqa: SLF001
    return self


_INSTEAD: Final[Mapping[Any, Callable[..., Any]]] = {
    Tensor.__getitem__: _part,
    Tensor.__invert__: _aten.bitwise_not,
    Tensor.__setitem__: _set_part,
    Tensor.copy_: _aten.copy_,
    Tensor.data_ptr: lambda tensor: (
        _address(tensor.untyped_storage()) + tensor.storage_offset() * tensor.element_size()
    ),
    Tensor.new_tensor: _like,
    Tensor.numpy: _no_numbers,
}
"""Methods of tensors that ask CUDA for its device before they come to `Memory`, and others that do the same."""
