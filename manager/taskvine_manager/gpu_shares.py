"""How managers count gpus: as one number for each node and task, while the node itself places tasks on its devices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from taskvine_manager.wire.messages import Library


def portion(asked: float, memory: float, count: int, memories: Sequence[float]) -> float:
    """Return as how many of a node's gpus a task counts, by its part or by its memory, whichever is larger.

    Tasks of several kinds may need more than they count as, because free parts of two gpus are not one gpu. The node
    then lets the last of them wait.

    Parameters
    ----------
    asked : float
        What the task asks for: a whole number of gpus, or a part of one.
    memory : float
        Memory that it needs of each, in MB; 0 for any.
    count : int
        Number of the node's gpus.
    memories : sequence of float
        Memory of each of the node's gpus, in MB; empty if it is not known.
    """
    if asked >= 1.0 or not memory or not memories:
        return asked
    return max(asked, memory * count / sum(memories))


def most(asked: float, memory: float, count: int, memories: Sequence[float]) -> float:
    """Return how many tasks of one kind fit on a node that runs no others; parameters are those of :func:`portion`.

    0 if it can never run one, infinite if they need no gpu.
    """
    if asked >= 1.0:
        there = sum(has >= memory for has in memories) if memory else count
        return there // asked
    each = math.floor(1.0 / asked + 1e-9) if asked else math.inf
    if memory:
        return sum(min(each, math.floor(has / memory)) for has in memories)
    return each * count if asked else math.inf


def largest(memories: Sequence[float]) -> dict[str, float]:
    """Return the memory of a node's largest gpu, for error messages; nothing if it is not known."""
    return {"gpu_memory": max(memories)} if memories else {}


def requested(asked: Mapping[str, float | None], library: Library | None) -> dict[str, float]:
    """Return what a task and its library ask for, for error messages."""
    found = {name: amount for name, amount in asked.items() if amount is not None}
    if library is not None:
        of_library = {"memory": library.memory or 0.0, "gpus": library.gpus, "gpu_memory": library.gpu_memory}
        found |= {name: amount for name, amount in of_library.items() if amount}
    return found
