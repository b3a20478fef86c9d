"""The process's one Residency: every engine in it borrows its models there, so that they keep one budget together.

The budget is worked out at the first call, from what is free then:

- on a CUDA device its free memory, or as much of it as the setting `vram_gb` says, less the steps' working memory, and
  a share of host memory for what waits there;
- on a CPU both places are the same memory, so each gets half of that share.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shared.contracts.errors import ResourceExhausted
from shared.models.device import wanted_device
from shared.models.memory import WORKING_BYTES, Memory, device_memory, host_memory
from shared.models.residency import Budget, Figures, Residency, gigabytes
from shared.models.settings import vram_bytes

HOST_SHARE = 0.6
"""Of free host memory: torch rounds each pinned tensor up to a power of two, which makes half as much again of FLUX."""

_lock = threading.Lock()
_process: list[Residency] = []  # none until the first call, then one; on top of it those that are put in for a while


def residency() -> Residency:
    """The one that is in force; made at the first call.

    Raises:
        InvalidInput: as of a worker's settings.
        ResourceExhausted: less of the device is free than the setting `vram_gb` says.
    """
    with _lock:
        if not _process:
            _process.append(Residency(budget(_device(), host_memory(), vram_bytes())))
        return _process[-1]


def figures() -> Figures | None:
    """What it has done and holds, for a metrics endpoint; None where no engine has asked for it yet. Makes none."""
    with _lock:
        return _process[-1].figures() if _process else None


@contextmanager
def use_residency(other: Residency) -> Iterator[Residency]:
    """Put another in force until the block ends: for tests, and for programs that know their budget better."""
    with _lock:
        _process.append(other)
    try:
        yield other
    finally:
        with _lock:
            _process[:] = [one for one in _process if one is not other]


def budget(device: Memory | None, host: Memory, vram: int | None = None) -> Budget:
    """What models may take of a device's memory and of the host's.

    Args:
        device: None where the CPU computes.
        host: what this process may have of it.
        vram: how much of the device's memory models and working memory may take; all that is free where None.

    Raises:
        ResourceExhausted: less is free.
    """
    share = int(host.free_bytes * HOST_SHARE)
    if device is None:
        return Budget(share // 2, share // 2)
    if vram is not None and vram > device.free_bytes:
        raise ResourceExhausted(
            f"vram_gb says {gigabytes(vram)}, and of the device's {gigabytes(device.total_bytes)} only "
            f"{gigabytes(device.free_bytes)} are free. Set it lower, or end what else uses the device."
        )
    room = device.free_bytes if vram is None else vram
    return Budget(max(0, room - WORKING_BYTES), share)


def _device() -> Memory | None:
    """Of the device that the environment names; None where it names the CPU, or a GPU that is not there."""
    kind, _, index = wanted_device().partition(":")
    return device_memory(int(index) if index.isdecimal() else 0) if kind == "cuda" else None
