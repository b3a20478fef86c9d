"""For processes that a test starts with this folder on PYTHONPATH: a torchvision built for CUDA can be imported there.

Python imports this module at its start. See tests/torchvision_cpu.py; where torchvision works it changes nothing.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

IMPORTERS = ("timm", "transformers", "diffusers")
"""Libraries that import torchvision, unless they are not asked for: then torch need not be there."""


class _Before(MetaPathFinder):
    """Finds nothing itself: the first of these libraries to be looked for has torchvision made ready."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname in IMPORTERS:
            sys.meta_path.remove(self)
            from tests import torchvision_cpu

            torchvision_cpu.install()
        return None


sys.meta_path.insert(0, _Before())
