"""The simulated nodes that exist at a time: they join, are lost at random times, and are replaced."""

from __future__ import annotations

import random
from collections.abc import Callable

from taskvine_manager.scheduling.events import NodeJoined, NodeLeft
from taskvine_manager.scheduling.nodes import MB
from taskvine_manager.wire.messages import NodeInfo
from taskvine_tune.simulation.files import Surroundings
from taskvine_tune.simulation.nodes import ImaginedNode

__all__ = ["Fleet"]

UNLIMITED = 1 << 40
"""MB of a disk without limit."""


class Fleet:
    """The nodes of a simulation.

    Parameters
    ----------
    size
        How many there are, unless some are lost.
    loss_rate
        Losses per node and second.
    library_slots
        Slots of each node's library; None for one for each core.
    seed
        Seed of the losses.
    around
        The environment of each node.
    lost
        Called after each loss.
    """

    def __init__(
        self,
        size: int,
        loss_rate: float,
        library_slots: int | None,
        seed: int,
        around: Surroundings,
        lost: Callable[[], None],
    ) -> None:
        self.size = size
        self.loss_rate = loss_rate
        self.losses = 0
        self._cluster = around.cluster
        self._library_slots = library_slots
        self._random = random.Random(seed)
        self._around = around
        self._lost = lost
        self._nodes: dict[str, ImaginedNode] = {}
        self._joined: dict[str, float] = {}
        self._node_seconds = 0.0  # of nodes that were lost

    def start(self) -> None:
        """Start the nodes."""
        for place in range(self.size):
            self._around.clock.after(self._cluster.startup, self._join, f"n{place}", 0)

    def get(self, name: str) -> ImaginedNode | None:
        """Return a node, or None if it does not exist."""
        return self._nodes.get(name)

    @property
    def slot_seconds(self) -> float:
        """Seconds for which slots have existed, all together."""
        node_seconds = self._node_seconds
        for since in self._joined.values():
            node_seconds += self._around.clock.now - since
        return node_seconds * (self._library_slots or self._cluster.slots)

    def _join(self, place: str, generation: int) -> None:
        cluster = self._cluster
        name = f"{place}.{generation}" if generation else place
        # The scheduler knows a node's disk in whole MB, and takes 0 for a disk that cannot hold what a task requests.
        megabytes = cluster.disk // MB or UNLIMITED
        slots, gpus = self._library_slots, cluster.gpus
        memories = (cluster.gpu_memory,) * gpus if cluster.gpu_memory else ()
        info = NodeInfo(name, float(cluster.slots), cluster.memory, megabytes, gpus, slots, "", 0, "", memories)
        node = self._nodes[name] = ImaginedNode(info, megabytes * MB, self._around)
        self._joined[name] = self._around.clock.now
        if self.loss_rate:
            self._around.clock.after(self._random.expovariate(self.loss_rate), self._lose, node, place, generation)
        self._around.say(NodeJoined(info))

    def _lose(self, node: ImaginedNode, place: str, generation: int) -> None:
        name = node.info.name
        del self._nodes[name]
        self._node_seconds += self._around.clock.now - self._joined.pop(name)
        self.losses += 1
        node.die()
        self._around.say(NodeLeft(name, "it was lost"))
        if self._cluster.replace:
            self._around.clock.after(self._cluster.startup, self._join, place, generation + 1)
        self._lost()
