"""Inference with a model that takes seconds to load: a rate for each way to run it, in one run.

    python -m benchmarks.inference                  a model of 3 seconds, 16 inferences a task
    python -m benchmarks.inference --seconds 0.5 --quick

Programs that apply a neural network to many inputs have this shape (LNNI in publications on TaskVine). Each task needs
the model, and makes 16 inferences with it. The ways are

- L1: each task is a fresh process, which loads the model;
- L2: each task is a call in a warm process; it loads the model, because nothing keeps it;
- L2 with a context: the library loads the model once, and all slots share it.

Beside them stands HighThroughputExecutor, whose workers keep the model in a global variable of a module. The model is
a network of two layers of random weights; loading it is a wait. All results are compared with those of this process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from benchmarks import apart
from benchmarks.suite.contenders import CONTENDERS, Setting, warm_up

INFERENCES = 16
"""Inferences of a task."""
SIZE = 256
"""Length of an input, and number of units in each layer."""
SECONDS = 600.0
WAYS = {
    "loads": "each task loads the model",
    "context": "the library has loaded the model",
    "global": "each worker keeps the model in a global",
}
CASES = (
    ("ours-L1", "loads"),
    ("ours", "loads"),
    ("ours", "context"),
    ("vine-L1", "loads"),
    ("vine", "loads"),
    ("vine", "context"),
    ("htex", "global"),
)
"""Contenders, and how tasks get the model."""
_kept: dict[float, dict[str, Any]] = {}


def load(seconds: float) -> dict[str, Any]:
    """Load the model: wait, and make its weights."""
    import time

    import numpy as np

    time.sleep(seconds)
    rng = np.random.default_rng(7)
    return {"model": [rng.standard_normal((SIZE, SIZE)) / SIZE**0.5 for _ in range(2)]}


def inferred(model: Any, number: int) -> list[int]:
    """Make a task's inferences: the class of each input."""
    import numpy as np

    rng = np.random.default_rng(number)
    classes = []
    for _ in range(INFERENCES):
        hidden = np.tanh(rng.standard_normal(SIZE) @ model[0])
        classes.append(int((hidden @ model[1]).argmax()))
    return classes


def loads(number: int, seconds: float) -> list[int]:
    """Load the model and use it."""
    return inferred(load(seconds)["model"], number)


def with_context(number: int, seconds: float) -> list[int]:
    """Use the library's model."""
    from taskvine_exec import load_variable_from_library

    return inferred(load_variable_from_library("model"), number)


def with_global(number: int, seconds: float) -> list[int]:
    """Use this process's model; the first task of a process loads it."""
    if seconds not in _kept:
        _kept[seconds] = load(seconds)
    return inferred(_kept[seconds]["model"], number)


_CALLS = {"loads": loads, "context": with_context, "global": with_global}


def measure(name: str, way: str, seconds: float, tasks: int, cores: int) -> dict[str, float]:
    """Run the tasks on one contender: first one for each core, then all."""
    function = _CALLS[way]
    setting = Setting(cores=cores, context=(load, seconds) if way == "context" else ())
    model = load(0.0)["model"]
    begin = time.perf_counter()
    with CONTENDERS[name].open(setting) as session:
        for future in [session.call(function, number, seconds) for number in range(cores)]:
            future.result()
        first = time.perf_counter() - begin
        if way != "loads":
            warm_up(session, 10 * cores)
            for future in [session.call(function, number, seconds) for number in range(10 * cores)]:
                future.result()  # every slot has used the model
        begin = time.perf_counter()
        found = [future.result() for future in [session.call(function, number, seconds) for number in range(tasks)]]
        taken = time.perf_counter() - begin
    if found != [inferred(model, number) for number in range(tasks)]:
        raise AssertionError("inferences are not those of this process")
    return {"rate": tasks * INFERENCES / taken, "first": first, "tasks": tasks}


def main(arguments: list[str] | None = None) -> int:
    """Run all ways in turn and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="time to load the model")
    parser.add_argument("--tasks", type=int, default=3000, help="tasks for ways that load the model once")
    parser.add_argument("--loading-tasks", type=int, default=8, help="tasks for ways in which each task loads it")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, metavar="ROUNDS")
    parser.add_argument("--contenders", default="", metavar="NAME,...", help="default: all")
    parser.add_argument("--quick", action="store_true", help="one round, a fiftieth of the tasks")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--inner", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inner:
        from benchmarks import inference  # by its name, workers import it: __main__ would be sent with each task

        name, way = options.inner
        found = inference.measure(name, way, options.seconds, options.tasks, options.cores)
        print("\n" + json.dumps(found))
        return 0
    if options.quick:
        options.repeat, options.tasks, options.loading_tasks = 1, max(1, options.tasks // 50), options.cores
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    wanted = [word for word in options.contenders.split(",") if word]
    cases = [(name, way) for name, way in CASES if not wanted or name in wanted]
    for name in dict.fromkeys(name for name, _ in cases):
        if reason := CONTENDERS[name].missing():
            print(f"without {CONTENDERS[name].title}: {reason}")
            cases = [case for case in cases if case[0] != name]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    failed = []
    for turn in range(options.repeat):
        for name, way in cases if turn % 2 == 0 else cases[::-1]:
            tasks = options.loading_tasks if way == "loads" else options.tasks
            words = ("--seconds", options.seconds, "--tasks", tasks, "--cores", options.cores, "--inner", name, way)
            try:
                each = apart.measure("benchmarks.inference", *words, timeout=SECONDS, quiet=True)
            except apart.MeasurementFailed as error:
                failed.append(f"{name}, {WAYS[way]}, failed: {error}")
                continue
            found.setdefault((name, way), []).append(each)
    _print(options, [(case, found[case]) for case in cases if case in found])
    print("\n".join(failed), file=sys.stderr)
    if options.json:
        reports = [{"contender": name, "way": way, "rounds": rounds} for (name, way), rounds in found.items()]
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": apart.machine(), "arguments": vars(options), "reports": reports}, file, indent=1)
    return 1 if failed else 0


def _print(options: argparse.Namespace, found: list[tuple[tuple[str, str], list[dict[str, float]]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.suite.report import figure, spread
    from benchmarks.suite.results import Summary

    table = Table(
        "executor", "model", "tasks", "inferences/s", "least to most", "first results after, s",
        title=f"a model of {options.seconds:g} s, {INFERENCES} inferences a task",
    )  # fmt: skip
    for (name, way), rounds in found:
        rate = Summary.of(each["rate"] for each in rounds)
        first = Summary.of(each["first"] for each in rounds)
        tasks = f"{rounds[0]['tasks']:,.0f}"
        table.add_row(CONTENDERS[name].title, WAYS[way], tasks, figure(rate.median), spread(rate), figure(first.median))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main())
