"""An engine for one machine. The test acts as the manager's loop and as the nodes."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Any

from taskvine_manager.embedded.engine import EmbeddedConfig, EmbeddedEngine
from taskvine_manager.record.events import Event
from taskvine_manager.runtime import failure
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import L2, Completion, NodeInfo, Profile

PROFILE = Profile(0, "key", "f", L2, None, None, None, None, 0.0, "f")


def completion(number: int) -> Completion:
    return Completion(number, failure.RETURNED, b"body", "bad", 1.0, 1.0, 0.1)


class Outlet:
    """Keeps what the engine reports."""

    def __init__(self) -> None:
        self.ended: list[Completion] = []
        self.there: list[dict[str, Any]] = []
        self.said: list[tuple[Any, ...]] = []
        self.events: list[Event] = []

    def done(self, completions: list[Completion]) -> None:
        self.ended += completions

    def nodes(self, nodes: list[dict[str, Any]]) -> None:
        self.there = nodes

    def happened(self, events: list[Event]) -> None:
        self.events += events

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *parts: self.said.append((name, *parts))


class Shell:
    """An engine, and the loop around it."""

    def __init__(self, base: str, **settings: Any) -> None:
        self.base = base
        os.makedirs(os.path.join(base, "nodes"))
        self.callbacks: dict[int, Callable[[], None]] = {}
        self.outlet = Outlet()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(os.path.join(base, "manager.sock"))
        listener.listen()
        self.listener = listener
        self.engine = EmbeddedEngine(
            base,
            listener,
            EmbeddedConfig(**{"max_retries": 1, "tune": {}, **settings}),
            self.outlet,
            self.callbacks.__setitem__,
            self.callbacks.__delitem__,
        )
        self.peers: list[Node] = []

    def turn(self) -> None:
        """Let the engine handle all messages that have arrived."""
        while ready := select.select(list(self.callbacks), [], [], 0)[0]:
            for descriptor in ready:
                if descriptor in self.callbacks:
                    self.callbacks[descriptor]()
        self.engine.tick()

    def node(self) -> Node:
        node = Node(self)
        self.peers.append(node)
        self.turn()
        return node

    def join(self, name: str, **fields: Any) -> Node:
        """Connect a node that describes itself."""
        node = self.node()
        node.called = name
        node.say("hello", node.info(name, **fields))
        return node

    def names(self) -> list[str]:
        """Return the names of the nodes that the engine has reported last."""
        return [node["name"] for node in self.outlet.there]

    def close(self) -> None:
        """Stop the engine, unless the test has done so."""
        if self.listener.fileno() == -1:
            return
        self.engine.stop()
        for peer in self.peers:
            peer.channel.close()
        self.turn()
        self.engine.kill()
        self.listener.close()


class Node:
    """A node's end of the connection, used by a test."""

    def __init__(self, shell: Shell) -> None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.connect(os.path.join(shell.base, "manager.sock"))
        self.channel = Channel(end)
        self.shell = shell
        self.called = ""

    def info(self, called: str, **fields: Any) -> NodeInfo:
        directory = os.path.join(self.shell.base, "nodes", called)
        return NodeInfo(called, 2.0, 1000.0, 1000.0, 0, 2, "", 4_000_000, directory)._replace(**fields)

    def say(self, *message: Any) -> None:
        self.channel.send(*message)
        self.shell.turn()

    def told(self) -> list[tuple[Any, ...]]:
        """Return the messages to the node since the last call."""
        while self.channel.read():
            pass
        found = []
        while (message := self.channel.next()) is not None:
            found.append(message)
        return found

    @property
    def is_dropped(self) -> bool:
        """Whether the engine has closed the connection; earlier messages are read first."""
        while self.channel.read():
            pass
        return self.channel.ended

    def work(self) -> bool:
        """End the tasks that were sent to the node; return whether there were any."""
        done = []
        for message in self.told():
            if message[0] == "run":
                for number, _, _, _, outputs in message[3]:
                    made = tuple((use[2], 3, 5) for use in outputs)
                    done.append(completion(number)._replace(node="good", made=made))
        if done:
            self.say("done", done)
        return bool(done)
