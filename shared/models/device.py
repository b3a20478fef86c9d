"""A GPU that was asked for and is not there is an error, never a slow run on the CPU without a word."""

import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from shared.contracts.errors import Permanent

DEVICE = "DOCTORGEN_DEVICE"
"""Environment: where GPU engines compute. `cuda` where absent, `cuda:<index>` or `cpu`."""


def wanted_device() -> str:
    """The device that the environment names."""
    return os.environ.get(DEVICE, "cuda")


class TorchFacts(BaseModel):
    """What an installed torch can do here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    cuda_build: str | None
    """The CUDA version that it was built for; None in a CPU build."""
    devices: NonNegativeInt
    """How many CUDA devices it can use."""


def torch_facts() -> TorchFacts | None:
    """What torch says of itself, or None where it is not installed. Imports it."""
    if find_spec("torch") is None:
        return None
    torch = import_module("torch")  # by name, when asked: this module is read by what must start without torch
    return TorchFacts(
        version=str(torch.__version__), cuda_build=torch.version.cuda, devices=int(torch.cuda.device_count())
    )


def require_device(name: str, facts: TorchFacts | None) -> str:
    """The device's name, once it is certain that torch can compute there.

    Args:
        name: "cpu", "cuda" or "cuda:<index>".
        facts: from `torch_facts`.

    Raises:
        Permanent: it cannot; says why and what would help.
    """
    kind, colon, number = name.partition(":")
    if facts is None:
        raise Permanent(f"The device {name} was asked for, and torch is not installed. Install the GPU engines.")
    if name == "cpu":
        return name
    if kind != "cuda" or (colon and not (number.isascii() and number.isdecimal())):
        raise Permanent(f"There is no device {name}. Say cpu, cuda or cuda:<index>.")
    if facts.cuda_build is None:
        raise Permanent(
            f"{name} was asked for, and torch {facts.version} is a build without CUDA: it would compute on the CPU. "
            "Install torch's CUDA build, or ask for cpu."
        )
    if int(number or 0) >= facts.devices:
        raise Permanent(
            f"{name} was asked for, and torch {facts.version} (CUDA {facts.cuda_build}) finds {facts.devices} CUDA "
            "devices. Check nvidia-smi, the driver's version, CUDA_VISIBLE_DEVICES and that the container was given "
            "a GPU."
        )
    return name


def check_providers(session_providers: Sequence[str], wanted: str) -> None:
    """Make sure that an ONNX session runs where it was meant to.

    onnxruntime-gpu offers CUDA in `get_available_providers()` also where no GPU is, and then falls back in silence;
    only `session.get_providers()` tells the truth.

    Args:
        session_providers: from `session.get_providers()`.
        wanted: such as "CUDAExecutionProvider".

    Raises:
        Permanent: the session does not have the provider.
    """
    if wanted not in session_providers:
        raise Permanent(
            f"The ONNX session was to run with {wanted} and runs with {', '.join(session_providers) or 'none'}: it "
            "fell back in silence. Check that onnxruntime-gpu is installed and not onnxruntime beside it, that its "
            "CUDA and cuDNN versions are there, and that the process sees a GPU."
        )
