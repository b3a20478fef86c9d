"""How much memory there is, and how a card of a given size holds the models of all stages."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from shared.contracts.errors import ResourceExhausted
from shared.models.residency import Smaller, gigabytes

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


class Weights(BaseModel):
    """A model to be placed: name, role and bytes are those of the catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: str
    memory_bytes: NonNegativeInt
    fp8_bytes: NonNegativeInt | None = Field(default=None, description="None where it is fp8 already, or cannot be")


class CardPlan(BaseModel):
    """How a card of a size holds the models. Roles that are not named as offloaded stay on the card.

    The offloaded models take turns there: it must have room for the largest of them beside the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    card_bytes: NonNegativeInt
    offloaded: frozenset[str]
    fp8: frozenset[str] = Field(
        default=frozenset(), description="roles whose models are loaded in fp8 where they can be"
    )


class Placement(BaseModel):
    """Which models stay on the card and which take turns, and what that needs, working memory included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: str
    resident: tuple[str, ...]
    offloaded: tuple[str, ...]
    fp8: tuple[str, ...]
    needs_bytes: NonNegativeInt


WORKING_BYTES = 6_000_000_000
"""For activations at 1024 x 1024 and the CUDA context. A bf16 FLUX pipeline of 34.2 GB of weights was reported by
cache-dit to take 38 GiB (40.8 GB) on an L20."""

LARGE = frozenset({"transformer", "text encoder"})

PLANS = (
    CardPlan(name="80 GB", card_bytes=80_000_000_000, offloaded=frozenset()),
    CardPlan(name="40 GB", card_bytes=40_000_000_000, offloaded=LARGE),
    CardPlan(name="24 GB", card_bytes=24_000_000_000, offloaded=LARGE, fp8=frozenset({"transformer"})),
)
"""The most comfortable first: all in bf16; the transformers and T5 taking turns; the transformers in fp8 as well."""


def place(plan: CardPlan, models: Sequence[Weights]) -> Placement:
    """What a plan makes of these models, whether it fits or not. Each model's name occurs once."""
    fp8 = {model.name: model.fp8_bytes for model in models if model.role in plan.fp8 and model.fp8_bytes is not None}
    sizes = {model.name: fp8.get(model.name, model.memory_bytes) for model in models}
    offloaded = tuple(model.name for model in models if model.role in plan.offloaded)
    resident = tuple(model.name for model in models if model.role not in plan.offloaded)
    staying = sum(sizes[name] for name in resident)
    largest = max((sizes[name] for name in offloaded), default=0)
    return Placement(
        plan=plan.name,
        resident=resident,
        offloaded=offloaded,
        fp8=tuple(fp8),
        needs_bytes=staying + largest + WORKING_BYTES,
    )


def plan_for(free_device_bytes: int, models: Sequence[Weights]) -> Placement:
    """The most comfortable plan that these models fit in.

    Raises:
        ResourceExhausted: none does; says what the smallest needs.
    """
    placements = [place(plan, models) for plan in PLANS]
    for placement in placements:
        if placement.needs_bytes <= free_device_bytes:
            return placement
    smallest = min(placements, key=lambda placement: placement.needs_bytes)
    raise ResourceExhausted(
        f"The smallest plan, {smallest.plan}, needs {gigabytes(smallest.needs_bytes)} on the device for "
        f"{', '.join(model.name for model in models)}, and {gigabytes(free_device_bytes)} are free. Free the device of "
        "other processes, run fewer stages in this process, or use a larger device."
    )


def smaller_plans(bf16_bytes: int, largest_block_bytes: int) -> tuple[Smaller, ...]:
    """What to propose for a bf16 model that does not fit, the best picture first.

    fp8 halves it. nf4 takes 4.5 bits a weight: 4, and an fp32 scale for 64 of them (T. Dettmers et al., "QLoRA", 2023).
    Block by block, two blocks are on the device at a time, one computing while the next one comes, and all in host
    memory.
    """
    fp8, nf4 = bf16_bytes // 2, bf16_bytes * 9 // 32
    return (
        Smaller("offload block by block", 2 * largest_block_bytes, bf16_bytes),
        Smaller("fp8", fp8, fp8),
        Smaller("nf4", nf4, nf4),
    )
