"""Targets for the results of one run (pure). They are printed; a missed target is not a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from benchmarks.suite.results import IN_TURN, Key, Results


class Target(NamedTuple):
    """A bound for a number that is computed from medians of a run."""

    case: str
    title: str
    value: Callable[[Results], float | None]
    bound: float
    at_least: bool = True


class Verdict(NamedTuple):
    """A target, its measured value, and whether it holds; None if something was not measured."""

    target: Target
    value: float | None
    holds: bool | None


def verdicts(results: Results) -> list[Verdict]:
    """Return the verdicts on all targets."""
    return [_verdict(target, target.value(results)) for target in TARGETS]


def _verdict(target: Target, value: float | None) -> Verdict:
    if value is None:
        return Verdict(target, None, None)
    return Verdict(target, value, value >= target.bound if target.at_least else value <= target.bound)


# --- parts of targets ---


def _quotient(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _median(key: Key) -> Callable[[Results], float | None]:
    return lambda results: results.median(key)


def _ratio(above: Key, below: Key) -> Callable[[Results], float | None]:
    return lambda results: _quotient(results.median(above), results.median(below))


def _worst(keys: Iterable[tuple[Key, Key]], worst: Callable[[list[float]], float]) -> Callable[[Results], float | None]:
    """Apply ``worst`` to those of several ratios that were measured."""

    def value(results: Results) -> float | None:
        found = [_quotient(results.median(above), results.median(below)) for above, below in keys]
        known = [ratio for ratio in found if ratio is not None]
        return worst(known) if known else None

    return value


def _rate(case: str, point: int, contender: str) -> Key:
    return Key(case, "rate", point, contender)


def _flatness(results: Results) -> float | None:
    """Return the change of the rate through the DFK from 1k to 100k calls, divided by that of the DFK alone."""
    ours, own = (
        _quotient(results.median(_rate("a", 100_000, name)), results.median(_rate("a", 1000, name)))
        for name in ("ours", "null")
    )
    return _quotient(ours, own)


def _beyond_call(results: Results) -> float | None:
    """Return the time of a call with the library's context, divided by that in the same process plus the latency."""
    inline, wait = results.median(Key("h.shared", IN_TURN, 0, "ours")), results.median(Key("c", "median", 0, "ours"))
    return None if inline is None or wait is None else _quotient(
        results.median(Key("h.shared", "later calls", 0, "ours")), inline + wait
    )  # fmt: skip


def _beyond_dfk(results: Results) -> float | None:
    """Return the bytes for a waiting call in all processes, without those that the DFK itself keeps."""
    points = results.points("i.memory", "all", "ours")
    if not points:
        return None
    ours, own = (results.median(Key("i.memory", "all", points[-1], name)) for name in ("ours", "held"))
    return None if ours is None or own is None else ours - own


def _cost(metric: str) -> Callable[[Results], float | None]:
    return _ratio(Key("j", metric, 32, "ours"), Key("j", metric, 1, "ours"))


def _on_taskvine() -> Iterator[Target]:
    yield Target(
        "a",
        "on TaskVine: rate through the DFK by HighThroughputExecutor's, 5,000 calls",
        _ratio(_rate("a", 5000, "vine"), _rate("a", 5000, "htex")),
        3,
    )
    yield Target(
        "a",
        "on TaskVine: rate through the DFK by that of parsl's TaskVineExecutor",
        _ratio(_rate("a", 5000, "vine"), _rate("a", 300, "upstream")),
        40,
    )
    yield Target(
        "b",
        "on TaskVine: rate with 100,000 calls by that with 5,000",
        _ratio(_rate("b", 100_000, "vine"), _rate("b", 5000, "vine")),
        0.9,
    )
    yield Target("c", "on TaskVine: median latency, ms", _median(Key("c", "median", 0, "vine")), 2.0, False)
    beside = _median(Key("c", "95th percentile beside a long call", 0, "vine"))
    yield Target("c", "on TaskVine: 95th percentile beside a long call, ms", beside, 10.0, False)
    idle = _median(Key("i.idle", "all", 0, "vine"))
    yield Target("i", "on TaskVine: processor time when idle, percent of a core", idle, 2.0, False)
    yield Target("d", "on TaskVine: first result, seconds", _median(Key("d", "first result", 0, "vine")), 1.5, False)
    yield Target(
        "f.tree",
        "on TaskVine: sum tree of 32 MB, times faster than parsl's TaskVineExecutor",
        _ratio(Key("f.tree", "time", 32, "upstream"), Key("f.tree", "time", 32, "vine-dag")),
        6,
    )


def _all() -> Iterator[Target]:
    for point, bound in ((1000, 0.7), (5000, 0.7), (20_000, 0.85), (100_000, 0.85)):
        title = f"rate through the DFK by that of finished futures, {point:,} calls"
        yield Target("a", title, _ratio(_rate("a", point, "ours"), _rate("a", point, "null")), bound)
    yield Target(
        "a",
        "rate through the DFK by HighThroughputExecutor's, 5,000 calls",
        _ratio(_rate("a", 5000, "ours"), _rate("a", 5000, "htex")),
        6,
    )
    yield Target("a", "rate at 100,000 by that at 1,000, by that of finished futures", _flatness, 0.9)
    yield Target(
        "b",
        "rate past the DFK by that of threads through it, 20,000 calls",
        _ratio(_rate("b", 20_000, "ours"), _rate("a", 20_000, "threads")),
        2.5,
    )
    yield Target(
        "b", "rate at 100,000 by that at 1,000", _ratio(_rate("b", 100_000, "ours"), _rate("b", 1000, "ours")), 0.9
    )
    yield Target(
        "c",
        "median latency by HighThroughputExecutor's",
        _ratio(Key("c", "median", 0, "ours"), Key("c", "median", 0, "htex")),
        0.3,
        at_least=False,
    )
    yield from _on_taskvine()
    for metric in ("first result", "shutdown"):
        yield Target("d", f"{metric}, seconds", _median(Key("d", metric, 0, "ours")), 1.0, False)
    sizes = (1, 32, 1024, 8192, 65_536)
    for way in ("in", "out"):
        pairs = [(Key("e", way, size, "htex"), Key("e", way, size, "ours")) for size in sizes]
        yield Target("e", f"times faster than HighThroughputExecutor, {way}, least of all sizes", _worst(pairs, min), 1)
        yield Target("e", f"times faster than HighThroughputExecutor, {way}, 64 MB", _worst(pairs[-1:], min), 8)
    for case, title in (("f.tree", "sum tree"), ("f.shuffle", "shuffle"), ("f.stencil", "stencil")):
        pairs = [(Key(case, "time", size, "ours-dag"), Key(case, "time", size, "dask")) for size in (1, 16, 32, 64)]
        yield Target(case, f"{title}: time by dask.distributed's, most of all sizes", _worst(pairs, max), 0.8, False)
    yield Target(
        "f.tree",
        "sum tree of 32 MB, times faster than HighThroughputExecutor",
        _ratio(Key("f.tree", "time", 32, "htex"), Key("f.tree", "time", 32, "ours-dag")),
        15,
    )
    yield Target(
        "g.chain",
        "chain of 1,000, times faster than HighThroughputExecutor",
        _ratio(Key("g.chain", "time per call", 1000, "htex"), Key("g.chain", "time per call", 1000, "ours-dag")),
        6,
    )
    yield Target(
        "h", "rate of no-op calls in L2 by that in L1", _ratio(_rate("b", 5000, "ours"), _rate("b", 50, "ours-L1")), 500
    )
    yield Target("h", "call with a context by one in the same process plus latency", _beyond_call, 1.1, False)
    yield Target("i", "bytes for a call that waits, beyond the DFK's own", _beyond_dfk, 4096, False)
    idle = _median(Key("i.idle", "all", 0, "ours"))
    yield Target("i", "processor time when idle, percent of a core", idle, 1.0, False)
    yield Target("j", "time for a call on 32 nodes by that on one", _cost("time per call"), 1.3, False)
    yield Target("j", "processor time for a call on 32 nodes by that on one", _cost("all"), 1.3, False)


TARGETS = list(_all())
"""The table."""
