"""Networks that make a picture of a picture: face restorers and upscalers, in spandrel's architectures.

Read from safetensors files only; pickles are converted first, on an operator's command. What a file holds is told from
its tensors' names, whatever it is called.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from spandrel import MAIN_REGISTRY, ModelTiling, canonicalize_state_dict
from torch import Tensor, nn

from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.residents import ModuleResident
from shared.flux.tensors import shapes, tensors
from shared.vision.networks.restoreformer import RestoreFormerPlusPlusArch

Kind = Literal["face restorer", "upscaler"]
"""As the catalogue calls their roles."""

ARCHITECTURES: Mapping[Kind, Sequence[Any]] = {
    "face restorer": (
        MAIN_REGISTRY["GFPGAN"].architecture,
        RestoreFormerPlusPlusArch(),
        MAIN_REGISTRY["RestoreFormer"].architecture,
    ),
    "upscaler": (MAIN_REGISTRY["ESRGAN"].architecture, MAIN_REGISTRY["Compact"].architecture),
}
"""Those that are looked for, in this order; besides them CodeFormer, which `spandrel_extra_arches` has."""

CODEFORMER = frozenset({"position_emb", "idx_pred_layer.1.weight", "encoder.blocks.0.weight"})
"""Tensors that only CodeFormer has."""

TRAINING = "loss."
"""What names begin with of tensors that only training uses: RestoreFormer's checkpoints may have them."""

WITHIN = "vqvae."
"""What all other names begin with in those."""

SHOWN = 400
"""Letters of a list of tensors in an error."""


class ImageModel(nn.Module):
    """A network, and what is to be known of it.

    Attributes:
        name: what people call it.
        architecture: spandrel's name for it.
        kind: what it is for.
        network: takes float pixels [B, 3, H, W]; their range and what else it takes are the architecture's own.
        scale: how many times its picture is as wide as the one it is given.
        multiple: of how many pixels both sides of that must be.
    """

    def __init__(self, name: str, kind: Kind, descriptor: Any) -> None:
        super().__init__()
        self.name = name
        self.kind = kind
        self.architecture = str(descriptor.architecture.id)
        self.network: nn.Module = descriptor.model
        self.scale = int(descriptor.scale)
        self.multiple = int(descriptor.size_requirements.multiple_of)


def precision(kind: Kind, device: str) -> torch.dtype:
    """What a network computes in: upscalers on a GPU in fp16, all else in fp32.

    In bf16 levels near white are two of 255 apart. Restorers are made for fp32 (spandrel names none that can do
    fp16), and a face is small.
    """
    return torch.float16 if kind == "upscaler" and device != "cpu" else torch.float32


def image_model_key(path: Path, kind: Kind, device: str) -> str:
    """What a Residency knows `image_model_resident` by."""
    return f"{path} in {precision(kind, device)} on {device}"


def image_model_resident(
    path: Path, kind: Kind, device: str, field: str = "model", name: str | None = None
) -> ModuleResident[ImageModel]:
    """The network as a Resident, in the precision for that device. Reads the file's header.

    Args:
        path: of its safetensors file.
        kind: what it is to be.
        device: `cpu`, `cuda` or `cuda:<index>`.
        field: the parameter that names the model, for errors.
        name: what people call it; the file's name where None.

    Raises:
        Permanent: the file cannot be read. Loading raises what `load_image_model` does.
    """
    dtype, called = precision(kind, device), name or path.stem
    return ModuleResident(
        f"{called} in {dtype}",
        lambda: load_image_model(path, kind, dtype, field, called),
        stored_bytes(path, dtype),
        device,
    )


def stored_bytes(path: Path, dtype: torch.dtype) -> int:
    """What a network takes in a precision; reads its file's header only.

    Raises:
        Permanent: it cannot be read.
    """
    _refuse_pickle(path)
    return sum(math.prod(shape) for shape in shapes(path).values()) * dtype.itemsize


def load_image_model(
    path: Path, kind: Kind, dtype: torch.dtype = torch.float32, field: str = "model", name: str | None = None
) -> ImageModel:
    """Read a network, ready for inference, into host memory.

    Args:
        path: of its safetensors file.
        kind: what it is to be.
        dtype: of its weights in memory.
        field: the parameter that names the model, for errors.
        name: what people call it; the file's name where None.

    Raises:
        InvalidInput: it is of the other kind.
        Permanent: the file is none of safetensors, of an unknown architecture, or lacks tensors, or holds others.
    """
    _refuse_pickle(path)
    names = _own_names(shapes(path))
    found, architecture = _recognised(path, names.values())
    if found != kind:
        article = {"face restorer": "a", "upscaler": "an"}
        raise InvalidInput(
            field,
            f"{name or path.stem} is {article[found]} {found} ({architecture.id})",
            f"Name {article[kind]} {kind}.",
        )
    stored = tensors(path, names, torch.float32, "cpu")
    state = {names[one]: tensor for one, tensor in stored.items()}
    descriptor = _loaded(path, architecture, state)
    _refuse_left_over(path, architecture, state, descriptor.model)
    if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
        raise Permanent(
            f"{path.name} makes {descriptor.output_channels} channels of {descriptor.input_channels}: it is not made "
            "for pictures in colour. Name another model."
        )
    if descriptor.tiling is not ModelTiling.SUPPORTED:
        raise Permanent(f"{path.name} ({architecture.id}) was not made to see a picture in tiles. Name another model.")
    model = ImageModel(name or path.stem, kind, descriptor)
    return model.to(dtype).eval().requires_grad_(requires_grad=False)


def check_finite(name: str, pixels: Tensor) -> None:
    """See that a network gave numbers.

    Raises:
        Permanent: some pixels are NaN or infinite.
    """
    if not bool(torch.isfinite(pixels).all()):
        raise Permanent(
            f"{name} gave pixels that are no numbers. `doctorgen models verify {name}` says whether its weights are "
            "damaged; if they are not, name another model."
        )


def _refuse_pickle(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise Permanent(
            f"{path} is no safetensors file, and no other kind is loaded. `doctorgen models convert "
            f"{path.parent.name}` makes one of a pickle."
        )


def _own_names(stored: Iterable[str]) -> dict[str, str]:
    """Of each tensor that a network is made of, by its name in the file, the network's own name for it."""
    wanted = [name for name in stored if not name.startswith(TRAINING)]
    shared = WITHIN if wanted and all(name.startswith(WITHIN) for name in wanted) else ""
    short: Mapping[str, str] = canonicalize_state_dict({name.removeprefix(shared): name for name in wanted})
    return {name: own for own, name in short.items()}


def _recognised(path: Path, names: Iterable[str]) -> tuple[Kind, Any]:
    """What has tensors of these names."""
    known = dict.fromkeys(names)
    if known.keys() >= CODEFORMER:
        return "face restorer", _codeformer(path)
    for kind, architectures in ARCHITECTURES.items():
        for architecture in architectures:
            if architecture.detect(known):
                return kind, architecture
    raise Permanent(
        f"{path} holds no network that is known here: its tensors are {_short(', '.join(known))}. Known are the face "
        "restorers GFPGAN, CodeFormer, RestoreFormer and RestoreFormer++ and the upscalers ESRGAN and Real-ESRGAN."
    )


def _codeformer(path: Path) -> Any:
    """Imported only for who has its weights: the package holds code under licences that are not free."""
    if find_spec("spandrel_extra_arches") is None:
        raise Permanent(
            f"{path.name} is a CodeFormer, whose code is not installed (S-Lab License, non-commercial): install "
            "spandrel_extra_arches, or name GFPGANv1.4 or RestoreFormer++."
        )
    from spandrel_extra_arches.architectures.CodeFormer import (  # noqa: PLC0415
        CodeFormerArch,
    )

    return CodeFormerArch()


def _loaded(path: Path, architecture: Any, state: dict[str, Tensor]) -> Any:
    """The descriptor of the network with these weights; the library itself reads no file."""
    try:
        return architecture.load(state)
    except KeyError as error:
        said = f"the tensor {error} is missing, or one beside it"
    except Exception as error:  # noqa: BLE001 - whatever it stumbles over are the file's tensors
        said = "; ".join(_short(line.strip()) for line in str(error).splitlines()) or type(error).__name__
    raise Permanent(
        f"{path}: these are not the weights of {architecture.id} that its names promise. {said} "
        "Fetch the file again, or name the one that was published."
    )


def _refuse_left_over(path: Path, architecture: Any, state: Mapping[str, Tensor], network: nn.Module) -> None:
    """For ESRGAN, spandrel renames tensors and lets go of those it has no name for."""
    used = list(network.state_dict().values())
    if len(used) == len(state):
        return
    names = [
        name
        for name, tensor in state.items()
        if not any(one.shape == tensor.shape and torch.equal(one, tensor) for one in used)
    ]
    raise Permanent(
        f"{path}: {len(state) - len(used)} tensors more than {architecture.id} has, among them "
        f"{_short(', '.join(names))}. Fetch the file again, or name the one that was published."
    )


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} …"
