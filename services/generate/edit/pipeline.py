"""A pipeline of diffusers from a folder, as one model that can be moved between host memory and the device."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import diffusers
import torch
import transformers
from diffusers.hooks import apply_group_offloading
from safetensors import SafetensorError
from torch import nn

from services.generate.edit.editors import Editor
from shared.contracts.errors import InvalidInput, Permanent
from shared.flux.fp8 import stored_shapes
from shared.flux.loading import footprint, settle
from shared.flux.parts import INDEX, proper_name
from shared.flux.residents import ModuleResident
from shared.models.catalogue import load_models
from shared.models.memory import Plan, needs
from shared.models.residency import Smaller
from shared.models.shelf import Shelf
from shared.worker.errors import classify

_BESIDE_WEIGHTS = 1 / 64
_BESIDE_WEIGHTS_BYTES = 32 * 10**6
"""Room for what the modules hold and no file does: tables of positions, which are worked out when they are made."""


_LIBRARIES: Final = {"diffusers": diffusers, "transformers": transformers}
"""Where the parts of a pipeline come from; no code of a model's own is run."""

_TRANSFORMER, _TEXT = "transformer", "text_encoder"
"""What pipelines call the parts that may take turns on the device; of the second kind there may be several."""

_SHOWN = 5
_COUNTER = "num_batches_tracked"
"""Of a normalisation that was trained; says nothing once it is."""


class Whole(nn.ModuleDict):
    """A pipeline's modules as one, and with them the pipeline, which also has the tokenizers and the schedule."""

    def __init__(self, pipeline: Any) -> None:
        super().__init__({name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)})
        self.pipeline = pipeline


def find(folder: Path, model: str, editor: Editor) -> Path:
    """The folder of a model that this editor can use.

    Args:
        folder: of all models.
        model: a name in the catalogue, or of a folder of one's own in diffusers' layout.
        editor: whose pipeline it is to be.

    Raises:
        InvalidInput: the model is of another kind.
        Permanent: a file is missing; says which command brings it. Or the folder holds another pipeline.
        IntegrityError: a file is cut short.
    """
    known = load_models().named(model)
    if known is not None:
        if editor.place not in known.used_by:
            fitting = [one.name for one in load_models().values() if editor.place in one.used_by]
            raise InvalidInput(
                "model",
                f"{model} is {known.title}, which the engine {editor.engine} cannot use",
                f"Name {' or '.join(fitting)}, or a folder of your own with a {editor.pipeline}.",
            )
        Shelf(folder).require(known)
    own = folder / proper_name(model)
    if not (own / INDEX).is_file():
        raise Permanent(
            f"{own / INDEX} is missing. `doctorgen models download {model}` brings the weights of a model in the "
            "catalogue; put one of your own there in diffusers' layout, or name its folder with DOCTORGEN_MODELS_DIR."
        )
    found = described(own).get("_class_name")
    if found != editor.pipeline:
        raise Permanent(
            f"{own} holds a {found}, and the engine {editor.engine} needs a {editor.pipeline}. Name another model, or "
            f"fetch it again: `doctorgen models download {model}`."
        )
    return own


def described(folder: Path) -> Mapping[str, Any]:
    """What a pipeline's index says of it: its class, its parts, its settings."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text("utf-8"))
    except ValueError as error:
        raise Permanent(f"{folder / INDEX} cannot be read: {error}. {_again(folder)}") from error
    return index


def resident(
    folder: Path, editor: Editor, dtype: torch.dtype, device: str, *, offloaded: bool = False
) -> ModuleResident[Whole]:
    """The pipeline in that folder, for a Residency. Reads the files' headers only.

    Args:
        folder: of the pipeline.
        editor: whose it is.
        dtype: of the weights in memory.
        device: where it computes.
        offloaded: only the autoencoder stays on the device: the transformer's blocks and the text encoder's layers come
            from host memory in turns. The same bytes in more time.

    Raises:
        Permanent: there are no weights in safetensors; when it is loaded: they are not this pipeline's.
    """
    name = f"{folder.name}, {str(dtype).removeprefix('torch.')}"
    size = _bytes_once_loaded(folder, dtype)
    by_turns = _by_turns(folder, dtype, size)
    if not offloaded:
        return ModuleResident(name, lambda: _read(folder, editor, dtype), size, device, smaller=(by_turns,))

    def read() -> Whole:
        whole = _read(folder, editor, dtype)
        _offload(whole, device)
        return whole

    return ModuleResident(
        f"{name}, by {by_turns.name}",
        read,
        size,
        device,
        device_bytes=by_turns.device_bytes,
        host_bytes=by_turns.host_bytes,
        moves=_staying,
    )


def _by_turns(folder: Path, dtype: torch.dtype, size: int) -> Smaller:
    """What it takes where transformer and text encoder are in host memory: two blocks on the device, or one layer."""
    staying = sum(
        _weights(file, dtype) for part in _parts(folder) if not _takes_turns(part) for file in _files(folder, part)
    )
    shapes = stored_shapes([file for part in _parts(folder) if part.startswith(_TEXT) for file in _files(folder, part)])
    layer = max((math.prod(shape) for shape in shapes.values()), default=0) * dtype.itemsize
    slack = size - sum(_weights(file, dtype) for part in _parts(folder) for file in _files(folder, part))
    need = needs(footprint(folder, dtype), staying + layer + slack)[Plan.GROUP_OFFLOAD]
    return Smaller(Plan.GROUP_OFFLOAD.value, need.device_bytes, size - staying)


def _offload(whole: Whole, device: str) -> None:
    """Have transformer and text encoders come to the device in turns, each part only while it computes."""
    for name, part in whole.items():
        if name == _TRANSFORMER:
            settle(part, Plan.GROUP_OFFLOAD, device)
        elif _takes_turns(name):
            # By leaves, since their blocks lie deeper than diffusers looks; without a stream, since they run once.
            apply_group_offloading(part, torch.device(device), torch.device("cpu"), "leaf_level")


def _staying(whole: Whole) -> nn.Module:
    return nn.ModuleList([part for name, part in whole.items() if not _takes_turns(name)])


def _takes_turns(part: str) -> bool:
    return part == _TRANSFORMER or part.startswith(_TEXT)


def _bytes_once_loaded(folder: Path, dtype: torch.dtype) -> int:
    weights = sum(_weights(file, dtype) for part in _parts(folder) for file in _files(folder, part))
    if not _files(folder, _TRANSFORMER):
        place = folder / _TRANSFORMER
        raise Permanent(f"There are no weights in safetensors in {place}, and pickles are not loaded. {_again(folder)}")
    return int(weights * (1 + _BESIDE_WEIGHTS)) + _BESIDE_WEIGHTS_BYTES


def _files(folder: Path, part: str) -> list[Path]:
    return sorted((folder / part).glob("*.safetensors"))


def _weights(file: Path, dtype: torch.dtype) -> int:
    return sum(math.prod(shape) for shape in stored_shapes([file]).values()) * dtype.itemsize


def _read(folder: Path, editor: Editor, dtype: torch.dtype) -> Whole:
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    try:
        pipeline = getattr(diffusers, editor.pipeline).from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, use_safetensors=True, **_models(folder, dtype)
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        if classify(error) is not Permanent:
            raise
        raise Permanent(f"{folder} cannot be read as a {editor.pipeline}: {error}. {_again(folder)}") from error
    pipeline.set_progress_bar_config(disable=True)
    return Whole(pipeline).eval().requires_grad_(requires_grad=False)


def _models(folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The pipeline's models. The pipeline itself would read them, too, and leave at random what is missing."""
    models = {}
    for name, (library, kind) in _parts(folder).items():
        maker = getattr(_LIBRARIES.get(library), kind, None)
        if not (isinstance(maker, type) and issubclass(maker, nn.Module)):
            continue
        model, found = cast(Any, maker).from_pretrained(
            str(folder / name), dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        missing = sorted(str(key) for key in found["missing_keys"] if not str(key).endswith(_COUNTER))
        if missing or found["mismatched_keys"]:
            raise Permanent(
                f"{folder / name} is not the {kind} it should be: {len(missing)} tensors are missing "
                f"({', '.join(missing[:_SHOWN])}), {len(found['mismatched_keys'])} are of another shape. "
                f"{_again(folder)}"
            )
        models[name] = model
    return models


def _parts(folder: Path) -> dict[str, tuple[str, str]]:
    """Library and class of each part of a pipeline."""
    listed = {name: kind for name, kind in described(folder).items() if isinstance(kind, list) and all(kind)}
    return {name: (str(kind[0]), str(kind[1])) for name, kind in listed.items()}


def _again(folder: Path) -> str:
    return f"Fetch it again: `doctorgen models download {folder.name}`."
