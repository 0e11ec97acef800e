"""No-op apps through the DataFlowKernel, called all at once: how many a second, beside Parsl's own limit.

    python -m benchmarks.noop_apps                                     three rounds, about eight minutes
    python -m benchmarks.noop_apps --apps 5000,20000 --rounds 5 --contenders null,ours,off

*Finished futures* is an executor whose futures are finished when it returns them: Parsl alone, as its users have it.
*Hooks off* is this executor without its hooks on Parsl and Python. Each measurement is a new process, and contenders
take turns. HighThroughputExecutor is slow, and is measured in the first round only. The tables show medians, and the
smallest and largest of all rounds in brackets.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from typing import NamedTuple

from benchmarks import apart
from taskvine_exec.parsl_hooks.switches import VARIABLE

SECONDS = 300.0


class Contender(NamedTuple):
    """A row of the table: the suite's contender, which hooks are off, and whether one round is enough."""

    title: str
    key: str
    off: str = ""
    once: bool = False


CONTENDERS = {
    "null": Contender("finished futures", "null"),
    "ours": Contender("TaskVineExecutor", "ours"),
    "off": Contender("TaskVineExecutor, hooks off", "ours", "all"),
    "htex": Contender("HighThroughputExecutor", "htex", once=True),
}
Rates = dict[tuple[str, int], list[float]]


def measured(contender: Contender, apps: int) -> float:
    """Return apps per second of one new process."""
    os.environ[VARIABLE] = contender.off
    plan = json.dumps({"points": [apps], "cores": 2})
    ((_, _, rate),) = apart.measure("benchmarks.suite.measure", "a", contender.key, plan, timeout=SECONDS, quiet=True)
    return float(rate)


def shown(rates: list[float]) -> str:
    spread = f" ({min(rates):,.0f} to {max(rates):,.0f})" if len(rates) > 1 else ""
    return f"{statistics.median(rates):,.0f}{spread}"


def table(rates: Rates, names: list[str], sizes: list[int]) -> str:
    """Return the rates, and the ratios to those of each contender."""
    lines = [f"{'apps a second':32}" + "".join(f"{size:>26,}" for size in sizes)]
    for name in names:
        lines.append(f"{CONTENDERS[name].title:32}" + "".join(f"{shown(rates[name, size]):>26}" for size in sizes))
    if "ours" in names:
        middle = {key: statistics.median(found) for key, found in rates.items()}
        for name in names:
            ratios = [f"{middle['ours', size] / middle[name, size]:.2f}" for size in sizes]
            if name != "ours":
                lines.append(f"{'ours by ' + CONTENDERS[name].title:44}" + "".join(f"{each:>14}" for each in ratios))
        change = middle["ours", sizes[-1]] / middle["ours", sizes[0]] - 1
        lines.append(f"ours, {sizes[-1]:,} apps by {sizes[0]:,}: {change:+.0%}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apps", default="5000,20000,100000", help="numbers of apps (default: 5000,20000,100000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help=f"some of {', '.join(CONTENDERS)}")
    options = parser.parse_args()
    sizes = [int(size) for size in options.apps.split(",")]
    names = options.contenders.split(",")
    if unknown := [name for name in names if name not in CONTENDERS]:
        parser.error(f"{unknown[0]} is not one of {', '.join(CONTENDERS)}")
    rates: Rates = {(name, size): [] for name in names for size in sizes}
    for number in range(options.rounds):
        for name in names:
            for size in sizes:
                if not number or not CONTENDERS[name].once:
                    rates[name, size].append(measured(CONTENDERS[name], size))
                    print(f"round {number}: {name} {size} {rates[name, size][-1]:.0f}/s", file=sys.stderr, flush=True)
    print(", ".join(apart.machine().values()))
    print(table(rates, names, sizes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
