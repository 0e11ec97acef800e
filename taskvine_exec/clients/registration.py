"""Registration of :class:`~taskvine_exec.clients.globus.TaskVineEngine` with Globus Compute endpoints.

A user endpoint looks for the engine that its YAML names in the module ``globus_compute_endpoint.engines`` only, and
knows no plugins. ``python -m taskvine_exec.clients.registration register`` writes one line into this environment's
site-packages, a ``.pth`` file. In processes of the command ``globus-compute-endpoint``, and in no others, this line
imports the present module, and that module adds the engine's name to the endpoint's. The engine itself is imported when
a configuration names it.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import os
import sys
import sysconfig
from collections.abc import Sequence
from types import ModuleType
from typing import Any

ENGINE = "TaskVineEngine"
MODULE = "globus_compute_endpoint.engines"
FILE = "taskvine_exec_globus.pth"
LINE = (
    'import sys; any("globus-compute-endpoint" in word for word in sys.orig_argv[:3]) and '
    '__import__("importlib.util").util.find_spec("taskvine_exec") and '
    '__import__("taskvine_exec.clients.registration").clients.registration.hook()\n'
)
"""What site runs at the start of each Python process."""


def hook() -> None:
    """Add the engine's name to the endpoint's module, now or when it is imported."""
    if MODULE in sys.modules:
        add_engine(sys.modules[MODULE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def add_engine(engines: ModuleType) -> None:
    """Add the engine's name to the endpoint's module. The engine is imported when the name is first read."""

    def find(name: str) -> Any:
        if name != ENGINE:
            raise AttributeError(f"module {engines.__name__!r} has no attribute {name!r}")
        from taskvine_exec.clients.globus import TaskVineEngine

        return TaskVineEngine

    engines.__getattr__ = find  # type: ignore[method-assign]


class _Finder(importlib.abc.MetaPathFinder):
    """Finder that waits for the endpoint's module, and finds nothing else."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            loader = spec.loader
            run = loader.exec_module

            def run_and_add(module: ModuleType) -> None:
                run(module)
                add_engine(module)

            loader.exec_module = run_and_add  # type: ignore[method-assign]
        return spec


def main(words: Sequence[str] | None = None) -> None:
    """Write or remove the line in this environment, or say whether it is there."""
    parser = argparse.ArgumentParser(
        prog="python -m taskvine_exec.clients.registration",
        description="Let Globus Compute endpoints of this Python environment find the engine TaskVineEngine.",
    )
    parser.add_argument("command", choices=["register", "unregister", "status"])
    parser.add_argument("--directory", help="where to write the .pth file (default: this environment's site-packages)")
    arguments = parser.parse_args(words)
    path = os.path.join(arguments.directory or sysconfig.get_path("purelib"), FILE)
    try:
        if arguments.command == "register":
            with open(path, "w") as file:
                file.write(LINE)
        elif arguments.command == "unregister" and os.path.exists(path):
            os.remove(path)
    except OSError as error:
        sys.exit(f"{path} cannot be changed: {error.strerror}. Use an environment that you may write to.")
    sys.stdout.write(f"{ENGINE} is {'registered' if os.path.exists(path) else 'not registered'}: {path}\n")


if __name__ == "__main__":
    main()
