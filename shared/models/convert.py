"""Pickles of tensors to safetensors, once, on an operator's command. No worker ever opens a pickle.

The one module of the catalogue that imports torch, and therefore imported only by who converts.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from shared.contracts.errors import IntegrityError, Permanent

WRAPPERS = ("params_ema", "params", "state_dict", "model")
"""Keys under which trainers keep the weights, those of the running average first: GFPGAN and ESRGAN files have both."""


def to_safetensors(source: Path, target: Path) -> int:
    """Write a pickle's tensors, all of them and unchanged, as a safetensors file; how many there were.

    Only tensors and plain containers are read (`torch.load(weights_only=True)`): a pickle that wants to run code is
    refused before it runs any. The same pickle gives the same bytes.

    Raises:
        IntegrityError: the file is truncated, or no pickle.
        Permanent: it wants to run code, or holds something else than tensors.
    """
    tensors = _tensors(_load(source), source)
    new = target.with_name(f".{target.name}.new")
    save_file(tensors, new, metadata={"format": "pt"})
    new.replace(target)
    return len(tensors)


def _load(source: Path) -> Any:
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise IntegrityError(_damaged(source, error)) from error
        raise Permanent(
            f"{source} is refused: it holds more than tensors, it wants {wanted[1]} to be run. Nothing of it was run. "
            f"Ask its publisher for a safetensors or ONNX file."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise IntegrityError(_damaged(source, error)) from error


def _damaged(source: Path, error: Exception) -> str:
    reason = str(error).split("\n")[0] or type(error).__name__
    return f"{source} cannot be read: {reason}. Delete it and download it again."


def _tensors(document: Any, source: Path) -> dict[str, torch.Tensor]:
    """The state dict within a checkpoint. Tensors are copied, for they may share memory, which safetensors forbids."""
    for wrapper in WRAPPERS:
        if isinstance(document, Mapping) and isinstance(document.get(wrapper), Mapping):
            document = document[wrapper]
    if not isinstance(document, Mapping) or not document:
        raise Permanent(f"{source} holds no list of tensors but {type(document).__name__}.")
    strangers = {str(name): one for name, one in document.items() if not isinstance(one, torch.Tensor)}
    if strangers:
        name, one = next(iter(strangers.items()))
        raise Permanent(f"{source} holds something else than tensors: '{name}' is a {type(one).__name__}.")
    return {str(name): tensor.detach().clone().contiguous() for name, tensor in document.items()}
