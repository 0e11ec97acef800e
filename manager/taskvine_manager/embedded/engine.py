"""The one-machine engine: the shell around the scheduling core.

It accepts nodes on a unix socket that only the user can open. It turns their messages into events for the core, and the
core's instructions into messages. When a node's connection ends, the engine cleans up after the node.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from taskvine_manager import cleanup
from taskvine_manager.embedded import incoming
from taskvine_manager.embedded.losses import Losses
from taskvine_manager.engine_api import Outlet, Watch
from taskvine_manager.factory import NodeFactory
from taskvine_manager.functions import Functions, plain
from taskvine_manager.node.cache import file_name, release
from taskvine_manager.node.copying import copy
from taskvine_manager.node.replicas import Source, check, is_lost
from taskvine_manager.node.staging import memory_of
from taskvine_manager.parameters.own import BATCH
from taskvine_manager.parameters.taskvine import (
    KEEPALIVE_INTERVAL,
    KEEPALIVE_TIMEOUT,
    MAX_LIBRARY_RETRIES,
    MAX_TASK_STDOUT_STORAGE,
    MAX_WORKERS,
)
from taskvine_manager.patience import Limits, Silence, Verdict
from taskvine_manager.runtime.payload import Payload, discard
from taskvine_manager.runtime.removal import remove
from taskvine_manager.scheduling import core
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import Invocation, NodeInfo, Profile

logger = logging.getLogger(__name__)

TO_NODES = frozenset(
    each.name for each in (BATCH, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_LIBRARY_RETRIES, MAX_TASK_STDOUT_STORAGE)
)
"""Tuning parameters that nodes act on."""


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


class NodeLink:
    """The connection to one node."""

    def __init__(self, end: socket.socket, patience: Limits) -> None:
        self.channel = Channel(end)
        self.silence = Silence(patience)
        self.info: NodeInfo | None = None
        self.functions: set[str] = set()
        self.profiles: set[int] = set()
        self.told = False
        """Whether the node said that it leaves because it was told to."""
        self.send = self.channel.send


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
        self._base = base
        self._listener = listener
        self._outlet = outlet
        self._watch = watch
        self._unwatch = unwatch
        self._core = core.Scheduler(
            max_retries=config.max_retries,
            uniform=config.uniform,
            wait_for_nodes=config.wait_for_nodes,
            peer_transfers=config.peer_transfers,
        )
        self._relay = os.path.join(base, "relay")
        self._mover = ThreadPoolExecutor(2, thread_name_prefix="relay")
        self._moved: deque[core.Relayed] = deque()
        self._wake, self._waker = socket.socketpair()
        self._links: dict[int, NodeLink] = {}
        self._by_name: dict[str, NodeLink] = {}
        self._functions = Functions()
        self._blocked: set[NodeLink] = set()
        self._cleaners: list[threading.Thread] = []
        self._draining: set[str] = set()
        self._drained: set[str] = set()
        self._stopping = False
        self._losses = Losses()
        self._patience = Limits()
        self._listened = 0.0
        self._killed = 0
        self._node_tuning: dict[str, float] = {}
        self._most_nodes: int | None = None
        self._outside: deque[NodeLink] = deque()  # nodes beyond the limit, first come first
        self._factory: NodeFactory | None = None
        self._fewest = config.min_nodes
        self._per_node = float(config.per_node)
        if config.factory_command:
            self._factory = NodeFactory(config.factory_command, config.min_nodes, config.max_nodes, config.factory_log)
        listener.setblocking(False)
        watch(listener.fileno(), self._accept)
        for end in (self._wake, self._waker):
            end.setblocking(False)
        watch(self._wake.fileno(), self._woken)
        self.tune(config.tune)

    # --- requests of the manager ---

    def submit(
        self, functions: list[tuple[str, Payload]], profiles: list[Profile], invocations: list[Invocation]
    ) -> None:
        for key, encoded in functions:
            self._functions.define(key, encoded)
        self._handle(core.Submitted(tuple(map(self._functions.hold, profiles)), invocations))

    def cancel(self, numbers: tuple[int, ...]) -> None:
        self._handle(core.Cancelled(numbers))

    def forget(self, files: tuple[str, ...]) -> None:
        self._handle(core.Forgotten(files))

    def retire(self, profiles: tuple[int, ...]) -> None:
        self._handle(core.Retired(profiles))

    def _forget_functions(self) -> None:
        """Tell nodes to forget the functions that no task needs any more."""
        if gone := self._functions.gone():
            for link in self._by_name.values():
                held = [each for each in gone if each.key in link.functions]
                if held:
                    numbers = [number for each in held for number in each.profiles]
                    link.functions.difference_update(each.key for each in held)
                    link.profiles.difference_update(numbers)
                    link.send("retire", [each.key for each in held], numbers)

    def drain(self, block: str) -> None:
        self._draining.add(block)
        for link in self._outside:
            if link.info is not None and link.info.block == block:
                link.send("exit")
        self._drain()

    def _drain(self) -> None:
        """Release the nodes of draining blocks, except the last node if it has data: it stays until another joins."""
        for name, link in list(self._by_name.items()):
            drains = link.info is not None and link.info.block in self._draining
            if drains and not self._core.nodes[name].draining and not self._is_last_with_data(name):
                self._let_go(link)
        self._report_drained()

    def _is_last_with_data(self, name: str) -> bool:
        nodes = self._core.nodes
        others = any(not node.draining for other, node in nodes.items() if other != name)
        return not others and bool(nodes[name].files or nodes[name].fetching)

    def _let_go(self, link: NodeLink) -> None:
        """Tell a node to finish its running tasks; the core decides when it may leave."""
        assert link.info is not None
        link.send("drain")
        self._handle(core.NodeDraining(link.info.name))

    def locate(self, request: int, file: str) -> None:
        self._handle(core.Asked(request, file))

    def spoiled(self, node: str, file: str, stamp: int) -> None:
        self._handle(core.FileSpoiled(node, file, stamp))

    def tune(self, parameters: dict[str, float]) -> None:
        if not parameters:
            return
        self._losses.tune(parameters)
        self._patience.tune(parameters)
        if (most := parameters.get(MAX_WORKERS.name)) is not None:
            self._most_nodes = int(most) if most > 0 else None
        for_nodes = {name: value for name, value in parameters.items() if name in TO_NODES}
        if for_nodes:
            self._node_tuning |= for_nodes
            for link in self._by_name.values():
                link.send("tune", for_nodes)
        self._handle(core.Tuned(parameters))
        self._let_in()

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
        self._forget_functions()
        self._cleaners = [cleaner for cleaner in self._cleaners if cleaner.is_alive()]
        for link in list(self._blocked):
            link.channel.push()
            if not link.channel.full:
                self._blocked.discard(link)
        if self._draining:
            self._drain()
        waits = [0.005] if self._blocked else []
        self._functions.memory.tidy()
        if (wait := self._functions.memory.wait) is not None:
            waits.append(wait)
        if not self._stopping:
            self._lose_nodes()
            if (wait := self._ask_silent_nodes()) is not None:
                waits.append(wait)
            if (wait := self._losses.wait) is not None:
                waits.append(wait)
            if self._factory is not None:
                self._adjust(self._factory)
                waits.append(0.5)
        return min(waits, default=None)

    def _lose_nodes(self) -> None:
        """Kill a node if the tuning parameters for losses ask for it now."""
        name = self._losses.strike(time.monotonic(), list(self._by_name), busy=bool(self._core.tasks))
        link = self._by_name.get(name) if name is not None else None
        if link is not None and link.info is not None:
            logger.warning("node %s is killed, as the tuning parameters ask for", name)
            self._killed += 1
            with contextlib.suppress(ProcessLookupError):  # it has just died
                os.kill(link.info.pid, signal.SIGKILL)

    def _ask_silent_nodes(self) -> float | None:
        """Ping silent nodes, and drop those that do not answer: they are stopped, or stuck in the system.

        Return the seconds until the next check; None if nothing waits for a node.
        """
        if not self._patience.interval or not (self._core.tasks or self._draining or self._has_strangers()):
            return None
        now = time.monotonic()
        if (wait := self._listened + self._patience.pause - now) > 0:
            return wait
        self._listened = now
        for link in list(self._links.values()):
            verdict = link.silence.look(now)
            if verdict is Verdict.LOST:
                self._give_up(link)
            elif verdict is Verdict.ASK and link.info is not None:
                link.send("ping")
        return self._patience.pause

    def _has_strangers(self) -> bool:
        return any(link.info is None for link in self._links.values())

    def _give_up(self, link: NodeLink) -> None:
        reason = f"it has not answered for {self._patience.timeout:g} s"
        if link.info is not None:
            if cleanup.is_stopped(link.info.pid):
                reason += ", because its process is stopped (SIGSTOP)"
            logger.warning("node %s is killed: %s", link.info.name, reason)
            with contextlib.suppress(ProcessLookupError):
                os.kill(link.info.pid, signal.SIGKILL)
        self._node_gone(link, reason)

    def _adjust(self, factory: NodeFactory) -> None:
        nodes = self._core.nodes.values()
        per_node = max((node.info.slots or node.info.cores for node in nodes), default=self._per_node)
        demand = self._core.ready + sum(len(node.assigned) for node in nodes)
        joined = {link.info.pid for link in self._links.values() if link.info is not None}
        factory.adjust(joined, demand, per_node, self._most_nodes)

    def stop(self) -> None:
        self._stopping = True
        for link in self._links.values():
            link.send("exit")

    @property
    def stopped(self) -> bool:
        return not self._links

    def kill(self) -> None:
        for link in list(self._links.values()):
            if link.info is not None:
                cleanup.kill_strays(self._base, link.info.name)
        if self._factory is not None:
            self._factory.kill()
        for cleaner in self._cleaners:
            cleaner.join(5.0)
        self._mover.shutdown(wait=True, cancel_futures=True)
        self._unwatch(self._wake.fileno())
        self._wake.close()
        self._waker.close()

    # --- nodes ---

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            end, _ = self._listener.accept()
            link = NodeLink(end, self._patience)
            self._links[end.fileno()] = link
            self._watch(end.fileno(), lambda: self._node_speaks(link))
            if self._stopping:
                link.send("exit")

    def _node_speaks(self, link: NodeLink) -> None:
        channel = link.channel
        channel.read()
        link.silence.heard()
        while True:
            try:
                message = channel.next()
                if message is not None:
                    self._check(link, message)
            except ValueError as error:
                logger.error("node %s sent a malformed message, and is dropped: %s", link.info, error)
                self._node_gone(link, str(error))
                return
            if message is None:
                break
            self._on_message(link, *message)
        if channel.ended:
            self._node_gone(link, "its connection ended")

    def _check(self, link: NodeLink, message: tuple[Any, ...]) -> None:
        """Check that a message is well-formed, and that the node may send it now.

        Raises
        ------
        ValueError
            If it is not: later messages of this node cannot be trusted either.
        """
        kind, *rest = message
        if kind != "hello":
            if link.info is None:
                raise ValueError(f"{kind!r:.100} before hello")
            incoming.check(kind, tuple(rest))
            return
        info = incoming.hello(self._base, tuple(rest))
        if link.info is not None or any(
            other.info is not None and other.info.name == info.name for other in self._links.values()
        ):
            raise ValueError(f"a second hello of {info.name!r}")

    def _on_message(self, link: NodeLink, kind: str, *rest: Any) -> None:
        if kind == "hello":
            self._joined(link, NodeInfo(*rest[0]))
            return
        assert link.info is not None
        name = link.info.name
        if kind == "pong":
            pass
        elif kind == "notice":
            self._outlet.notice(f"node {name}: {rest[0]}")
        elif kind == "radio":
            self._outlet.radio(list(rest[0]))
        elif kind == "idle":
            self._idle(link, name)
        elif kind == "leaving":
            link.told = True
        elif name in self._by_name:  # else it waits to be admitted, and has no tasks
            self._handle(incoming.event(name, kind, tuple(rest)))

    def _idle(self, link: NodeLink, name: str) -> None:
        """Release a node that was idle for its timeout, unless ``min_nodes`` are left, or it is the last with data."""
        node = self._core.nodes.get(name)
        if node is None:  # it was never admitted
            link.send("exit")
            return
        staying = sum(not other.draining for other in self._core.nodes.values())
        if node.draining or node.assigned or staying <= self._fewest or self._is_last_with_data(name):
            return
        self._let_go(link)

    def _joined(self, link: NodeLink, info: NodeInfo) -> None:
        logger.info("node joined: %s", info)
        link.info = info
        if info.block in self._drained:  # it came too late: its block has been drained
            link.send("exit")
            return
        self._outside.append(link)
        self._let_in()

    def _let_in(self) -> None:
        """Admit waiting nodes, up to ``max-workers``."""
        came = len(self._by_name)
        while self._outside and (self._most_nodes is None or len(self._by_name) < self._most_nodes):
            link = self._outside.popleft()
            assert link.info is not None
            self._by_name[link.info.name] = link
            if self._node_tuning:
                link.send("tune", self._node_tuning)
            self._handle(core.NodeJoined(link.info))
        if len(self._by_name) > came:
            self._say_nodes()
        elif self._outside:
            logger.info(
                "%d nodes wait to be admitted: %s is %s", len(self._outside), MAX_WORKERS.name, self._most_nodes
            )

    def _node_gone(self, link: NodeLink, reason: str) -> None:
        self._unwatch(link.channel.fileno())
        del self._links[link.channel.fileno()]
        link.channel.close()
        self._blocked.discard(link)
        info = link.info
        if info is None:
            return
        logger.info("node %s left: %s", info.name, reason)
        self._by_name.pop(info.name, None)
        with contextlib.suppress(ValueError):
            self._outside.remove(link)
        # It may have been killed: its processes and directory must not outlive it.
        cleaner = threading.Thread(target=self._clean_after, args=(info,), name=f"clean-{info.name}")
        cleaner.start()
        self._cleaners.append(cleaner)
        node = self._core.nodes.get(info.name)
        held = [(task, task.attempts) for task in node.assigned.values()] if node is not None else []
        self._handle(core.NodeLeft(info.name, reason, link.told))
        over = core.State.DONE
        tried = [task for task, tries in held if task.attempts > tries and task.state is not over]
        again = [(task.origin or task).invocation.number for task in tried]
        if again:
            self._outlet.again(again, f"node {info.name} left: {reason}")
        self._say_nodes()
        self._report_drained()
        if not self._stopping:
            self._let_in()

    def _clean_after(self, info: NodeInfo) -> None:
        if os.path.isdir(info.directory):
            cleanup.kill_strays(self._base, info.name)
            release(os.path.join(info.directory, "cache"), memory_of(self._base))
            remove(info.directory)

    def _say_nodes(self) -> None:
        infos = [link.info for link in self._by_name.values() if link.info is not None]
        self._outlet.nodes([info._asdict() for info in infos])

    def _report_drained(self) -> None:
        left = {link.info.block for link in self._by_name.values() if link.info is not None}
        for block in self._draining - left:
            self._outlet.drained(block)
            self._drained.add(block)
        self._draining &= left

    # --- instructions ---

    def _handle(self, event: core.Event) -> None:
        for instruction in self._core.handle(event):
            self._carry_out(instruction)

    def _carry_out(self, instruction: core.Instruction) -> None:
        if isinstance(instruction, core.Finish):
            self._outlet.done(instruction.completions)
        elif isinstance(instruction, core.Again):
            self._outlet.again(instruction.numbers, "files that it made were lost")
        elif isinstance(instruction, core.Answer):
            self._outlet.located(instruction.request, self._answer(instruction))
        elif isinstance(instruction, core.Discard):
            for path in instruction.paths:
                discard(path)
        elif isinstance(instruction, core.Relay):
            self._mover.submit(self._bring, instruction.file, self._source(instruction.source, instruction.file))
        elif isinstance(instruction, core.Drop) and instruction.node == core.RELAY:
            for file in instruction.files:
                discard(self._path(core.RELAY, file))
        elif (link := self._by_name.get(instruction.node)) is not None:  # else it has just left
            self._tell(link, instruction)

    def _tell(self, link: NodeLink, instruction: core.Instruction) -> None:
        if isinstance(instruction, core.Run):
            self._run(link, instruction)
        elif isinstance(instruction, core.Fetch):
            link.send("fetch", instruction.file, self._source(instruction.source, instruction.file))
        elif isinstance(instruction, core.Drop):
            link.send("drop", instruction.files)
        elif isinstance(instruction, core.Full):
            link.send("full")
        elif isinstance(instruction, core.Kill):
            link.send("cancel", instruction.numbers)
        else:
            link.send("exit")
        if link.channel.full:
            self._blocked.add(link)

    def _run(self, link: NodeLink, run: core.Run) -> None:
        profiles = {task.profile.number: task.profile for task in run.tasks if task.profile.number not in link.profiles}
        # Plain strings: a profile's key object, if kept here, would keep its function alive.
        keys = {plain(profile.function) for profile in profiles.values()} - link.functions
        link.profiles.update(profiles)
        link.functions.update(keys)
        link.send(
            "run",
            [(key, self._functions[key]) for key in keys],
            list(profiles.values()),
            [task.invocation for task in run.tasks],
            {file: self._source(source, file) for file, source in run.sources.items()},
            run.values,
            {path: (self._path(copy.node, copy.name), copy.name, copy.stamp) for path, copy in run.copies.items()},
        )

    def _source(self, replica: core.Replica, file: str) -> Source:
        return Source(self._path(replica.node, file), replica.size, replica.stamp, replica.node)

    def _answer(self, answer: core.Answer) -> Any:
        if isinstance(answer.where, core.Replica):
            return (answer.where.node, *self._source(answer.where, answer.file)[:3])
        return (answer.record,) if answer.where is None else answer.where

    def _bring(self, file: str, source: Source) -> None:
        """Copy a node's replica to the manager's directory; runs in a thread."""
        target = self._path(core.RELAY, file)
        stamp, problem, lost = 0, None, False
        try:
            os.makedirs(self._relay, mode=0o700, exist_ok=True)
            check(source)
            copy(source.path, target)
            check(source)
            stamp = os.stat(target).st_ctime_ns
        except Exception as error:
            problem, lost = str(error) or type(error).__name__, is_lost(error, source.path)
        self._moved.append(core.Relayed(file, stamp, problem, lost))
        with contextlib.suppress(OSError):  # full: the loop will wake up anyway; or closed
            self._waker.send(b"m")

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
        while self._moved:
            self._handle(self._moved.popleft())

    def _path(self, node: str, file: str) -> str:
        if node == core.RELAY:
            return os.path.join(self._relay, file_name(file))
        return os.path.join(self._core.nodes[node].info.directory, "cache", file_name(file))
