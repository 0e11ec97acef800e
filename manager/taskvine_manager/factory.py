"""Nodes without a provider: as many as the tasks need, between a minimum and a maximum.

This is TaskVine's ``vine_factory`` for one machine. A pure function computes the number of nodes, and a class starts
and reaps their processes.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Sequence

from taskvine_manager.engine_api import NodesFail
from taskvine_manager.node.deaths import tail


def wanted(*, running: int, demand: float, per_node: float, minimum: int, maximum: int) -> int:
    """Return how many nodes there should be.

    Parameters
    ----------
    running : int
        Number of nodes that run or are starting.
    demand : float
        Number of tasks that run or could run now.
    per_node : float
        Number of tasks that one node runs at once.
    minimum, maximum : int
        Bounds of the result.

    Returns
    -------
    int
        At least ``running``: nodes leave by themselves when they have been idle for ``worker_timeout``.
    """
    enough = math.ceil(demand / max(per_node, 1.0))
    return max(running, minimum, min(maximum, enough)) if running < maximum else running


class NodeFactory:
    """Starts nodes by command, and replaces those that end.

    Parameters
    ----------
    command : sequence of str
        Command that starts one node.
    minimum, maximum : int
        Bounds of the number of nodes.
    log : str
        File to which the nodes' standard streams are appended.
    """

    FAILURES = 5
    """Number of consecutive nodes that end before they join after which the factory gives up."""

    def __init__(self, command: Sequence[str], minimum: int, maximum: int, log: str = os.devnull) -> None:
        self._command = list(command)
        self._minimum = minimum
        self._maximum = maximum
        self._log = log
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._joined: set[int] = set()
        self._failures = 0
        self._ended: list[tuple[int, int]] = []

    def ended(self) -> list[tuple[int, int]]:
        """Return the process id and exit status of each node that has ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def adjust(self, joined: set[int], demand: float, per_node: float, most: int | None = None) -> None:
        """Reap the nodes that ended and start those that are missing.

        Parameters
        ----------
        joined : set of int
            Process ids of nodes that have joined.
        demand : float
            Number of tasks that run or could run now.
        per_node : float
            Number of tasks that one node runs at once.
        most : int, optional
            A temporary maximum, below the factory's own.

        Raises
        ------
        NodesFail
            If :attr:`FAILURES` nodes in a row ended before they joined.
        """
        if joined - self._joined:
            self._failures = 0
        self._joined |= joined
        for pid, process in list(self._processes.items()):
            if (status := process.poll()) is not None:
                self._ended.append((pid, status))
                del self._processes[pid]
                self._failures += pid not in self._joined
                self._joined.discard(pid)
        if self._failures >= self.FAILURES:
            raise NodesFail(f"{self._failures} nodes in a row ended before they joined", tail(self._log))
        count = wanted(
            running=len(self._processes),
            demand=demand,
            per_node=per_node,
            minimum=self._minimum if most is None else min(self._minimum, most),
            maximum=self._maximum if most is None else min(self._maximum, most),
        )
        for _ in range(count - len(self._processes)):
            with open(self._log, "ab") as output:
                process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            self._processes[process.pid] = process

    def kill(self) -> None:
        """Kill and reap the remaining nodes."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._processes.clear()
