"""What the engine does at each instruction of the scheduler."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from taskvine_manager.embedded.links import Links
from taskvine_manager.embedded.relay import Relay
from taskvine_manager.engine_api import Outlet
from taskvine_manager.functions import Functions
from taskvine_manager.node.cache import Source, file_name
from taskvine_manager.runtime.payload import discard
from taskvine_manager.scheduling import events


class Instructions:
    """Carries out instructions: tells nodes, and the user's process.

    Parameters
    ----------
    links : Links
        The nodes.
    relay : Relay
        The manager's own directory.
    functions : Functions
        The functions that tasks may need.
    outlet : Outlet
        Receives completions and other news.
    """

    def __init__(self, links: Links, relay: Relay, functions: Functions, outlet: Outlet) -> None:
        self._links = links
        self._relay = relay
        self._functions = functions
        self._outlet = outlet
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.Run: self._run,
            events.Finish: self._finish,
            events.Again: self._again,
            events.Fetch: self._fetch,
            events.Relay: self._bring,
            events.Drop: self._drop,
            events.Full: self._full,
            events.Kill: self._kill,
            events.Release: self._release,
            events.Discard: self._discard,
            events.Answer: self._answer,
        }

    def carry_out(self, instruction: events.Instruction) -> None:
        """Carry out one instruction. Nothing is sent to a node that has just left.

        Raises
        ------
        TypeError
            If the instruction is of an unknown type.
        """
        handler = self._handlers.get(type(instruction))
        if handler is None:
            raise TypeError(f"unknown instruction of the scheduler: {instruction!r:.200}")
        handler(instruction)

    # --- nodes ---

    def _run(self, run: events.Run) -> None:
        link = self._links.admitted.get(run.node)
        if link is None:
            return
        profiles, keys = link.news(task.profile for task in run.tasks)
        self._links.send(
            run.node,
            "run",
            [(key, self._functions[key]) for key in keys],
            profiles,
            [task.invocation for task in run.tasks],
            {file: self._source(source, file) for file, source in run.sources.items()},
            run.values,
            {path: (self._path(copy.node, copy.name), copy.name, copy.stamp) for path, copy in run.copies.items()},
        )

    def _fetch(self, fetch: events.Fetch) -> None:
        self._links.send(fetch.node, "fetch", fetch.file, self._source(fetch.source, fetch.file))

    def _bring(self, relay: events.Relay) -> None:
        self._relay.bring(relay.file, self._source(relay.source, relay.file))

    def _drop(self, drop: events.Drop) -> None:
        if drop.node == events.RELAY:
            self._relay.drop(drop.files)
        else:
            self._links.send(drop.node, "drop", drop.files)

    def _full(self, full: events.Full) -> None:
        self._links.send(full.node, "full")

    def _kill(self, kill: events.Kill) -> None:
        self._links.send(kill.node, "cancel", kill.numbers)

    def _release(self, release: events.Release) -> None:
        self._links.send(release.node, "exit")

    def _source(self, replica: events.Replica, file: str) -> Source:
        return Source(self._path(replica.node, file), replica.size, replica.stamp, replica.node)

    def _path(self, node: str, file: str) -> str:
        if node == events.RELAY:
            return self._relay.path(file)
        info = self._links.admitted[node].info
        assert info is not None
        return os.path.join(info.directory, "cache", file_name(file))

    # --- the user's process ---

    def _finish(self, finish: events.Finish) -> None:
        self._outlet.done(finish.completions)

    def _again(self, again: events.Again) -> None:
        self._outlet.again(again.numbers, "files that it made were lost")

    def _discard(self, discarded: events.Discard) -> None:
        for path in discarded.paths:
            discard(path)

    def _answer(self, answer: events.Answer) -> None:
        where: Any = answer.where
        if isinstance(where, events.Replica):
            where = (where.node, *self._source(where, answer.file)[:3])
        self._outlet.located(answer.request, (answer.record,) if where is None else where)
