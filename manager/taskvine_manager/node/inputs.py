"""Inputs of a node's tasks that are results or temp files: which are here, and which tasks wait for the others.

The manager sends tasks behind those that make their inputs, and while the node fetches their inputs. The module is
pure: it knows of the cache only what is in it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Protocol

from taskvine_manager.node.calls import Call
from taskvine_manager.runtime.payload import Payload

RECENT = 256
"""Small results that are kept. The manager sends tasks behind those that make their inputs, and some arrive only after
these have ended."""


class Supply(Protocol):
    """What the manager sends with tasks: sources of temp files, and small results, encoded."""

    @property
    def sources(self) -> Mapping[str, Any]:
        """Replicas elsewhere, by file."""

    @property
    def values(self) -> Mapping[str, bytes]:
        """Small results, by file."""


class Files(Protocol):
    """The temp files and results on a node."""

    def __contains__(self, name: str, /) -> bool:
        """Whether a file is here."""

    def checked(self, name: str) -> str:
        """Return the path of a file that is here; raise OSError if it cannot be read."""


class State(Enum):
    """Whether a task has its inputs."""

    READY = "ready"
    """It has, or staging will get them."""
    WAITING = "waiting"
    """Other tasks make some, or the node fetches them."""
    MISSING = "missing"
    """The task that makes one has failed, or ended long ago. The manager knows that, or soon will."""


class Inputs:
    """Inputs that are here or coming, and the tasks that wait for them.

    Parameters
    ----------
    cache : Files
        The node's cache.
    """

    def __init__(self, cache: Files) -> None:
        self._cache = cache
        self._making: dict[str, int] = {}  # results that tasks here will make
        self._coming: Counter[str] = Counter()  # files that are being fetched
        self._following: dict[str, list[Call]] = {}  # tasks that wait for either
        self._recent: OrderedDict[str, bytes] = OrderedDict()  # small results, for tasks that come late

    def expect(self, call: Call) -> None:
        """Record that a task will make its results."""
        for use in call.invocation.outputs:
            if use.kind == "value":
                self._making[use.source] = call.invocation.number

    def wait(self, call: Call, supply: Supply) -> State:
        """Let a task wait for inputs that are being made or fetched here, if there are any."""
        behind = set()
        for use in call.invocation.inputs:
            name = use.source
            if use.kind == "local" or name in supply.values or name in supply.sources or name in self._cache:
                continue
            if name in self._coming:
                behind.add(name)
            elif use.kind != "value":
                continue  # staging will report that it is missing
            elif name in self._recent:
                call.values[name] = self._recent[name]
            elif name in self._making:
                behind.add(name)
            else:
                return State.MISSING
        if not behind:
            return State.READY
        call.behind = behind
        call.supply = supply
        for name in behind:
            self._following.setdefault(name, []).append(call)
        return State.WAITING

    def fetching(self, names: Iterable[str]) -> None:
        """Record that files are being fetched."""
        self._coming.update(names)

    def fetched(self, names: Iterable[str]) -> list[Call]:
        """Record that transfers have ended, well or not; return the tasks that wait for nothing any more."""
        self._coming.subtract(names)
        ready = []
        for name in names:
            if not self._coming[name]:
                del self._coming[name]
                ready += self._released(name)
        return ready

    def made(self, call: Call, body: Payload) -> list[Call]:
        """Take the result that a task has returned, and keep it if it is small; return the tasks as above."""
        ready = []
        for use in call.invocation.outputs:
            name = use.source
            if use.kind == "value" and self._making.pop(name, None) is not None:
                if isinstance(body, bytes):
                    self._recent[name] = body
                    if len(self._recent) > RECENT:
                        self._recent.popitem(last=False)
                    for follower in self._following.get(name, ()):
                        follower.values[name] = body
                ready += self._released(name)
        return ready

    def _released(self, name: str) -> list[Call]:
        followers = self._following.pop(name, [])
        for call in followers:
            call.behind.discard(name)
        return [call for call in followers if not call.behind]

    def are_available(self, call: Call, supply: Supply) -> bool:
        """Return whether each input of a task that has waited is here, or can be fetched."""
        return all(
            any(use.source in known for known in (call.values, supply.values, supply.sources, self._cache))
            for use in call.invocation.inputs
            if use.kind != "local"
        )

    def give_results(self, call: Call, values: Mapping[str, bytes]) -> None:
        """Give a task the results that it reads, of which ``values`` came with it and others are in the cache.

        Raises
        ------
        OSError
            If one cannot be read.
        """
        for use in call.invocation.inputs:
            if use.kind == "value" and use.source not in call.values:
                inline = values.get(use.source)
                call.values[use.source] = self._cache.checked(use.source) if inline is None else inline

    def give_all(self, call: Call, supply: Supply) -> bool:
        """Give a task its inputs, if these are results that are here; return whether the task needs no staging."""
        invocation = call.invocation
        if not invocation.inputs:
            return all(use.kind == "value" for use in invocation.outputs)
        if any(use.kind != "value" for use in (*invocation.inputs, *invocation.outputs)):
            return False
        here = (call.values, supply.values, self._cache)
        if not all(any(use.source in known for known in here) for use in invocation.inputs):
            return False
        try:
            self.give_results(call, supply.values)
        except OSError:
            return False  # staging will report this error
        return True

    def waiting(self, numbers: set[int]) -> list[Call]:
        """Return the tasks of these numbers that wait for inputs."""
        return [call for calls in self._following.values() for call in calls if call.invocation.number in numbers]

    def drop(self, call: Call) -> list[Call]:
        """Forget a task that has ended or was given back; return the tasks that wait for its results in vain."""
        for name in call.behind:
            if call in self._following.get(name, ()):
                self._following[name].remove(call)
        followers: list[Call] = []
        for use in call.invocation.outputs:
            if use.kind == "value" and self._making.get(use.source) == call.invocation.number:
                del self._making[use.source]
                followers += self._following.pop(use.source, ())
        return followers
