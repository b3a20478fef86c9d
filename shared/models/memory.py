"""How much memory there is, and where a transformer's weights lie in it while the model runs."""

from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from shared.contracts.errors import ResourceExhausted
from shared.models.residency import Budget, gigabytes

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


class Memory(BaseModel):
    """The bytes of a device, or of what this process may have of the machine's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    total_bytes: NonNegativeInt
    free_bytes: NonNegativeInt


def host_memory(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> Memory:
    """The machine's memory, or what the process's control groups leave it of it: a container's limit counts."""
    machine = psutil.virtual_memory()
    rooms = [Memory(total_bytes=machine.total, free_bytes=machine.available), *_limits(cgroups, membership)]
    return Memory(
        total_bytes=min(room.total_bytes for room in rooms), free_bytes=min(room.free_bytes for room in rooms)
    )


def device_memory(index: int = 0) -> Memory | None:
    """A CUDA device's memory, other processes' share taken off; None without torch or without CUDA.

    For a process that runs models: it imports torch.
    """
    if find_spec("torch") is None:
        return None
    torch = import_module("torch")  # by name, when asked: whoever reads the catalogue must not wait for torch
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info(index)
    return Memory(total_bytes=total, free_bytes=free)


def _limits(cgroups: Path, membership: Path) -> list[Memory]:
    """What each memory control group that the process is in allows it, for version 1 and 2 of control groups.

    A group's limit holds for the groups within it, too. Inside a container the path that the kernel tells may begin
    outside of what is mounted; then the mount's root is the container's own group.
    """
    found = []
    for line in membership.read_text("utf-8").splitlines() if membership.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            mount, limit, usage, cache = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        elif not controllers:
            mount, limit, usage, cache = cgroups, "memory.max", "memory.current", ""
        else:
            continue
        own = mount / path.lstrip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(mount) and (group / limit).is_file():
                found += _limit(group, limit, usage, f"{cache}inactive_file")
    return found


def _limit(group: Path, limit: str, usage: str, cache: str) -> list[Memory]:
    told = (group / limit).read_text("utf-8").strip()
    if not told.isdecimal():  # "max"
        return []
    total = int(told)
    used = int((group / usage).read_text("utf-8"))
    stat = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text("utf-8").splitlines())
    reclaimable = int(stat.get(cache, 0))  # files that the kernel lets go of before it runs out of memory
    return [Memory(total_bytes=total, free_bytes=max(0, total - max(0, used - reclaimable)))]


WORKING_BYTES = 6_000_000_000
"""For activations at 1024 x 1024 and the CUDA context. A bf16 FLUX pipeline of 34.2 GB of weights was reported by
cache-dit to take 38 GiB (40.8 GB) on an L20."""


class Footprint(BaseModel):
    """What a transformer's weights take once they are ready to compute, in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: NonNegativeInt
    largest_block: NonNegativeInt
    largest_layer: NonNegativeInt
    outside_blocks: NonNegativeInt
    to_load: NonNegativeInt = Field(default=0, description="in host memory until they are ready, where that is more")


class Plan(StrEnum):
    """Where the weights lie while the model runs, fastest first."""

    RESIDENT = "resident"
    GROUP_OFFLOAD = "group offload"
    SEQUENTIAL = "sequential offload"


class Need(BaseModel):
    """What a plan takes of each place, in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device_bytes: NonNegativeInt
    host_bytes: NonNegativeInt

    def fits(self, budget: Budget) -> bool:
        """Whether an empty machine of that budget has the room."""
        return self.device_bytes <= budget.device_bytes and self.host_bytes <= budget.host_bytes


def needs(of: Footprint, beside: int) -> dict[Plan, Need]:
    """What each plan takes. All are loaded into host memory first.

    Resident has all weights on the device. Group offload keeps them in host memory and two blocks on the device, one
    that computes and one that arrives. Sequential keeps one layer there, and is many times slower.

    Args:
        of: the transformer.
        beside: bytes of what is always on the device with it: its autoencoder, its identity modules.
    """
    device = {
        Plan.RESIDENT: of.weights,
        Plan.GROUP_OFFLOAD: of.outside_blocks + 2 * of.largest_block,
        Plan.SEQUENTIAL: of.largest_layer,
    }
    host = max(of.weights, of.to_load) + beside
    return {plan: Need(device_bytes=on_device + beside, host_bytes=host) for plan, on_device in device.items()}


def plan_for(name: str, of: Footprint, beside: int, budget: Budget, first: Plan = Plan.RESIDENT) -> Plan:
    """The fastest plan that fits a budget, from `first` on.

    Raises:
        ResourceExhausted: none fits; the message says what each would need. Nothing has been loaded.
    """
    plans = list(Plan)
    possible = {plan: need for plan, need in needs(of, beside).items() if plans.index(plan) >= plans.index(first)}
    for plan, need in possible.items():
        if need.fits(budget):
            return plan
    wants = "; ".join(
        f"{plan.value} needs {gigabytes(need.device_bytes)} and {gigabytes(need.host_bytes)}"
        for plan, need in possible.items()
    )
    raise ResourceExhausted(
        f"{name} does not fit: models may take {gigabytes(budget.device_bytes)} on the device and "
        f"{gigabytes(budget.host_bytes)} of host memory. {wants}. Free memory of other processes, or use a larger "
        "machine."
    )
