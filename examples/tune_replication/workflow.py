"""Heat that spreads along a ring of pieces. Each piece stays on a node from step to step; its neighbours get its edges.

``run.py`` runs this program with many settings of tuning parameters. On its own, it uses the parameters in the
environment variable ``TASKVINE_TUNE``, or the defaults.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import parsl
from numpy.typing import NDArray
from parsl.config import Config

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_tune.environment import parameters_from_environment

Piece = NDArray[np.float64]

LOSSES = "executor.loss-interval"
LOOK = 3
"""Steps between two sums of the heat, for which the program waits."""


@parsl.python_app
def edges(piece: Any) -> Any:
    """Return the temperatures at both ends of a piece; they are small, and travel inside messages."""
    return piece[[0, -1]]


@parsl.python_app
def step(piece: Any, left: Any, right: Any, seconds: float) -> Any:
    """Spread heat for one step, within a piece and from the edges of its neighbours.

    The pause stands for a heavier computation, so that a small machine has enough cores for four nodes.
    """
    import time

    import numpy as np

    time.sleep(seconds)
    padded = np.concatenate([left[-1:], piece, right[:1]])
    return piece + 0.25 * (padded[:-2] - 2 * piece + padded[2:])


@parsl.python_app
def heat(piece: Any) -> float:
    """Return the heat in a piece."""
    return float(piece.sum())


@parsl.python_app
def meet(directory: str, name: int, count: int) -> None:
    """Return when ``count`` of these tasks run at once: each occupies a node, so that all nodes are warm then."""
    import os
    import time

    import numpy  # noqa: F401

    open(os.path.join(directory, str(name)), "w").close()
    while len(os.listdir(directory)) < count:
        time.sleep(0.005)


def initial(pieces: int, cells: int) -> list[Piece]:
    """Return the initial temperatures: one bump, on a ring of ``pieces`` pieces with ``cells`` cells each."""
    place = np.arange(pieces * cells) / (pieces * cells)
    return list(np.split(np.exp(-100 * (place - 0.3) ** 2), pieces))


def spread(pieces: list[Any], steps: int, seconds: float, edges_of: Any, step_of: Any) -> list[Any]:
    """Take some steps, with plain functions or with apps."""
    for _ in range(steps):
        ends = [edges_of(piece) for piece in pieces]
        count = len(pieces)
        pieces = [step_of(pieces[at], ends[at - 1], ends[(at + 1) % count], seconds) for at in range(count)]
    return pieces


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the workflow; return measurements.

    Returns
    -------
    dict
        ``seconds``, from the first step's submission until all pieces of the last step have arrived, and ``record``,
        the path of the record of the run.
    """
    tuning = parameters_from_environment()
    losses = tuning.get(LOSSES, 0.0)
    executor = TaskVineExecutor(
        label="stencil",
        engine="embedded",
        worker_launch_method="factory",  # starts a new node for each lost one
        min_workers=options.nodes,
        max_workers=options.nodes,
        cores=1,
        max_retries=None,  # no limit, however many nodes are lost
        tune_parameters={**tuning, LOSSES: 0},
    )
    config = Config(
        executors=[executor],
        dependency_resolver=DAG_RESOLVER,
        strategy="none",
        run_dir=str(options.output),
        initialize_logging=False,
    )
    with parsl.load(config), tempfile.TemporaryDirectory() as directory:
        for each in [meet(directory, number, options.nodes) for number in range(options.nodes)]:
            each.result()
        executor.tune({LOSSES: losses})  # losses start here, after the warm-up
        begin = time.perf_counter()
        pieces: list[Any] = list(initial(options.pieces, options.cells))
        for done in range(0, options.steps, LOOK):
            pieces = spread(pieces, min(LOOK, options.steps - done), options.seconds, edges, step)
            total = sum(future.result() for future in [heat(piece) for piece in pieces])
            # The program references only the newest pieces. After a collection, nodes can drop older ones, and a lost
            # piece must be recreated from the start.
            gc.collect()
        found = [piece.result() for piece in pieces]
        seconds = time.perf_counter() - begin
        run_dir = Path(executor.run_dir)
    expected = spread(initial(options.pieces, options.cells), options.steps, 0.0, edges.func, step.func)
    if not all(map(np.array_equal, found, expected)) or total != sum(map(heat.func, expected)):
        sys.exit("the result is not that of a serial run")
    return {"seconds": seconds, "record": os.fspath(run_dir / "stencil" / "record.msgpack")}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--nodes", type=int, default=4, help="nodes, of one core each (default: %(default)s)")
    add("--pieces", type=int, default=8, help="pieces of the ring (default: %(default)s)")
    add("--cells", type=int, default=131_072, help="cells of a piece (default: %(default)s, 1 MiB)")
    add("--steps", type=int, default=12, help="steps in time (default: %(default)s)")
    add("--seconds", type=float, default=0.05, help="seconds that a step of a piece takes (default: %(default)s)")
    add("--output", type=Path, default=Path("runinfo"), help="directory for run directories (default: %(default)s)")
    add("--said", type=Path, help="file for the measurements, as JSON (default: the standard output)")
    return parser.parse_args()


def main() -> None:
    """Run the workflow, and print or write the measurements."""
    options = parse_arguments()
    said = json.dumps(run(options)) + "\n"
    if options.said is None:
        sys.stdout.write(said)
    else:
        options.said.write_text(said)


if __name__ == "__main__":
    main()
