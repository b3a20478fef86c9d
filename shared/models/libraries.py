"""What has to be done before an engine's libraries are imported."""

import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

IMPORT_TORCHVISION = frozenset({"timm", "transformers", "diffusers", "torchvision"})

_MENDER = "shared.flux.torchvision_cpu"
"""By name, since it imports torch, which who comes here need not have."""


def mend_torchvision() -> None:
    """Let a torchvision that was built for CUDA be imported beside a torch without it.

    pip installs such a pair on machines without a GPU. It is put right when the first library that needs it is
    imported; until then this costs nothing. Where the pair fits, nothing is changed.
    """
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
