"""The one-machine engine: the shell around the scheduling core.

It accepts nodes on a unix socket that only the user can open. It turns their messages into events for the core, and the
core's instructions into messages. When a node's connection ends, the engine cleans up after the node.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from taskvine_manager.embedded import incoming
from taskvine_manager.embedded.departures import Departures
from taskvine_manager.embedded.instructions import Instructions
from taskvine_manager.embedded.links import Links, NodeLink
from taskvine_manager.embedded.losses import Losses
from taskvine_manager.embedded.relay import Relay
from taskvine_manager.engine_api import Outlet, Watch
from taskvine_manager.factory import NodeFactory
from taskvine_manager.functions import Functions
from taskvine_manager.parameters.own import RECORD_DETAILS
from taskvine_manager.record.events import NodeExited, Process
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.scheduling import checking, events
from taskvine_manager.scheduling.core import Scheduler
from taskvine_manager.scheduling.tables import Settings
from taskvine_manager.scheduling.tasks import State
from taskvine_manager.wire.messages import Invocation, NodeInfo, Profile

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Seconds between two times that the record says why tasks wait."""
CLEAN_SECONDS = 5.0
"""Seconds that the engine waits at its end until what each node left has been removed."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedConfig:
    """Configuration of the engine.

    Parameters
    ----------
    max_retries : int or None
        Further attempts at a task whose node was lost; None for no limit.
    uniform : bool
        Whether all nodes are alike.
    wait_for_nodes : int
        Nodes that must have joined before anything runs.
    tune : dict of str to float
        Tuning parameters.
    factory_command : tuple of str
        Command that starts a node, if the engine starts nodes itself; else empty.
    factory_log : str
        File for the output of nodes that the factory starts.
    min_nodes, max_nodes : int
        Bounds for the factory.
    per_node : int
        Tasks that a node is expected to run at once, used before any node has joined.
    peer_transfers : bool
        Whether nodes copy files from one another; if not, all files pass through a directory of the manager.
    """

    max_retries: int | None = 1
    uniform: bool = True
    wait_for_nodes: int = 0
    tune: dict[str, float]
    factory_command: tuple[str, ...] = ()
    factory_log: str = os.devnull
    min_nodes: int = 0
    max_nodes: int = 0
    per_node: int = 1
    peer_transfers: bool = True


class EmbeddedEngine:
    """Engine that runs tasks on nodes of one machine.

    Parameters
    ----------
    base : str
        The run's private directory.
    listener : socket.socket
        Listening socket, to which nodes may have connected before this process started.
    config : EmbeddedConfig
        The engine's configuration.
    outlet : Outlet
        Receives completions and other news.
    watch, unwatch : callable
        Register and unregister a file descriptor with the manager's loop.
    """

    def __init__(
        self, base: str, listener: socket.socket, config: EmbeddedConfig, outlet: Outlet, watch: Watch, unwatch: Any
    ) -> None:
        self._outlet = outlet
        settings = Settings(
            max_retries=config.max_retries,
            uniform=config.uniform,
            wait_for_nodes=config.wait_for_nodes,
            peer_transfers=config.peer_transfers,
            details=bool(RECORD_DETAILS.of(config.tune)),
        )
        self._core = Scheduler(settings, check=checking.is_wanted(os.environ))
        self._functions = Functions()
        self._losses = Losses()
        self._killed = 0
        self._looked = 0.0
        self._stopping = False
        self._links = Links(base, listener, watch, unwatch, self._hear, self._left)
        self._relay = Relay(os.path.join(base, "relay"), watch, unwatch, self._handle)
        self._departures = Departures(self._core, self._links, outlet, self._handle, config.min_nodes)
        self._carry_out = Instructions(self._links, self._relay, self._functions, outlet).carry_out
        self._hearers: dict[str, Callable[..., None]] = {
            "hello": self._introduced,
            "pong": lambda link: None,  # whatever a node says shows that it is alive
            "notice": lambda link, text: outlet.notice(f"node {link.name}: {text}"),
            "radio": lambda link, said: outlet.radio(list(said)),
            "steps": lambda link, steps: outlet.happened([Process(link.name, *step) for step in steps]),
            "idle": self._idle,
            "leaving": NodeLink.leaves,
        }
        self._factory: NodeFactory | None = None
        self._per_node = float(config.per_node)
        if config.factory_command:
            self._factory = NodeFactory(config.factory_command, config.min_nodes, config.max_nodes, config.factory_log)
        self.tune(config.tune)

    def _handle(self, event: events.Event) -> None:
        for instruction in self._core.handle(event):
            self._carry_out(instruction)

    # --- requests of the manager ---

    def submit(
        self, functions: list[tuple[str, Payload]], profiles: list[Profile], invocations: list[Invocation]
    ) -> None:
        for key, encoded in functions:
            self._functions.define(key, encoded)
        self._handle(events.Submitted(tuple(map(self._functions.hold, profiles)), invocations))

    def cancel(self, numbers: tuple[int, ...]) -> None:
        self._handle(events.Cancelled(numbers))

    def forget(self, files: tuple[str, ...]) -> None:
        self._handle(events.Forgotten(files))

    def retire(self, profiles: tuple[int, ...]) -> None:
        self._handle(events.Retired(profiles))

    def drain(self, block: str) -> None:
        self._departures.drain(block)

    def locate(self, request: int, file: str) -> None:
        self._handle(events.Asked(request, file))

    def spoiled(self, node: str, file: str, stamp: int) -> None:
        self._handle(events.FileSpoiled(node, file, stamp))

    def tune(self, parameters: dict[str, float]) -> None:
        if not parameters:
            return
        self._losses.tune(parameters)
        self._links.tune(parameters)
        self._handle(events.Tuned(parameters))
        self._admit()

    def stats(self) -> dict[str, Any]:
        return {**self._core.stats(), "nodes_killed": self._killed}

    def snapshot(self) -> dict[str, Any]:
        return self._core.snapshot()

    @property
    def waiting(self) -> int:
        return self._core.waiting - self._core.recovering

    @property
    def tasks(self) -> int:
        return len(self._core.tasks)

    def tick(self) -> float | None:
        if gone := self._functions.gone():
            self._links.forget(gone)
        self._functions.memory.tidy()
        waits = [self._links.push(), self._functions.memory.wait]
        if self._departures.draining:
            self._departures.release()
        if not self._stopping:
            self._lose_nodes()
            busy = bool(self._core.tasks or self._departures.draining)
            waits += [self._links.ask_silent(busy=busy), self._losses.wait, self._look()]
            if self._factory is not None:
                self._adjust(self._factory)
                waits.append(0.5)
        return min((wait for wait in waits if wait is not None), default=None)

    def _look(self) -> float | None:
        """Have the record say why tasks wait, if it is time; return the seconds until then, None if none wait."""
        if not self._core.holds:
            return None
        now = time.monotonic()
        if (wait := self._looked + LOOK_SECONDS - now) > 0:
            return wait
        self._looked = now
        self._handle(events.Looked())
        return LOOK_SECONDS

    def _lose_nodes(self) -> None:
        """Kill a node if the tuning parameters for losses ask for it now."""
        name = self._losses.strike(time.monotonic(), list(self._links.admitted), busy=bool(self._core.tasks))
        if name is not None:
            logger.warning("node %s is killed, as the tuning parameters ask for", name)
            self._killed += 1
            self._links.kill(name)

    def _adjust(self, factory: NodeFactory) -> None:
        nodes = self._core.nodes.values()
        per_node = max((node.info.slots or node.info.cores for node in nodes), default=self._per_node)
        demand = self._core.ready + sum(len(node.assigned) for node in nodes)
        factory.adjust(self._links.pids(), demand, per_node, self._links.most)
        if ended := factory.ended():
            self._outlet.happened([NodeExited(*each) for each in ended])

    def stop(self) -> None:
        self._stopping = True
        self._links.stop()

    @property
    def stopped(self) -> bool:
        return self._links.stopped

    def kill(self) -> None:
        self._links.kill_all()
        if self._factory is not None:
            self._factory.kill()
        self._links.join(CLEAN_SECONDS)
        self._relay.close()

    # --- nodes ---

    def _hear(self, link: NodeLink, kind: str, *rest: Any) -> None:
        """Handle a message of a node, which :mod:`~taskvine_manager.embedded.incoming` has found to be well-formed."""
        event = incoming.EVENTS.get(kind)
        if event is None:
            self._hearers[kind](link, *rest)
        elif link.is_admitted:  # a node that is not has no tasks
            self._handle(event(link.name, *rest))

    def _introduced(self, link: NodeLink, described: tuple[Any, ...]) -> None:
        info = link.info = NodeInfo(*described)
        logger.info("node joined: %s", info)
        if info.block in self._departures.drained:  # its block is no longer wanted
            link.send("exit")
        else:
            self._links.queue(link)
            self._admit()

    def _admit(self) -> None:
        """Admit waiting nodes, up to the ``max-workers`` parameter."""
        joined = self._links.admit()
        for info in joined:
            self._handle(events.NodeJoined(info))
        if joined:
            self._report_nodes()

    def _idle(self, link: NodeLink) -> None:
        if link.is_admitted:
            self._departures.release_idle(link.name)
        else:
            link.send("exit")

    def _left(self, link: NodeLink, reason: str) -> None:
        """Handle the end of a node: its tasks run again elsewhere."""
        name = link.name
        node = self._core.nodes.get(name)
        before = [(task, task.attempts) for task in node.assigned.values()] if node is not None else []
        self._handle(events.NodeLeft(name, reason, link.told))
        # The scheduler has charged an attempt to those that ran. Others only move to another node.
        retried = [task for task, attempts in before if task.attempts > attempts and task.state is not State.DONE]
        if retried:
            numbers = [(task.origin or task).invocation.number for task in retried]
            self._outlet.run_again(numbers, f"node {name} left: {reason}")
        self._report_nodes()
        self._departures.report()
        if not self._stopping:
            self._admit()

    def _report_nodes(self) -> None:
        self._outlet.nodes([info._asdict() for info in self._links.infos()])
