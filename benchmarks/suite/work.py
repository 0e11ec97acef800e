"""What is called. Workers import this module by its name: it imports nothing that a function does not need."""

from __future__ import annotations

from typing import Any


def noop(extra_payload: Any) -> int:
    """The app of parsl-perf."""
    return 7


def increment(x: int) -> int:
    """A link of a chain."""
    return x + 1


def gather(*numbers: int) -> int:
    """The end of a fan."""
    return sum(numbers)


def hold(begun: str, gate: str) -> None:
    """Run until a file is there."""
    import os
    import time

    open(begun, "w").close()
    while not os.path.exists(gate):
        time.sleep(0.005)


# --- payloads ---


def size_of(data: Any) -> int:
    """Take data, and touch each of its pages."""
    return touched(data) or len(data)


def data_of(size: int) -> Any:
    """Make data."""
    import numpy as np

    return np.zeros(size, np.uint8)


def touched(data: Any) -> int:
    """Read a byte of each page; 0 for what :func:`data_of` makes."""
    return int(data[::4096].sum())


# --- arrays ---


def make(count: int, fill: float) -> Any:
    """A block of doubles."""
    import numpy as np

    return np.full(count, fill)


def add(a: Any, b: Any) -> Any:
    """An inner node of a tree."""
    return a + b


def part(block: Any, number: int, parts: int) -> Any:
    """What a block contributes to one of the blocks that follow a shuffle."""
    size = len(block) // parts
    return block[number * size : (number + 1) * size].copy()


def total(*pieces: Any) -> float:
    """All pieces of a shuffle that belong together, reduced."""
    return float(sum(piece.sum() for piece in pieces))


def relax(left: Any, block: Any, right: Any) -> Any:
    """A block one time step later: the mean of each value and its neighbours."""
    import numpy as np

    padded = np.concatenate((left[-1:], block, right[:1]))
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def ends(*blocks: Any) -> list[float]:
    """First and last value of each block."""
    return [float(value) for block in blocks for value in (block[0], block[-1])]


# --- imports and contexts ---


MODULES = ("numpy", "ase", "scipy.linalg")
"""What :func:`with_imports` imports."""


def with_imports(x: float) -> float:
    """A function of somebody's who imports what scientists import."""
    import numpy as np
    from ase import Atoms
    from scipy import linalg

    cell = Atoms("Cu", cell=np.eye(3) * x, pbc=True).cell
    return float(linalg.det(np.asarray(cell)))


def build(seconds: float) -> dict[str, Any]:
    """A context that takes its time."""
    import time

    time.sleep(seconds)
    return {"table": list(range(1000))}


def _use(table: list[int]) -> int:
    return sum(number * number % 7 for number in table * 100)


def with_context(_: float) -> int:
    """Work with what the library's context has built."""
    from taskvine_exec import load_variable_from_library

    return _use(load_variable_from_library("table"))


def without_context(seconds: float) -> int:
    """The same work, and the context built for it."""
    return _use(build(seconds)["table"])


_built: dict[float, dict[str, Any]] = {}


def with_own_context(seconds: float) -> int:
    """The same work, in a process that has built the context once."""
    if seconds not in _built:
        _built[seconds] = build(seconds)
    return _use(_built[seconds]["table"])
