"""What the engine does at each instruction of the scheduler."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from taskvine_manager.embedded.links import Links
from taskvine_manager.embedded.relay import Relay
from taskvine_manager.engine_api import Outlet
from taskvine_manager.functions import Functions
from taskvine_manager.node.cache import file_name
from taskvine_manager.node.replicas import Source
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
        send = links.send
        self._handlers: dict[type, Callable[[Any], None]] = {
            events.Run: self._run,
            events.Fetch: lambda it: send(it.node, "fetch", it.file, self._source(it.source, it.file)),
            events.Drop: self._drop,
            events.Full: lambda it: send(it.node, "full", it.numbers),
            events.Kill: lambda it: send(it.node, "cancel", it.numbers),
            events.Release: lambda it: send(it.node, "exit"),
            events.Relay: lambda it: relay.bring(it.file, self._source(it.source, it.file)),
            events.Discard: self._discard,
            events.Finish: lambda it: outlet.done(it.completions),
            events.RunAgain: lambda it: outlet.run_again(it.numbers, "files that it made were lost"),
            events.Record: lambda it: outlet.happened(it.events),
            events.Answer: lambda it: outlet.located(it.request, self._answer(it)),
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

    def _drop(self, drop: events.Drop) -> None:
        if drop.node == events.RELAY:
            self._relay.drop(drop.files)
        else:
            self._links.send(drop.node, "drop", drop.files)

    def _source(self, replica: events.Replica, file: str) -> Source:
        return Source(self._path(replica.node, file), replica.size, replica.stamp, replica.node)

    def _path(self, node: str, file: str) -> str:
        if node == events.RELAY:
            return self._relay.path(file)
        info = self._links.admitted[node].info
        assert info is not None
        return os.path.join(info.directory, "cache", file_name(file))

    def _discard(self, discarded: events.Discard) -> None:
        for path in discarded.paths:
            discard(path)

    def _answer(self, answer: events.Answer) -> Any:
        if isinstance(answer.where, events.Replica):
            return (answer.where.node, *self._source(answer.where, answer.file)[:3])
        return (answer.record,) if answer.where is None else answer.where
