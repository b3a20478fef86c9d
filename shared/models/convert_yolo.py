"""Checkpoints of ultralytics' YOLOv8 and YOLOv9 to ONNX, once, on an operator's command.

The one module that needs ultralytics, which is licensed under the AGPL-3.0. Workers load the ONNX file without it.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from shared.contracts.errors import Permanent
from shared.models.libraries import prepare_libraries
from shared.models.yolo_checkpoint import SIDE_PX, Checkpoint, Layer, read

OPSET = 17

INPUT, OUTPUT = "images", "output0"
"""As ultralytics calls them in its own exports."""

MODULES = frozenset(
    {
        "ADown",
        "AConv",
        "C2f",
        "CBFuse",
        "CBLinear",
        "Concat",
        "Conv",
        "Detect",
        "ELAN1",
        "RepNCSPELAN4",
        "SPPELAN",
        "SPPF",
        "nn.Identity",
        "nn.Upsample",
    }
)
"""What YOLOv8 and YOLOv9 are made of. ultralytics takes any name of its own there, of functions too, and calls it."""

WORDS = frozenset({"nc", "None", "True", "False", "nearest"})
"""Text that a layer may be told; ultralytics evaluates it."""

TELLING = frozenset(
    {
        "add",
        "c",
        "ceil_mode",
        "d",
        "dilation",
        "eps",
        "groups",
        "in_channels",
        "kernel_size",
        "mode",
        "nc",
        "nl",
        "num_features",
        "out_channels",
        "padding",
        "padding_mode",
        "reg_max",
        "scale_factor",
        "stride",
    }
)
"""Attributes that decide what a layer computes."""

CLOSE_PX = 0.1
CLOSE_SCORE = 1e-4
"""How far the file may be from its network, on average over all candidates. Single ones are further: sums of thousands
of terms are rounded otherwise."""


def to_onnx(source: Path, target: Path) -> None:
    """Write the network of a checkpoint as an ONNX file of fixed size, with batch normalisation folded in.

    Nothing that the checkpoint holds is ever run: the network is made anew from its checked description by
    ultralytics, and gets the checkpoint's tensors. The file is held against that network before it takes its place. The
    same checkpoint gives the same bytes with the same torch and ultralytics.

    Raises:
        IntegrityError: the file is truncated, or no pickle.
        Permanent: it wants to run code, or is no YOLOv8 or YOLOv9 for detection; or ultralytics is not installed.
    """
    checkpoint = read(source)
    network = build(checkpoint, source)
    new = target.with_name(f".{target.name}.new")
    try:
        export(network, new, checkpoint.side)
        _check(new, network, checkpoint.side, source)
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def build(checkpoint: Checkpoint, source: Path) -> nn.Module:
    """The network of a checkpoint in fp32, ready for inference.

    Args:
        checkpoint: of the network.
        source: its file, for errors.

    Raises:
        Permanent: its description is not that of a YOLOv8 or YOLOv9; or what this ultralytics makes of it is another
            network than the one whose tensors these are; or ultralytics is not installed.
    """
    described = _described(checkpoint.description, source)
    make = _detection_model()
    try:
        network: nn.Module = make(described, verbose=False)
    except Exception as error:  # a description that does not fit itself fails wherever that shows
        raise Permanent(
            f"{source} describes a network that ultralytics cannot make ({type(error).__name__}: {error})."
        ) from error
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    if wanted != found:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise Permanent(
            f"{source} holds another network than its description makes: {len(odd)} tensors differ, {odd[0]} first, "
            f"which is {_shape(found.get(odd[0]))} in the file and {_shape(wanted.get(odd[0]))} in ultralytics."
        )
    for path, layer in checkpoint.layers.items():
        _check_layer(network.get_submodule(path), layer, path, source)
    network.load_state_dict({name: tensor.float() for name, tensor in checkpoint.tensors.items()})
    return network.float().eval().requires_grad_(False)


def export(network: nn.Module, target: Path, side: int = SIDE_PX, *, dynamic: bool = False) -> None:
    """Write a network of ultralytics as ONNX, as its own exporter does: `images` [1, 3, side, side] to `output0`.

    Args:
        network: a DetectionModel in eval mode. It is fused, and fit for nothing else thereafter.
        target: the file.
        side: of the input in pixels, a multiple of 32.
        dynamic: whether height and width of the input may be others.
    """
    network.fuse(verbose=False)  # type: ignore[operator]
    for module in network.modules():
        if hasattr(module, "export"):
            vars(module).update(export=True, format="onnx", dynamic=dynamic)
    axes = {INPUT: {2: "height", 3: "width"}, OUTPUT: {2: "anchors"}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is called deprecated; the new one needs onnxscript
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, side, side),),
            str(target),
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes=axes,
            dynamo=False,
        )
    onnx.checker.check_model(str(target))


def _detection_model() -> Any:
    """The class of ultralytics' networks for detection."""
    prepare_libraries()
    try:
        with _kept_quiet():
            return import_module("ultralytics.nn.tasks").DetectionModel
    except ModuleNotFoundError as error:
        raise Permanent(
            f"{error.name} is not installed, and the conversion of a YOLO checkpoint needs ultralytics. It is licensed "
            f"under the AGPL-3.0, and needed here only: `pip install --no-deps -r requirements-convert.txt` installs "
            f"it, and it may be uninstalled after the conversion."
        ) from error


@contextmanager
def _kept_quiet() -> Iterator[None]:
    """Tells ultralytics not to call on the network when it is imported, and to write its settings file elsewhere."""
    with TemporaryDirectory() as folder:
        quiet = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
        added = {name: value for name, value in {**quiet, "YOLO_CONFIG_DIR": folder}.items() if name not in os.environ}
        os.environ.update(added)
        try:
            yield
        finally:
            for name in added:
                del os.environ[name]


def _described(description: object, source: Path) -> dict[str, Any]:
    """Of a network's description what makes the network, once it is certain that it makes nothing else.

    Raises:
        Permanent: it names a module or says a word that no YOLOv8 or YOLOv9 needs, or has another form.
    """
    if not isinstance(description, Mapping):
        raise Permanent(f"{source} does not describe its network.")
    layers = [*_listed(description.get("backbone")), *_listed(description.get("head"))]
    for layer in layers:
        if not _is_layer(layer):
            raise Permanent(
                f"{source} has a layer {layer!r}, which YOLOv8 and YOLOv9 have not. Ask its publisher for an ONNX file."
            )
    said = {name: description[name] for name in ("scales", "depth_multiple", "width_multiple") if name in description}
    classes, scale = description.get("nc"), description.get("scale") or ""
    if not (
        layers and isinstance(classes, int) and classes > 0 and isinstance(scale, str) and _is_plain([*_numbers(said)])
    ):
        raise Permanent(f"{source} describes its network in another way than YOLOv8 and YOLOv9 do.")
    return {
        **said,
        "nc": classes,
        "scale": scale,
        "backbone": list(_listed(description["backbone"])),
        "head": list(_listed(description["head"])),
    }


def _listed(thing: object) -> Sequence[object]:
    return thing if isinstance(thing, list | tuple) else ()


def _numbers(said: object) -> Iterator[object]:
    """What tables and lists hold in the end."""
    if isinstance(said, Mapping):
        said = [*said.values()]
    if isinstance(said, list | tuple):
        for one in said:
            yield from _numbers(one)
    else:
        yield said


def _is_layer(layer: object) -> bool:
    """Whether it is [from, how often, module, what it is told]."""
    return (
        isinstance(layer, list | tuple)
        and len(layer) == 4
        and isinstance(layer[2], str)
        and layer[2] in MODULES
        and all(_is_plain(one) for one in (layer[0], layer[1], layer[3]))
    )


def _is_plain(thing: object) -> bool:
    """Whether it is numbers and harmless words, and lists of them."""
    if isinstance(thing, list | tuple):
        return all(_is_plain(one) for one in thing)
    return thing is None or isinstance(thing, int | float) or (isinstance(thing, str) and thing in WORDS)


def _check_layer(module: nn.Module, layer: Layer, path: str, source: Path) -> None:
    """See that a layer computes what the checkpoint's did. Names of ultralytics' own classes have changed over time."""
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if kind != layer.kind and (kind.startswith("torch.") or layer.kind.startswith("torch.")):
        raise Permanent(f"{source}: {path} is {layer.kind} in the file, and {kind} in this ultralytics.")
    for name in TELLING & layer.held.keys() & vars(module).keys():
        stored, made = (_told(one) for one in (layer.held[name], getattr(module, name)))
        if stored != made:
            raise Permanent(f"{source}: {name} of {path} is {stored} in the file, and {made} in this ultralytics.")


def _told(value: object) -> object:
    return value.tolist() if isinstance(value, torch.Tensor) else value


def _shape(shape: Sequence[int] | None) -> str:
    return "missing" if shape is None else str(list(shape))


def _check(file: Path, network: nn.Module, side: int, source: Path) -> None:
    """See that the file gives what the network gives."""
    pixels = np.random.default_rng(0).random((1, 3, side, side), np.float32)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    given = session.run(None, {INPUT: pixels})[0]
    with torch.inference_mode():
        wanted = network(torch.from_numpy(pixels)).numpy()
    apart = np.abs(given - wanted).mean(axis=(0, 2)) if given.shape == wanted.shape else np.array([np.inf])
    if not (np.all(apart[:4] <= CLOSE_PX) and np.all(apart[4:] <= CLOSE_SCORE)):
        raise Permanent(f"The ONNX file made of {source} does not give what its network gives; it was not kept.")
