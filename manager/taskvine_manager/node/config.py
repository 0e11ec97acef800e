"""The executor's configuration for its nodes, which is the same for all nodes of a run."""

from __future__ import annotations

import os
from typing import NamedTuple

from taskvine_manager.node import pinning
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.runtime.search_path import SearchPath
from taskvine_manager.wire.messages import Library


class LibraryConfig(NamedTuple):
    """What nodes need to know of a named library; fields mean the same as those of :class:`NodeConfig`.

    Parameters
    ----------
    kind : Library
        Its name, its slots, and what it takes of its node.
    """

    kind: Library
    import_modules: tuple[str, ...]
    context: Payload | None
    context_scope: str
    start_timeout: float
    context_body: bytes | None = None


class NodeConfig(NamedTuple):
    """What every node of a run needs to know. (The import of :mod:`dataclasses` would lengthen the start of nodes.)

    Parameters
    ----------
    base : str
        The run's private directory, on the user's machine.
    log : str
        Directory for logs, on the user's machine.
    program, source_root : str
        Path of this package's program, and the directory that contains this package.
    python_version : tuple of int
        Major and minor version of the user's Python.
    sys_path : SearchPath
        Where tasks import modules from.
    user : int
        The user's process.
    directory : str or None
        Directory in which tasks run; None for sandboxes.
    env_vars : dict of str to str
        Environment variables that the user has set for tasks.
    env_pack : str or None
        Python environment of the tasks; None for the node's own.
    init_command : str
        Shell command that is run before libraries and L1 tasks.
    slots : int or None
        Function slots of a node; None for as many as its cores allow.
    inline_limit : int
        Largest result, in bytes, that is not written to a file.
    import_modules : tuple of str
        Modules that the library imports.
    context : bytes, str or None
        The encoded context of the library: its bytes, or the path of its file.
    context_body : bytes or None
        Bytes of a context's file, in place of ``context`` if nodes may be on machines that do not see the file.
    context_scope : str
        Who builds the context: ``"library"`` or ``"slot"``.
    start_timeout : float
        Seconds that a library may take to start.
    serverless : bool
        Whether function calls are expected, so that the library is started at once.
    tune : dict of str to float
        Tuning parameters.
    libraries : tuple of LibraryConfig
        The named libraries.
    accelerators : tuple of str
        Names of each node's gpus; empty for those that the node finds.
    gpu_memory : float or None
        Memory of each gpu in MB; None for what the node finds.
    cpu_affinity : str
        How tasks are bound to CPUs, see :mod:`taskvine_manager.node.pinning`.
    """

    base: str
    log: str
    program: str
    source_root: str
    python_version: tuple[int, int]
    sys_path: SearchPath
    user: int
    directory: str | None
    env_vars: dict[str, str]
    env_pack: str | None
    init_command: str
    slots: int | None
    inline_limit: int
    import_modules: tuple[str, ...]
    context: Payload | None
    context_scope: str
    start_timeout: float
    serverless: bool
    tune: dict[str, float]
    context_body: bytes | None = None
    libraries: tuple[LibraryConfig, ...] = ()
    accelerators: tuple[str, ...] = ()
    gpu_memory: float | None = None
    cpu_affinity: str = pinning.NONE

    def checked(self) -> NodeConfig:
        """Return this configuration.

        Raises
        ------
        ValueError
            If a value is impossible.
        """
        for name in ("base", "log", "program", "source_root"):
            self._require(name, "an absolute path", os.path.isabs(getattr(self, name)))
        self._require("directory", "an absolute path or None", self.directory is None or os.path.isabs(self.directory))
        self._require("user", "a process id", self.user > 0)
        self._require("slots", "at least 1, or None", self.slots is None or self.slots >= 1)
        self._require("inline_limit", "at least 0", self.inline_limit >= 0)
        self._require("context_scope", "'library' or 'slot'", self.context_scope in ("library", "slot"))
        self._require("context_body", "None if there is a context", self.context is None or self.context_body is None)
        self._require("start_timeout", "above 0", self.start_timeout > 0)
        names = [library.kind.name for library in self.libraries]
        self._require("libraries", "libraries with different names", len(set(names)) == len(names))
        return self

    def _require(self, name: str, what: str, holds: bool) -> None:
        if not holds:
            raise ValueError(f"{name} of a node's configuration must be {what}, not {getattr(self, name)!r:.100}")
