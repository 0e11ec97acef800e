"""The command: ``python -m benchmarks.metg``, or ``make bench-metg``.

METG(50 %) is the smallest mean duration of a task with which half of the cores' time is useful work. Below it, most of
the time goes into running tasks rather than into what they compute. Each task checks the results that it reads,
computes for a calibrated time, and returns a result. A wrong result is an error. The contenders take turns, and every
measurement is made in a new process and a new directory. The output directory gets ``metg.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from typing import Any

from benchmarks import apart
from benchmarks.metg import table, work
from benchmarks.metg.measure import Plan
from benchmarks.metg.patterns import PATTERNS
from benchmarks.suite.contenders import CONTENDERS
from benchmarks.suite.results import Results

SECONDS = 900.0
"""Most seconds for one measurement."""
DEFAULT = ("ours", "ours-dag", "vine", "vine-dag", "htex", "threads", "upstream", "dask", "ray")
INDEPENDENT = ("null", "inline", "held", "pool")
"""Contenders that run nothing, run nothing at the same time, or do not resolve futures in arguments."""
FEW_STEPS = {
    **dict.fromkeys(("upstream", "ours-L1", "ours-L1-dag", "vine-L1", "vine-L1-dag"), 16),
    "upstream-regular": 4,
}
"""Most steps for contenders that need tens of milliseconds for a task, or more."""


def main(arguments: list[str] | None = None) -> int:
    """Measure the chosen patterns and contenders; return 1 if any measurement failed."""
    from rich.console import Console

    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 200)
    reasons = {name: CONTENDERS[name].missing() for name in options.contenders}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    for name, reason in skipped.items():
        console.print(f"without {CONTENDERS[name].title}: {reason}")
    names = [name for name in options.contenders if name not in skipped]
    plan = _plan(options)
    facts: dict[str, Any] = {
        "machine": apart.machine(), "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "plan": dataclasses.asdict(plan), "rounds": options.repeat, "patterns": options.patterns, "contenders": names,
        "few_steps": {name: _steps(name, plan) for name in names if _steps(name, plan) < plan.steps},
        "skipped": skipped, "failed": {}, "unreached": [],
    }  # fmt: skip
    console.print(", ".join(facts["machine"].values()))
    results, samples, begin = Results(), list[dict[str, Any]](), time.monotonic()
    os.makedirs(options.output, exist_ok=True)
    for turn in range(options.repeat):
        for pattern in options.patterns:
            for name in names if turn % 2 == 0 else names[::-1]:
                _measure(name, pattern, plan, turn, results, facts, samples)
            table.write(os.path.join(options.output, "metg.json"), results, facts, samples)
    table.show(console, results, facts)
    for name, steps in facts["few_steps"].items():
        console.print(f"{CONTENDERS[name].title}: {steps} steps instead of {plan.steps}")
    for what, reason in facts["failed"].items():
        console.print(f"{what} failed: {reason}", style="red", markup=False)
    minutes = (time.monotonic() - begin) / 60
    console.print(f"{minutes:.1f} minutes; all of it is in {os.path.join(options.output, 'metg.json')}")
    return 1 if facts["failed"] else 0


def _measure(
    name: str,
    pattern: str,
    plan: Plan,
    turn: int,
    results: Results,
    facts: dict[str, Any],
    samples: list[dict[str, Any]],
) -> None:
    what = f"{pattern} {name}"
    if what in facts["failed"]:
        return  # it would fail again
    own = json.dumps(dataclasses.asdict(dataclasses.replace(plan, steps=_steps(name, plan))))
    try:
        found = apart.measure("benchmarks.metg.measure", name, pattern, own, timeout=SECONDS, quiet=True)
    except apart.MeasurementFailed as error:
        facts["failed"][what] = str(error)
        print(f"{what} failed", file=sys.stderr)
        return
    samples.append({"contender": name, "pattern": pattern, "round": turn, **found})
    if found["metg"] is not None:
        results.add(table.key(pattern, plan.width, name), turn, found["metg"] * 1e6)
    elif (name, pattern) not in facts["unreached"]:
        facts["unreached"].append((name, pattern))


def _steps(name: str, plan: Plan) -> int:
    return min(plan.steps, FEW_STEPS.get(name, plan.steps))


def _plan(options: argparse.Namespace) -> Plan:
    quick: dict[str, Any] = {"runs": 1, "within": 1.5} if options.quick else {}
    width = options.width or max(16, options.cores)
    steps = options.steps or (8 if options.quick else 64)
    return Plan(
        cores=options.cores, width=width, steps=steps, payload=options.payload, target=options.target,
        most=options.most, **quick,
    )  # fmt: skip


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.metg", description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "--patterns", type=_words, default=list(PATTERNS), metavar="NAME,...", help=f"of {', '.join(PATTERNS)}"
    )
    parser.add_argument(
        "--contenders", type=_words, default=list(DEFAULT), metavar="NAME,...", help=f"default: {','.join(DEFAULT)}"
    )
    parser.add_argument("--repeat", type=int, metavar="ROUNDS", help="default: 2; 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="8 steps, one run for each duration, a coarse search")
    parser.add_argument("--cores", type=int, default=2, help="workers of each contender (default: 2)")
    parser.add_argument("--width", type=int, help="most tasks in a step (default: 16, or cores if there are more)")
    parser.add_argument("--steps", type=int, help="default: 64; 8 with --quick")
    parser.add_argument("--payload", type=int, default=work.SMALLEST, metavar="BYTES", help="size of each result")
    parser.add_argument("--target", type=float, default=0.5, help="efficiency to reach (default: 0.5)")
    parser.add_argument("--most", type=float, default=0.5, metavar="SECONDS", help="longest task to try (default: 0.5)")
    parser.add_argument("--output", default="bench-results", metavar="DIRECTORY", help="default: bench-results")
    options = parser.parse_args(arguments)
    options.repeat = options.repeat or (1 if options.quick else 2)
    for name in options.patterns:
        if name not in PATTERNS:
            parser.error(f"no pattern is called {name!r}: {', '.join(PATTERNS)}")
    for name in options.contenders:
        if name not in CONTENDERS or name in INDEPENDENT:
            parser.error(f"no contender for dependent tasks is called {name!r}: {', '.join(DEFAULT)}")
    if options.payload < work.SMALLEST:
        parser.error(f"--payload must be at least {work.SMALLEST}")
    if not 0 < options.target < 1:
        parser.error("--target must be between 0 and 1")
    return options


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


if __name__ == "__main__":
    sys.exit(main())
