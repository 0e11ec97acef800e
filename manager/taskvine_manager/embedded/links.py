"""The connections of nodes to the manager: which nodes are connected, which are admitted, and which are lost."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from taskvine_manager import cleanup, node_parameters
from taskvine_manager.embedded import incoming
from taskvine_manager.engine_api import Watch
from taskvine_manager.functions import Gone, plain
from taskvine_manager.node.cache import release
from taskvine_manager.node.staging import memory_of
from taskvine_manager.parameters.taskvine import MAX_WORKERS
from taskvine_manager.patience import Limits, Silence, Verdict
from taskvine_manager.runtime import keeper
from taskvine_manager.runtime.removal import remove
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import NodeInfo, Profile

logger = logging.getLogger(__name__)

PUSH_SECONDS = 0.005
"""Seconds between two attempts to send what a node's socket did not take."""


class NodeLink:
    """The connection to one node."""

    def __init__(self, end: socket.socket, patience: Limits) -> None:
        self.channel = Channel(end)
        self.silence = Silence(patience)
        self.info: NodeInfo | None = None
        """The node's description, once it has sent one."""
        self.functions: set[str] = set()
        self.profiles: set[int] = set()
        self.is_admitted = False
        self.told = False
        self.send = self.channel.send

    @property
    def name(self) -> str:
        """The node's name; empty until it has described itself."""
        return self.info.name if self.info is not None else ""

    def leaves(self) -> None:
        """Note that the node said that it leaves because it was told to."""
        self.told = True

    def news(self, profiles: Iterable[Profile]) -> tuple[list[Profile], set[str]]:
        """Return the profiles, and keys of their functions, that the node has not been sent; note them as sent."""
        new = {profile.number: profile for profile in profiles if profile.number not in self.profiles}
        # Plain strings: a profile's key object, if kept here, would keep its function alive.
        keys = {plain(profile.function) for profile in new.values()} - self.functions
        self.profiles.update(new)
        self.functions.update(keys)
        return list(new.values()), keys


class Links:
    """The connections of all nodes.

    Parameters
    ----------
    base : str
        The run's private directory.
    listener : socket.socket
        Listening socket, to which nodes may have connected before this process started.
    watch, unwatch : callable
        Register and unregister a file descriptor with the manager's loop.
    hear : callable
        Called with a link, and the tag and the parts of a message from its node, which is well-formed.
    left : callable
        Called with the link and the reason when a node that had described itself is gone.
    """

    def __init__(
        self,
        base: str,
        listener: socket.socket,
        watch: Watch,
        unwatch: Callable[[int], None],
        hear: Callable[..., None],
        left: Callable[[NodeLink, str], None],
    ) -> None:
        self.admitted: dict[str, NodeLink] = {}
        """Admitted nodes by name, in the order in which they joined."""
        self.most: int | None = None
        """Maximum number of admitted nodes; None for no limit."""
        self._base = base
        self._listener = listener
        self._watch = watch
        self._unwatch = unwatch
        self._hear = hear
        self._left = left
        self._links: dict[int, NodeLink] = {}
        self._outside: deque[NodeLink] = deque()  # nodes beyond the limit, first come first
        self._blocked: set[NodeLink] = set()
        self._cleaners: list[threading.Thread] = []
        self._patience = Limits()
        self._listened = 0.0
        self._tuning: dict[str, float] = {}
        self._stopping = False
        listener.setblocking(False)
        watch(listener.fileno(), self._accept)

    # --- nodes that come ---

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
                self._gone(link, str(error))
                return
            if message is None:
                break
            self._hear(link, *message)
        if channel.ended:
            self._gone(link, "its connection ended")

    def _check(self, link: NodeLink, message: tuple[Any, ...]) -> None:
        """Check that a message is well-formed, and that the node may send it now.

        Raises
        ------
        ValueError
            If it is malformed or comes at a wrong time. Later messages of this node cannot be trusted either.
        """
        kind, *rest = message
        if kind != "hello":
            if link.info is None:
                raise ValueError(f"message {kind!r:.100} before hello")
            incoming.check(kind, tuple(rest))
            return
        info = incoming.hello(self._base, tuple(rest))
        if link.info is not None or any(other.name == info.name for other in self._links.values()):
            raise ValueError(f"a second hello: node {info.name!r} is connected already")

    def queue(self, link: NodeLink) -> None:
        """Let a node that has described itself wait until it is admitted."""
        self._outside.append(link)

    def admit(self) -> list[NodeInfo]:
        """Admit waiting nodes, up to ``max-workers``; return them."""
        came: list[NodeInfo] = []
        while self._outside and (self.most is None or len(self.admitted) < self.most):
            link = self._outside.popleft()
            assert link.info is not None
            self.admitted[link.info.name] = link
            link.is_admitted = True
            if self._tuning:
                link.send("tune", self._tuning)
            came.append(link.info)
        if self._outside and not came:
            logger.info("%d nodes wait to be admitted: %s is %s", len(self._outside), MAX_WORKERS.name, self.most)
        return came

    def infos(self) -> list[NodeInfo]:
        """Return the descriptions of admitted nodes."""
        return [link.info for link in self.admitted.values() if link.info is not None]

    def pids(self) -> set[int]:
        """Return the process ids of all nodes that have described themselves."""
        return {link.info.pid for link in self._links.values() if link.info is not None}

    # --- messages to nodes ---

    def send(self, name: str, *message: Any) -> None:
        """Send a message to an admitted node, unless it has just left."""
        link = self.admitted.get(name)
        if link is not None:
            link.send(*message)
            if link.channel.full:
                self._blocked.add(link)

    def push(self) -> float | None:
        """Send what sockets did not take before; return the seconds until the next try, None if nothing is left."""
        for link in list(self._blocked):
            link.channel.push()
            if not link.channel.full:
                self._blocked.discard(link)
        return PUSH_SECONDS if self._blocked else None

    def forget(self, gone: Iterable[Gone]) -> None:
        """Tell nodes to forget functions that no task needs any more."""
        for link in self.admitted.values():
            held = [each for each in gone if each.key in link.functions]
            if held:
                numbers = [number for each in held for number in each.profiles]
                link.functions.difference_update(each.key for each in held)
                link.profiles.difference_update(numbers)
                link.send("retire", [each.key for each in held], numbers)

    def dismiss(self, block: str) -> None:
        """Tell the nodes of a block that wait to be admitted to leave."""
        for link in self._outside:
            if link.info is not None and link.info.block == block:
                link.send("exit")

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Apply tuning parameters, and pass on those that nodes act on."""
        self._patience.tune(parameters)
        if (most := parameters.get(MAX_WORKERS.name)) is not None:
            self.most = int(most) if most > 0 else None
        for_nodes = {name: value for name, value in parameters.items() if name in node_parameters.ALL}
        if for_nodes:
            self._tuning |= for_nodes
            for link in self.admitted.values():
                link.send("tune", for_nodes)

    # --- nodes that leave ---

    def ask_silent(self, *, busy: bool) -> float | None:
        """Ping silent nodes, and drop those that do not answer: they are stopped, or stuck in the system.

        Parameters
        ----------
        busy : bool
            Whether something waits for a node. Nodes that have not described themselves are always asked.

        Returns
        -------
        float or None
            Seconds until the next check; None if nothing waits for a node.
        """
        if not self._patience.interval or not (busy or any(link.info is None for link in self._links.values())):
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

    def _give_up(self, link: NodeLink) -> None:
        reason = f"it has not answered for {self._patience.timeout:g} s"
        if link.info is not None:
            if cleanup.is_stopped(link.info.pid):
                reason += ", because its process is stopped (SIGSTOP)"
            logger.warning("node %s is killed: %s", link.info.name, reason)
            keeper.kill(link.info.pid)
        self._gone(link, reason)

    def kill(self, name: str) -> None:
        """Kill a node, unless it has just left."""
        link = self.admitted.get(name)
        if link is not None and link.info is not None:
            keeper.kill(link.info.pid)

    def _gone(self, link: NodeLink, reason: str) -> None:
        self._unwatch(link.channel.fileno())
        del self._links[link.channel.fileno()]
        link.channel.close()
        self._blocked.discard(link)
        if link.info is None:
            return
        logger.info("node %s left: %s", link.info.name, reason)
        self.admitted.pop(link.info.name, None)
        with contextlib.suppress(ValueError):
            self._outside.remove(link)
        # It may have been killed: its processes and directory must not outlive it.
        cleaner = threading.Thread(target=self._clean_after, args=(link.info,), name=f"clean-{link.info.name}")
        cleaner.start()
        self._cleaners = [*(each for each in self._cleaners if each.is_alive()), cleaner]
        self._left(link, reason)

    def _clean_after(self, info: NodeInfo) -> None:
        if os.path.isdir(info.directory):
            cleanup.kill_strays(self._base, info.name)
            release(os.path.join(info.directory, "cache"), memory_of(self._base))
            remove(info.directory)

    # --- the end ---

    def stop(self) -> None:
        """Tell every node to leave, also those that come later."""
        self._stopping = True
        for link in self._links.values():
            link.send("exit")

    @property
    def stopped(self) -> bool:
        """Whether no node is connected."""
        return not self._links

    def kill_all(self) -> None:
        """Kill the nodes that have not left."""
        for info in [link.info for link in self._links.values() if link.info is not None]:
            cleanup.kill_strays(self._base, info.name)

    def join(self, seconds: float) -> None:
        """Wait until nodes that have left are cleaned up after, at most ``seconds`` for each."""
        for cleaner in self._cleaners:
            cleaner.join(seconds)
