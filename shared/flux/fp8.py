"""Weights out of safetensors files at full width, fp8 ones multiplied by their scales.

A raw fp8 file holds the weights rounded. A scaled one holds each weight divided by a scale, so that it uses the range
of fp8, and beside `layer.weight` either `layer.scale_weight` (with a tensor named `scaled_fp8` that marks such a file)
or `layer.weight_scale` and `layer.comfy_quant`, JSON in bytes that names the format; some files name it in their
metadata instead. Input scales serve the multiplication in fp8 and say nothing of the weights.

Sources: ComfyUI `QUANTIZATION.md` and `comfy/ops.py`; safetensors' format.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from shared.contracts.errors import Permanent

WEIGHT: Final = ".weight"
SCALES: Final = (".scale_weight", ".weight_scale")
FORMAT: Final = ".comfy_quant"
ASIDE: Final = (".scale_input", ".input_scale", FORMAT)
MARK: Final = "scaled_fp8"
METADATA: Final = "_quantization_metadata"
FORMATS: Final = ("float8_e4m3fn", "float8_e5m2")
NARROW: Final = (torch.float8_e4m3fn, torch.float8_e5m2)
FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16, *NARROW)
BITS: Final = {2: torch.int16, 4: torch.int32}


def dequantised(weight: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """A weight times its scale, computed in fp32 and rounded once.

    Args:
        weight: [out, ...], of any floating type.
        scale: one value, or one for each output ([out] or [out, 1]); None is 1.
        dtype: of the result.

    Raises:
        Permanent: the scale is of another shape.
    """
    if scale is None or scale.numel() == 1:
        return _looked_up(weight, torch.ones(()) if scale is None else scale.reshape(()), dtype)
    if scale.shape not in {weight.shape[:1], (*weight.shape[:1], 1)}:
        raise Permanent(
            f"A scale of shape {list(scale.shape)} for a weight of {list(weight.shape)} is neither one for all nor one "
            "for each row. Use a file scaled so, or the one in bf16."
        )
    return (weight.float() * scale.float().reshape(-1, *[1] * (weight.ndim - 1))).to(dtype)


def _looked_up(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight times one scale. fp8 has 256 values: on a CPU their products are looked up, 4 to 8 times faster."""
    if weight.dtype not in NARROW:
        return weight.to(dtype) if scale == 1.0 else (weight.float() * scale.float()).to(dtype)
    if weight.device.type != "cpu":
        return (weight.float() * scale.float()).to(dtype)
    products = (torch.arange(256).byte().view(weight.dtype).float() * scale.float()).to(dtype)
    bits = BITS[dtype.itemsize]
    picked = np.take(products.view(bits).numpy(), weight.view(torch.uint8).numpy())
    return torch.from_numpy(np.asarray(picked)).view(dtype)


def stored_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """The weights' names and shapes, from the files' headers. What only serves a quantised weight is left out.

    Raises:
        Permanent: as `opened`.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with opened(path) as file:
            names = set(file.keys())
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in names if not _is_aside(name, names)}
    return shapes


def read_weights(
    files: Iterable[Path],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    wanted: Callable[[str], bool] = lambda _: True,
) -> dict[str, torch.Tensor]:
    """Weights by name, at full width. One tensor at a time is moved and widened.

    What belongs to a quantised weight (scales, marks) is used up; a scale without its weight stays in the result.

    Args:
        files: safetensors files.
        dtype: of the weights returned.
        device: where they are to lie.
        wanted: of a name, whether to read it.

    Raises:
        Permanent: a file is no safetensors file, is damaged, or holds weights in another format than fp8 or floats.
    """
    weights: dict[str, torch.Tensor] = {}
    for path in files:
        with opened(path) as file:
            weights |= _weights_of(file, path, dtype, device, wanted)
    return weights


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, memory-mapped. Other kinds are refused: unpickling a file runs what is in it.

    Raises:
        Permanent: it is of another kind, absent or damaged.
    """
    if path.suffix != ".safetensors":
        raise Permanent(f"{path.name} is no safetensors file. Pickled weights are never loaded; convert them first.")
    if not path.is_file():
        raise Permanent(f"There is no file {path.name} in {path.parent}. Fetch the model again.")
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise Permanent(f"{path.name} is damaged ({error}). Fetch the model again.") from error
    with file:
        yield file


def _is_aside(name: str, names: Collection[str]) -> bool:
    """Whether a tensor only serves a quantised weight among `names`."""
    if name.rpartition(".")[2] == MARK:
        return True
    suffix = next((end for end in (*SCALES, *ASIDE) if name.endswith(end)), None)
    return suffix is not None and name.removesuffix(suffix) + WEIGHT in names


def _weights_of(
    file: Any, path: Path, dtype: torch.dtype, device: torch.device | str, wanted: Callable[[str], bool]
) -> dict[str, torch.Tensor]:
    names = set(file.keys())
    marked = _formats(file, path, names)
    for layer, written in marked.items():
        if written not in FORMATS and wanted(layer):
            raise Permanent(
                f"{path.name} holds {layer} as {written}; {' and '.join(FORMATS)} can be read. Use another version."
            )
    weights: dict[str, torch.Tensor] = {}
    for name in file.keys():  # noqa: SIM118 - no mapping
        if _is_aside(name, names) or not wanted(name):
            continue
        layer = name.removesuffix(WEIGHT)
        scale = next((layer + end for end in SCALES if layer + end in names), None) if name.endswith(WEIGHT) else None
        if layer in marked and name.endswith(WEIGHT) and scale is None:
            raise Permanent(f"{path.name} names no scale for {name}, which it says is quantised. Fetch it again.")
        stored = file.get_tensor(name)
        if stored.dtype not in FLOATS:
            raise Permanent(f"{path.name} holds {name} as {stored.dtype}; fp8 and wider can be read.")
        weights[name] = dequantised(
            stored.to(device), None if scale is None else file.get_tensor(scale).to(device), dtype
        )
    return weights


def _formats(file: Any, path: Path, names: set[str]) -> dict[str, str]:
    """Layer to the format that the file says it is in."""
    try:
        described = dict(json.loads((file.metadata() or {}).get(METADATA, "{}")).get("layers", {}))
        for name in names:
            if name.endswith(FORMAT):
                described[name.removesuffix(FORMAT)] = json.loads(bytes(file.get_tensor(name).tolist()))
        return {layer: str(about.get("format")) for layer, about in described.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise Permanent(f"{path.name} does not say in JSON how it is quantised ({error}). Fetch it again.") from error
