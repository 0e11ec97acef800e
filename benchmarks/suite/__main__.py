"""The command: ``python -m benchmarks.suite``, or ``make bench``.

Every measurement is made in a new process and a new directory. In each round the contenders of a case take turns,
forwards and backwards, so that a temporary load on the machine affects all of them. Numbers differ between machines;
compare ratios instead. The output directory gets ``results.json``, ``results.md`` and figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks import apart
from benchmarks.suite import report
from benchmarks.suite.cases import CASES, Plan
from benchmarks.suite.contenders import CONTENDERS
from benchmarks.suite.results import Key, Results

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 300.0
"""Most seconds for one measurement."""


def main(arguments: list[str] | None = None) -> int:
    """Measure the chosen cases and contenders; return 1 if any measurement failed."""
    from rich.console import Console

    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    cases, wanted = _chosen_cases(options.cases), options.contenders or list(CONTENDERS)
    reasons = {name: CONTENDERS[name].missing() for name in wanted}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    for name, reason in skipped.items():
        console.print(f"without {CONTENDERS[name].title}: {reason}")
    facts: dict[str, Any] = {
        "machine": apart.machine(), "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "rounds": {},
        "cores": options.cores, "quick": options.quick, "skipped": skipped, "failed": {}, "seconds": {},
    }  # fmt: skip
    results = Results()
    os.makedirs(options.output, exist_ok=True)
    for name in cases:
        names = [each for each in CASES[name].contenders if each in wanted and each not in skipped]
        rounds = facts["rounds"][name] = options.repeat or (1 if options.quick else CASES[name].rounds)
        begin = time.monotonic()
        for turn in range(rounds):
            for contender, plan in _turns(name, names, turn, options):
                _measure(name, contender, plan, turn, results, facts["failed"])
        facts["seconds"][name] = round(time.monotonic() - begin, 1)
        report.show(console, name, results)
        report.write_json(os.path.join(options.output, "results.json"), facts, results)
    report.show_targets(console, results)
    report.write_markdown(os.path.join(options.output, "results.md"), facts, results)
    if not options.no_figures:
        report.draw(options.output, results)
    for what, reason in facts["failed"].items():
        console.print(f"{what} failed: {reason}", style="red", markup=False)
    console.print(f"{sum(facts['seconds'].values()) / 60:.1f} minutes; all of it is in {options.output}")
    return 1 if facts["failed"] else 0


def _turns(name: str, names: list[str], turn: int, options: argparse.Namespace) -> Iterator[tuple[str, Plan]]:
    """Yield contenders and plans: size by size, contenders backwards in every other round."""
    plans = {each: CASES[name].plans(each, quick=options.quick, cores=options.cores) for each in names}
    points = sorted({tuple(plan.points) for each in plans.values() for plan in each})
    for point in points:
        for each in names if turn % 2 == 0 else names[::-1]:
            yield from ((each, plan) for plan in plans[each] if tuple(plan.points) == point)


def _measure(name: str, contender: str, plan: Plan, turn: int, results: Results, failed: dict[str, str]) -> None:
    what = f"{name} {contender} {plan.points}"
    if what in failed:
        return  # it would fail again
    try:
        samples = apart.measure(
            "benchmarks.suite.measure",
            name,
            contender,
            json.dumps(dataclasses.asdict(plan)),
            timeout=SECONDS,
            quiet=True,
        )
    except apart.MeasurementFailed as error:
        failed[what] = str(error)
        print(f"{what} failed", file=sys.stderr)
        return
    for metric, point, value in samples:
        results.add(Key(name, metric, point, contender), turn, value)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.suite", description=__doc__.split("\n\n")[1])
    parser.add_argument("--cases", type=_words, default=[], metavar="a,c,...", help=", ".join(CASES))
    parser.add_argument(
        "--contenders", type=_words, default=[], metavar="NAME,...", help=f"of {', '.join(CONTENDERS)}; default: all"
    )
    parser.add_argument("--repeat", type=int, metavar="ROUNDS", help="default: 3 or 2, by case; 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="small sizes, without slow contenders")
    parser.add_argument("--cores", type=int, default=2, help="workers of each contender (default: 2)")
    parser.add_argument("--output", default="bench-results", metavar="DIRECTORY", help="default: bench-results")
    parser.add_argument("--no-figures", action="store_true")
    options = parser.parse_args(arguments)
    for name in options.contenders:
        if name not in CONTENDERS:
            parser.error(f"no contender is called {name!r}: {', '.join(CONTENDERS)}")
    for name in options.cases:
        if not _chosen_cases([name]):
            parser.error(f"no case is called {name!r}: {', '.join(CASES)}")
    return options


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _chosen_cases(words: list[str]) -> list[str]:
    """Return the cases with these keys or first letters; all cases if there are no words."""
    return [name for name in CASES if not words or name in words or name.partition(".")[0] in words]


if __name__ == "__main__":
    sys.exit(main())
