"""What has to be done before an engine's libraries are imported."""

import logging
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

IMPORT_TORCHVISION = frozenset({"timm", "transformers", "diffusers", "torchvision"})

CHATTER = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")

_MENDER = "shared.flux.torchvision_cpu"
"""By name, since it imports torch, which who comes here need not have."""


def prepare_libraries() -> None:
    """To be called before an engine's module is imported. Costs next to nothing, and imports nothing yet.

    A torchvision that was built for CUDA can then be imported beside a torch without it: pip installs such a pair on
    machines without a GPU. It is put right when the first library that needs it is imported; where the pair fits,
    nothing is changed. And torchao no longer tells whoever imports diffusers which kernels it cannot load: where fp8
    is wanted, `shared.flux.speed` says what is missing.
    """
    for name in CHATTER:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not any(isinstance(finder, _Before) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Before())


class _Before(MetaPathFinder):
    """Finds nothing itself. Who imports one of these libraries in another thread meanwhile waits."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._begun = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname in IMPORT_TORCHVISION:
            with self._lock:
                if not self._begun:
                    self._begun = True
                    import_module(_MENDER).install()
        return None
