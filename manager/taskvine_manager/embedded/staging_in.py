"""Staging before tasks run: their sandboxes are filled, and files fetched from other nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from taskvine_manager.node import sandboxes, staging
from taskvine_manager.node.cache import Cache
from taskvine_manager.node.calls import Call
from taskvine_manager.node.core import NodeCore
from taskvine_manager.node.loop import Loop
from taskvine_manager.node.replicas import Peer, Source, Spoiled, is_lost
from taskvine_manager.node.sandboxes import Sandboxes
from taskvine_manager.runtime import failure


class Sent(NamedTuple):
    """Sources of tasks' inputs: replicas of temp files, small results, and other nodes' copies of users' files."""

    sources: dict[str, Source]
    values: dict[str, bytes]
    peers: dict[str, Peer]


class StagingIn:
    """Tasks that are being staged, and files that are being fetched. The work is done by the loop's staging threads.

    Parameters
    ----------
    cache : Cache
        The node's cache.
    sandboxes : Sandboxes
        The tasks' directories.
    core : NodeCore
        Learns what is being fetched, what has come, and which tasks have been staged.
    loop : Loop
        The node's loop.
    send : callable
        Sends a message to the manager.
    """

    def __init__(
        self, cache: Cache, sandboxes: Sandboxes, core: NodeCore, loop: Loop, send: Callable[..., None]
    ) -> None:
        self._cache = cache
        self._sandboxes = sandboxes
        self._core = core
        self._loop = loop
        self._send = send
        self._staging: dict[int, Call] = {}
        self._told: set[tuple[str, tuple[int, ...]]] = set()  # users' files here that the manager knows of

    def stage(self, call: Call, supply: Sent) -> None:
        """Make a task's sandbox, and bring its inputs in."""
        invocation = call.invocation
        self._staging[invocation.number] = call
        self._sandboxes.assign(call)
        if not invocation.inputs and not invocation.outputs:
            self._end(call, sandboxes.make(call))  # cheap enough to do here
            return
        fetched = [use.source for use in invocation.inputs if use.source in supply.sources]
        self._core.fetching(fetched)

        def work() -> None:
            record = sandboxes.make(call) or self._bring_in(call, supply)
            self._loop.later(partial(self._core.came, fetched))
            self._loop.later(partial(self._end, call, record))

        self._loop.in_background(work)

    def _bring_in(self, call: Call, supply: Sent) -> bytes | None:
        invocation, begun = call.invocation, time.perf_counter()
        present = {*supply.values, *call.values}
        inputs = [use for use in invocation.inputs if use.source not in present]
        try:
            path = sandboxes.path(call)
            record = staging.bring_in(inputs, invocation.outputs, path, self._cache, supply.sources, supply.peers)
            # Some may be here although another failed.
            self._loop.later(partial(self._say_fetched, call, supply, time.perf_counter() - begun))
            if record is None:
                self._core.give_results(call, supply.values)
            return record
        except Spoiled as error:
            paths = {self._cache.path(use.source): use.source for use in inputs}
            spoiled = paths.get(error.filename, error.filename)
            return failure.lost("file-lost", f"{error.strerror}: {error.filename}", name=spoiled)
        except Exception as error:
            return sandboxes.cannot_make(call, error)

    def _say_fetched(self, call: Call, supply: Sent, seconds: float) -> None:
        """Tell the manager which files were fetched for a task: they are replicas like any other."""
        for use in call.invocation.inputs:
            if use.kind == "local":
                self._say_input(use.source)
            elif use.source in supply.sources and use.source in self._cache:
                size, stamp = self._cache.stamp(use.source)
                source = supply.sources[use.source].node
                self._send("cached", use.source, size, None, stamp, seconds, False, source)

    def _say_input(self, path: str) -> None:
        size, name, stamp = self._cache.known(path) or (0, "", ())
        if not name or (path, stamp) not in self._told:
            self._told.add((path, stamp))
            self._send("input", path, size, name, stamp)

    def _end(self, call: Call, record: bytes | None) -> None:
        self._staging.pop(call.invocation.number, None)
        self._core.staged(call, record or call.kill_record)

    def cancel(self, numbers: set[int], record: bytes) -> None:
        """Let tasks that are being staged fail with a record."""
        for number in numbers & self._staging.keys():
            self._staging[number].kill_record = record

    def fetch(self, file: str, source: tuple[str, int, int, str]) -> None:
        """Fetch a replica into the cache, and tell the manager how that went."""

        def work() -> None:
            begun = time.perf_counter()
            size, stamp, problem, spoiled = 0, 0, None, False
            try:
                self._cache.fetch(file, Source(*source))
                size, stamp = self._cache.stamp(file)
            except Exception as error:
                problem, spoiled = str(error) or type(error).__name__, is_lost(error, source[0])
            seconds = time.perf_counter() - begun
            self._loop.later(partial(self._send, "cached", file, size, problem, stamp, seconds, spoiled, source[3]))
            self._loop.later(partial(self._core.came, [file]))

        self._core.fetching([file])
        self._loop.in_background(work)
