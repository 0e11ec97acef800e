"""The library: a warm parent process that forks function slots from itself.

The library imports the modules that the user has named and builds the context, once; every slot starts with both. It
imports no other module of the user: slots would share objects that the import creates, such as an open file or a random
stream, and a fork would break others, such as a thread. Slots import the modules of their functions themselves, like
any fresh process.

The library runs no task itself. The node and the library exchange pickled tuples over a ``SOCK_SEQPACKET`` socket:

=================================================== =================================================
from the node                                       meaning
=================================================== =================================================
``("fork", slot, environment, memory, cpus)`` + fd  fork a slot that serves the socket behind the
                                                    descriptor; ``memory`` is the limit of its tasks in
                                                    MB, 0 for none; it is bound to ``cpus``, if any
=================================================== =================================================

====================================== ==============================================================
to the node                            meaning
====================================== ==============================================================
``("ready", pid)``                     sent before the user's modules are imported
``("gpu",)``                           a module or the context uses a gpu, which slots then cannot
``("warm",)``                          modules are imported and the context is built; forks may follow
``("forked", slot, pid)``              ``pid`` of the slot's keeper (:mod:`~taskvine_manager.runtime.keeper`)
``("exited", slot, status)``           ``status`` is that of :func:`os.waitpid`
``("failed", kind, record)``           a module or the context failed; the library ends
====================================== ==============================================================
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from taskvine_manager.runtime import context, exits, failure, headroom, keeper, limits, search_path, slot
from taskvine_manager.runtime.stage import standard_stream

GPU_DEVICES = ("/dev/nvidia-uvm", "/dev/kfd")
"""Devices that CUDA and ROCm open when they are initialised."""


def main(descriptor: int, parent: int) -> None:
    """Serve the node at an inherited socket until it closes. The kernel kills this process when ``parent`` ends."""
    keeper.die_with(parent, signal.SIGKILL)
    keeper.fresh_signals()
    channel = socket.socket(fileno=descriptor)
    status = 1
    try:
        Library(channel).run()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)  # threads of a context must not delay the exit, because the node waits for it


class Library:
    """The warm parent process of a node's slots.

    Parameters
    ----------
    channel : socket.socket
        Connected to the node. The first packet from the node is a dict with these keys:

        - ``log``: directory of the slots' output;
        - ``spool``: directory of large results;
        - ``inline_limit``: largest result, in bytes, that is not written to a file;
        - ``scratch``: directory that holds the slots' private directories;
        - ``directory``: the user's directory, in which tasks run, or None;
        - ``sys_path``: SearchPath;
        - ``import_modules``: names of modules;
        - ``context``: path or bytes of the encoded ``(setup, args, kwargs)``, or None;
        - ``context_scope``: ``"library"`` or ``"slot"``;
        - ``name``: name of the library, missing or None for the default one;
        - ``start_timeout``: time limit of ``import_modules`` and the context, in seconds, which the node enforces;
        - ``memory_group``: argument of :func:`~taskvine_manager.runtime.headroom.keep_to`.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._slots: dict[int, int] = {}

    def run(self) -> None:
        """Serve until the node closes the socket."""
        self._say("ready", os.getpid())
        self._config: dict[str, Any] = pickle.loads(self._channel.recv(slot.PACKET_LIMIT))
        headroom.keep_to(self._config["memory_group"])
        search_path.start(self._config["sys_path"])
        if not self._prepare():
            return
        self._say("warm")
        wake, wake_writer = os.pipe()
        for end in (wake, wake_writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._wakeup = (wake, wake_writer)
        sources: list[socket.socket | int] = [self._channel, wake]
        while True:
            readable, _, _ = select.select(sources, [], [])
            if wake in readable:
                os.read(wake, 4096)
                self._reap()
            if self._channel in readable and not self._receive():
                return

    def _prepare(self) -> bool:
        # Imported before the forks, because all slots need these modules.
        import tempfile  # noqa: F401

        import tblib  # noqa: F401

        from taskvine_manager.runtime import pickling, spares  # noqa: F401

        # If an import or the setup hangs, the log shows where. The error quotes the log.
        faulthandler.dump_traceback_later(self._config["start_timeout"])
        for name in self._config["import_modules"]:
            try:
                _import(name)
            except BaseException as error:
                self._say("failed", "library", import_failure(name, error))
                return False
        encoded = self._config["context"]
        if encoded is not None and self._config["context_scope"] == "library":
            record = context.build_or_explain(encoded, self._config.get("name"))
            if record is not None:
                self._say("failed", "context", record)
                return False
        faulthandler.cancel_dump_traceback_later()
        if encoded is not None or self._config["import_modules"]:
            if uses_gpu():
                self._say("gpu")
            gc.collect()  # without the user's code, there is too little garbage to be worth the time
        gc.freeze()
        return True

    def _receive(self) -> bool:
        packet, descriptors, _, _ = socket.recv_fds(self._channel, slot.PACKET_LIMIT, 1)
        if not packet:
            return False
        _, number, environment, memory, cpus = pickle.loads(packet)
        self._fork(number, environment, memory, cpus, descriptors[0])
        return True

    def _fork(
        self, number: int, environment: dict[str, str], memory: float, cpus: tuple[int, ...], descriptor: int
    ) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        library = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._be_slot(number, environment, memory, cpus, descriptor, library)
        os.close(descriptor)
        self._slots[pid] = number
        self._say("forked", number, pid)

    def _be_slot(
        self,
        number: int,
        environment: dict[str, str],
        memory: float,
        cpus: tuple[int, ...],
        descriptor: int,
        library: int,
    ) -> NoReturn:
        status = 1
        try:
            keeper.keep(library)  # the forked process becomes the keeper; its child is the slot and returns here
            exits.disinherit()
            self._channel.close()
            for end in self._wakeup:
                os.close(end)
            _forget_temporary_directory(environment)
            os.environ.update(environment)
            _limit_threads(environment)
            _own_output(os.path.join(self._config["log"], f"slot-{number}.log"))
            if cpus:
                os.sched_setaffinity(0, cpus)
            faulthandler.enable()
            _reseed()
            own = limits.held(0.0) if memory else 0.0
            self._slot_context(number)
            channel = socket.socket(fileno=descriptor)
            scratch = os.path.join(self._config["scratch"], f"slot-{number}")
            config = self._config
            slot.serve(channel, scratch, config["spool"], config["inline_limit"], memory, config["directory"], own)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)

    def _slot_context(self, number: int) -> None:
        encoded = self._config["context"]
        if encoded is not None and self._config["context_scope"] == "slot":
            faulthandler.dump_traceback_later(self._config["start_timeout"], exit=True)
            record = context.build_or_explain(encoded, self._config.get("name"))
            faulthandler.cancel_dump_traceback_later()
            if record is not None:
                # The node reads the record when it learns that the slot is gone.
                with open(os.path.join(self._config["scratch"], f"context-failed-{number}"), "wb") as file:
                    file.write(record)
                os._exit(1)

    def _reap(self) -> None:
        # Only slots: other children belong to the context, which waits for them itself.
        for pid in list(self._slots):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)  # processes that its tasks left behind
                self._say("exited", self._slots.pop(pid), status)

    def _say(self, *message: Any) -> None:
        self._channel.send(pickle.dumps(message))


class NotForLibraries(Exception):
    """A module of ``import_modules`` cannot be shared by a library and its slots."""


def _import(name: str) -> None:
    """Import a module that the user has named.

    Raises
    ------
    NotForLibraries
        If the module has started a thread, or keeps a file open in which all slots would share one position.
    """
    threads, files = set(threading.enumerate()), set(_open_files())
    importlib.import_module(name)
    advice = "Leave the module out of import_modules: each slot then imports it for itself, when a call needs it"
    for thread in set(threading.enumerate()) - threads:
        raise NotForLibraries(f"it starts a thread ({thread.name}), which slots would not have. {advice}")
    for path in sorted(set(_open_files()) - files):
        raise NotForLibraries(f"it keeps {path} open, and all slots would share the position in it. {advice}")


def _open_files() -> Iterator[str]:
    """Yield the paths of open files, except those that this process only appends to."""
    with contextlib.suppress(OSError):
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the descriptor of the listing itself is closed by now
                is_file = stat.S_ISREG(os.fstat(int(number)).st_mode)
                if is_file and not fcntl.fcntl(int(number), fcntl.F_GETFL) & os.O_APPEND:
                    yield os.readlink(f"/proc/self/fd/{number}")


def uses_gpu() -> bool:
    """Return whether this process has initialised CUDA or ROCm, which keep a device open and do not survive a fork."""
    with contextlib.suppress(OSError):
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{number}") in GPU_DEVICES:
                    return True
    return False


def import_failure(name: str, error: BaseException) -> bytes:
    """Make the failure record of a module of ``import_modules`` that cannot be imported."""
    reason = f"{name!r} of import_modules cannot be imported: {failure.describe(error)}"
    return failure.lost("library", reason, stderr=failure.text(error, (__file__, importlib.__file__)))


def _own_output(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:  # the log directory is gone or full, but the slot can still work
        descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout, sys.stderr = standard_stream(1), standard_stream(2)


def _forget_temporary_directory(environment: dict[str, str]) -> None:
    # The library's context may have called tempfile, which keeps the path of the library's temporary directory.
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None and "TMPDIR" in environment and tempfile.tempdir == os.environ.get("TMPDIR"):
        tempfile.tempdir = None


def _limit_threads(environment: dict[str, str]) -> None:
    # A BLAS that the user's code has loaded in the library does not read the new environment; threadpoolctl can set it.
    if "OMP_NUM_THREADS" in environment and "numpy" in sys.modules:
        try:
            import threadpoolctl
        except ImportError:
            return
        threadpoolctl.threadpool_limits(int(environment["OMP_NUM_THREADS"]))


def _reseed() -> None:
    """Seed the global generators of numpy and torch, if loaded; otherwise all slots would draw the same numbers.

    The standard library's ``random`` seeds itself after a fork.
    """
    for name in ("numpy.random", "torch"):
        seed = getattr(sys.modules.get(name), "seed", None)
        if seed is not None:
            seed()
