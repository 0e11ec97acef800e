"""The measured functions. Workers import this module by name: each function imports only the modules that it needs."""

from __future__ import annotations

from typing import Any


def noop(extra_payload: Any) -> int:
    """Return a constant, like the app of parsl-perf."""
    return 7


def increment(x: int) -> int:
    """Add one: a link of a chain."""
    return x + 1


def gather(*numbers: int) -> int:
    """Add numbers: the end of a fan."""
    return sum(numbers)


def hold(begun: str, gate: str) -> None:
    """Run until the file ``gate`` exists."""
    import os
    import time

    open(begun, "w").close()
    while not os.path.exists(gate):
        time.sleep(0.005)


# --- payloads ---


def size_of(data: Any) -> int:
    """Touch each page of an array, and return its size."""
    return touched(data) or len(data)


def data_of(size: int) -> Any:
    """Make an array of zeros."""
    import numpy as np

    return np.zeros(size, np.uint8)


def touched(data: Any) -> int:
    """Return the sum of one byte of each page; 0 for arrays of :func:`data_of`."""
    return int(data[::4096].sum())


# --- arrays ---


def make(count: int, fill: float) -> Any:
    """Make a block of doubles."""
    import numpy as np

    return np.full(count, fill)


def add(a: Any, b: Any) -> Any:
    """Add two blocks: an inner node of a tree."""
    return a + b


def part(block: Any, number: int, parts: int) -> Any:
    """Copy the part of a block that goes to one reducer of a shuffle."""
    size = len(block) // parts
    return block[number * size : (number + 1) * size].copy()


def total(*pieces: Any) -> float:
    """Sum the parts that go to one reducer of a shuffle."""
    return float(sum(piece.sum() for piece in pieces))


def relax(left: Any, block: Any, right: Any) -> Any:
    """Compute a block one time step later: the mean of each value and its neighbours."""
    import numpy as np

    padded = np.concatenate((left[-1:], block, right[:1]))
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def ends(*blocks: Any) -> list[float]:
    """Return the first and last value of each block."""
    return [float(value) for block in blocks for value in (block[0], block[-1])]


# --- imports and contexts ---


MODULES = ("numpy", "ase", "scipy.linalg")
"""Modules that :func:`with_imports` imports."""


def with_imports(x: float) -> float:
    """Compute with typical imports of scientists."""
    import numpy as np
    from ase import Atoms
    from scipy import linalg

    cell = Atoms("Cu", cell=np.eye(3) * x, pbc=True).cell
    return float(linalg.det(np.asarray(cell)))


def build(seconds: float) -> dict[str, Any]:
    """Build a context that takes ``seconds``."""
    import time

    time.sleep(seconds)
    return {"table": list(range(1000))}


def _use(table: list[int]) -> int:
    return sum(number * number % 7 for number in table * 100)


def with_context(_: float) -> int:
    """Work with the library's context."""
    from taskvine_exec import load_variable_from_library

    return _use(load_variable_from_library("table"))


def without_context(seconds: float) -> int:
    """Build the context, and do the same work."""
    return _use(build(seconds)["table"])


_built: dict[float, dict[str, Any]] = {}


def with_own_context(seconds: float) -> int:
    """Do the same work in a process that builds the context only once."""
    if seconds not in _built:
        _built[seconds] = build(seconds)
    return _use(_built[seconds]["table"])
