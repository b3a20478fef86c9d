"""Makes a torchvision that was built for CUDA importable beside a torch without it; see shared/models/libraries.py.

Its compiled operators cannot be loaded then, and its import fails for want of `nms`; timm and transformers, which
import it, fail with it. Where the operators load nothing is done.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

_libraries: list[torch.library.Library] = []


def install() -> None:
    """Define what is missing, once. To be called before anything imports torchvision."""
    spec = find_spec("torchvision")
    if _libraries or spec is None or not spec.submodule_search_locations or _loads(spec.submodule_search_locations[0]):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", _nms, "CPU")
    _libraries.append(library)
    import_module("torchvision.extension").__dict__["_has_ops"] = lambda: True


def _loads(folder: str) -> bool:
    for name in ("_C.so", "_C_stable.so"):
        path = Path(folder) / name
        if path.exists():
            try:
                torch.ops.load_library(str(path))
            except OSError:
                continue
            return True
    return False


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy non-maximum suppression: the indices of the boxes (left, top, right, bottom) kept, best score first."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    left = scores.argsort(descending=True)
    kept = []
    while left.numel():
        best, left = left[0], left[1:]
        kept.append(best)
        corner = torch.maximum(boxes[best, :2], boxes[left, :2])
        inner = (torch.minimum(boxes[best, 2:], boxes[left, 2:]) - corner).clamp(min=0).prod(dim=1)
        left = left[inner / (areas[best] + areas[left] - inner) <= iou_threshold]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.long)
