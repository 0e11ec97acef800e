"""Parsl's ``File`` without the rest of Parsl.

Most arguments that need Parsl in a task are Files. Importing all of Parsl takes half a second, more than ten times as
long as an interpreter takes to start. Its module with the class ``File`` imports nothing of Parsl, so it is loaded on
its own. When the task imports Parsl later, Parsl uses the same module.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

PACKAGE = "parsl.data_provider"
MODULE = f"{PACKAGE}.files"
_NAME = MODULE.encode()
_SEARCHED = 1 << 16
"""Size in bytes of the largest pickle that is searched. Arrays are no part of it."""


def needs(pickled: bytes | memoryview) -> bool:
    """Whether loading a pickle would import Parsl for the module with the class ``File``."""
    return "parsl" not in sys.modules and len(pickled) <= _SEARCHED and _NAME in bytes(pickled)


def load(pickled: bytes | memoryview, buffers: Iterable[Any]) -> Any:
    """Load a pickle that names the module.

    Parameters
    ----------
    pickled : bytes or memoryview
        The pickle.
    buffers : iterable
        Its out-of-band buffers.
    """
    import io

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str, /) -> Any:
            # The usual way imports the package too.
            alone = sys.modules.get(MODULE) if module == MODULE else None
            return super().find_class(module, name) if alone is None else getattr(alone, name)

    if MODULE not in sys.modules:
        _load_alone()
    return Unpickler(io.BytesIO(pickled), buffers=buffers).load()


def _load_alone() -> None:
    import importlib.util  # imported here, because every L1 task imports this module
    from importlib.machinery import PathFinder

    package = PathFinder.find_spec(PACKAGE.partition(".")[0])
    for directory in (package and package.submodule_search_locations) or ():
        spec = importlib.util.spec_from_file_location(MODULE, os.path.join(directory, "data_provider", "files.py"))
        if spec is None or spec.loader is None or not os.path.exists(str(spec.origin)):
            continue
        sys.modules[MODULE] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception:  # another version of Parsl may need its package here
            del sys.modules[MODULE]
        else:
            sys.meta_path.insert(0, _Attribute(module))
        return


class _Attribute:
    """Makes the module an attribute of its package when the package is imported, as importing the module would have."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find the package, and nothing else."""
        if name != PACKAGE:
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self._module)  # type: ignore[assignment]
        return spec


class _Then:
    """Loads the package, then sets the attribute."""

    def __init__(self, loader: Loader, module: ModuleType) -> None:
        self._loader = loader
        self._module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the package as its own loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the package's code as its own loader does."""
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        module.__dict__[MODULE.rpartition(".")[2]] = self._module
