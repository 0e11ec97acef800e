"""Staging after tasks have run: results and outputs go into the cache, or to the user's paths."""

from __future__ import annotations

import os
from functools import partial

from taskvine_manager.node import sandboxes, staging, trees
from taskvine_manager.node.cache import Cache, QuotaExceeded
from taskvine_manager.node.calls import Call, Ending
from taskvine_manager.node.core import NodeCore
from taskvine_manager.node.loop import Loop
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.payload import discard


class StagingOut:
    """Results and outputs of tasks that have ended, and those that wait until the cache has room.

    Parameters
    ----------
    cache : Cache
        The node's cache.
    loop : Loop
        The node's loop.
    core : NodeCore
        Learns when everything is where it belongs, or does not fit.
    """

    def __init__(self, cache: Cache, loop: Loop, core: NodeCore) -> None:
        self._cache = cache
        self._loop = loop
        self._core = core

    def keep(self, call: Call, ending: Ending) -> None:
        """Keep what a task has made, as far as it is needed; report the task when that is done."""
        if ending.outcome == failure.RETURNED and isinstance(ending.body, str):
            try:
                ending = self._keep_result(call, ending, ending.body)
            except QuotaExceeded as error:
                size, retry = os.path.getsize(ending.body), partial(self.keep, call, ending)
                self._core.await_room(call, size, retry, partial(self._give_up_result, call, ending, error))
                return
        if call.directory is not None and any(use.kind != "value" for use in call.invocation.outputs):
            self._loop.in_background(self._bring_out, call, ending)
        else:
            self._core.kept(call, ending)

    def drop(self, files: tuple[str, ...]) -> None:
        """Remove files from the cache, and keep what there may be room for now."""
        for file in files:
            self._cache.drop(file)
        self._core.room_came()

    # --- results ---

    def _keep_result(self, call: Call, ending: Ending, path: str) -> Ending:
        """Move a large result that other tasks may read into the cache."""
        kept, made = path, []
        for use in call.invocation.outputs:
            if use.kind == "value":
                try:
                    self._cache.adopt(use.source, path)
                except QuotaExceeded:
                    raise
                except OSError as error:
                    return _without_result(ending, error)
                made.append((use.source, *self._cache.stamp(use.source)))
                kept = self._cache.path(use.source)
        return ending._replace(body=kept, made=tuple(made))

    def _give_up_result(self, call: Call, ending: Ending, error: QuotaExceeded) -> None:
        self.keep(call, _without_result(ending, error))

    # --- outputs ---

    def _bring_out(self, call: Call, ending: Ending) -> None:
        """Bring outputs out of a sandbox; runs in a thread."""
        required = ending.outcome == failure.RETURNED
        try:
            made, record = staging.bring_out(
                call.invocation.outputs, sandboxes.path(call), self._cache, required=required
            )
        except QuotaExceeded as error:
            self._loop.later(partial(self._outputs_exceed, call, ending, error))
            return
        self._loop.later(partial(self._brought_out, call, ending, made, record if required else None))

    def _outputs_exceed(self, call: Call, ending: Ending, error: QuotaExceeded) -> None:
        record = failure.lost("disk-full", f"no room for an output: {error.strerror}", path=error.filename)
        paths = [os.path.join(sandboxes.path(call), use.name) for use in call.invocation.outputs if use.kind == "temp"]
        size = sum(trees.survey(path).size for path in paths if os.path.exists(path))
        retry = partial(self._loop.in_background, self._bring_out, call, ending)
        self._core.await_room(call, size, retry, partial(self._brought_out, call, ending, [], record))

    def _brought_out(self, call: Call, ending: Ending, made: list[tuple[str, int, int]], record: bytes | None) -> None:
        if record is not None:
            for file, _, _ in ending.made:  # its result must not be read either
                self._cache.drop(file)
            ending = ending._replace(outcome=failure.LOST, body=record, made=())
        self._core.kept(call, ending._replace(made=(*ending.made, *made)))


def _without_result(ending: Ending, error: OSError) -> Ending:
    """Discard a result for which there is no room."""
    path = str(ending.body)
    discard(path)
    record = failure.lost(
        "disk-full", f"no room for the result: {error.strerror or error}", path=error.filename or path
    )
    return ending._replace(outcome=failure.LOST, body=record)
