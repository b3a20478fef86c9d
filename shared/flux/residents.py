"""Torch modules that a Residency can load, move between the device and host memory, and drop."""

import gc
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from shared.contracts.errors import Permanent
from shared.models.residency import Smaller, gigabytes

Module = TypeVar("Module", bound=nn.Module)

TensorKey = tuple[object, ...]


def bytes_of(*modules: nn.Module) -> int:
    """What the parameters and buffers of these modules hold, each storage once however many tensors share it."""
    held = (tensor for module in modules for tensor in chain(module.parameters(), module.buffers()))
    storages = (plain.untyped_storage() for tensor in held for plain in _plain(tensor))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class ModuleResident(Generic[Module]):
    """One module as a Resident (shared.models.residency). A pipeline's parts that are used together: an nn.ModuleDict.

    On a CUDA device the module waits in pinned host memory, from where copies to the device run at the full speed of
    the bus. torch rounds each pinned tensor up to a power of two, so host memory holds more than `bytes` then.

    Args:
        name: what people call it.
        read: reads the module into host memory.
        size_bytes: what it takes, at most; known before it is read (see the catalogue).
        device: where it computes; "cpu" moves nothing.
        smaller: what to propose where it does not fit.
        device_bytes: what it takes on the device, where that is less, because its parts take turns there.
        host_bytes: what of it stays in host memory then.
        moves: what of it moves to the device and back as a whole.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], Module],
        size_bytes: int,
        device: str | torch.device,
        smaller: Sequence[Smaller] = (),
        device_bytes: int | None = None,
        host_bytes: int = 0,
        moves: Callable[[Module], nn.Module] = lambda module: module,
    ) -> None:
        self.name = name
        self.bytes = size_bytes
        self.smaller = smaller
        self.device_bytes = size_bytes if device_bytes is None else device_bytes
        self.host_bytes = host_bytes
        self._moves = moves
        self._read = read
        self._device = torch.device(device)
        self._module: Module | None = None

    def load(self) -> Module:
        """Read the module; it stays the same object until it is dropped.

        Raises:
            Permanent: it is larger than was said, which would break the budget.
        """
        module = self._read()
        found = bytes_of(module)
        if found > self.bytes:
            raise Permanent(
                f"{self.name} takes {gigabytes(found)} ({found} bytes) and was said to take {gigabytes(self.bytes)} "
                f"({self.bytes} bytes). Correct its memory_bytes, or load it at the precision that was meant."
            )
        self._module = module
        return module

    def to_device(self) -> None:
        """Move parameters and buffers to the device and wait until they are there."""
        self._move(lambda tensor: tensor.to(self._device, non_blocking=True))

    def to_host(self) -> None:
        """Move parameters and buffers to host memory and wait until they are there."""
        self._move(self._on_host)

    def drop(self) -> None:
        """Let go of the module; what its users still hold lives on until they let go of it.

        Modules whose `forward` was replaced refer to themselves: only the collector frees them.
        """
        self._module = None
        gc.collect()
        self._give_back()
        if self._device.type == "cuda" and torch.cuda.is_initialized():
            torch.accelerator.empty_host_cache()  # what was pinned; not after each move, since pinning takes seconds

    def _move(self, moved: Callable[[Tensor], Tensor]) -> None:
        """Replace what the module's tensors hold; tensors that were one stay one.

        The old tensors are kept until all are copied: the copies may still be running, and no new tensor can lie where
        an old one lay that is looked up by its address.
        """
        if self._module is None:
            raise RuntimeError(f"{self.name} is not loaded")
        kept: dict[TensorKey, tuple[Tensor, Tensor]] = {}

        def once(tensor: Tensor) -> Tensor:
            old = tensor.detach()
            if _key(old) not in kept:
                new = moved(old)
                kept[_key(old)] = kept[_key(new)] = (old, new)
            return kept[_key(old)][1].detach()  # an alias: torch may swap what it is given with what it has

        # what Module.to() uses itself, which has no way to pin
        apply: Callable[[Callable[[Tensor], Tensor]], nn.Module] = self._moves(self._module)._apply  # noqa: SLF001
        with torch.no_grad():
            apply(once)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        kept.clear()
        self._give_back()

    def _on_host(self, tensor: Tensor) -> Tensor:
        if self._device.type != "cuda":
            return tensor.to("cpu")
        if is_traceable_wrapper_subclass(tensor):  # quantised weights: several tensors in one, which torch moves itself
            return tensor.to("cpu")
        return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)

    def _give_back(self) -> None:
        """Free what torch keeps of the device for later: ONNX sessions in this process need it, too."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor, or those that a quantised one is made of."""
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _plain(getattr(tensor, name))
    else:
        yield tensor


def _key(tensor: Tensor) -> TensorKey:
    """The same for tensors that are the same view of the same bytes."""
    parts = [(part.data_ptr(), part.shape, part.stride(), part.dtype) for part in _plain(tensor)]
    return (tensor.device, *parts)
