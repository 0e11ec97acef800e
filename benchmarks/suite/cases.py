"""Measurements. Each function runs in a separate process, and yields ``(metric, point, value)``."""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from benchmarks.suite import processes, work
from benchmarks.suite.contenders import Contender, Held, Session, Setting, warm_up
from benchmarks.suite.results import IN_TURN

Sample = tuple[str, int, float]
WARM_UP = 200
"""Calls before the measured ones: enough for every worker to get some."""
MEGABYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The measurements of one process.

    Parameters
    ----------
    points : list of int
        Sizes, in the case's unit.
    cores : int
        Cores of each node.
    calls : int
        Number of calls, unless the points are numbers of calls.
    """

    points: list[int]
    cores: int = 2
    calls: int = 100

    def setting(self, **more: Any) -> Setting:
        """Return the setting for a contender."""
        return Setting(cores=self.cores, **more)


class Metric(NamedTuple):
    """The unit of a measured quantity, and whether more of it is better."""

    unit: str
    more_is_better: bool = False


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case of the table.

    Parameters
    ----------
    title : str
        Title in tables.
    measure : callable
        Function that yields the samples.
    contenders : tuple of str
        Contenders that are measured. The others are compared with the first one of this project.
    metrics : dict of str to Metric
        Metrics that are measured; ``"*"`` stands for names that are known only after the run.
    points, quick : tuple of int
        Sizes of a full run, and of a quick run.
    unit : str
        Unit of the sizes.
    only : dict of str to tuple of int
        Fewer sizes for contenders that would take too long at all of them, or for which fewer suffice.
    slow : tuple of str
        Contenders that are left out of a quick run.
    rounds : int
        Default number of rounds: two are enough for measurements that do not depend on the machine's load.
    together : bool
        Whether one process measures all points, in ascending order.
    calls, quick_calls : int
        See :class:`Plan`.
    """

    title: str
    measure: Callable[[Contender, Plan], Iterator[Sample]]
    contenders: tuple[str, ...]
    metrics: dict[str, Metric]
    points: tuple[int, ...] = (0,)
    quick: tuple[int, ...] = (0,)
    unit: str = ""
    only: dict[str, tuple[int, ...]] = field(default_factory=dict)
    slow: tuple[str, ...] = ()
    rounds: int = 3
    together: bool = False
    calls: int = 100
    quick_calls: int = 20

    def plans(self, contender: str, *, quick: bool, cores: int) -> list[Plan]:
        """Return the plans for one contender in one round, each for a separate process."""
        if quick and contender in self.slow:
            return []
        points = list(self.quick if quick else self.points)
        if contender in self.only:
            some = self.only[contender]
            points = [point for point in points if point in some] or [min(some)] if quick else list(some)
        calls = self.quick_calls if quick else self.calls
        groups = [points] if self.together else [[point] for point in points]
        return [Plan(points=group, cores=cores, calls=calls) for group in groups]

    def metric(self, name: str) -> Metric:
        """Return a metric by name."""
        return self.metrics[name] if name in self.metrics else self.metrics["*"]


# --- a, b: throughput ---


def _rate(session: Session, count: int) -> float:
    """Measure calls per second as parsl-perf does: submit all, then wait for all."""
    warm_up(session, min(WARM_UP, count))
    start = time.perf_counter()
    for future in session.as_completed([session.call(work.noop, "") for _ in range(count)]):
        if future.result() != 7:
            raise AssertionError(future)
    return count / (time.perf_counter() - start)


def through_dfk(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure the rate of no-op apps."""
    with contender.open(plan.setting()) as session:
        for point in plan.points:
            yield "rate", point, _rate(session, point)


def direct(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure the rate of no-op calls that bypass the DataFlowKernel."""
    with contender.open(plan.setting(direct=True)) as session:
        for point in plan.points:
            yield "rate", point, _rate(session, point)


# --- c, d: latency ---


def latency(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure calls one after another, first alone, then beside a long call."""
    with contender.open(plan.setting()) as session:
        warm_up(session, 10)
        taken = _repeated(lambda: _timed(session), plan.calls)
        yield "median", 0, statistics.median(taken) * 1000
        yield "99th percentile", 0, statistics.quantiles(taken, n=100)[-1] * 1000
        if plan.cores > 1:
            with _held(session, 1):
                taken = _repeated(lambda: _timed(session, rest=0.05), plan.calls // 10)
            yield "median beside a long call", 0, statistics.median(taken) * 1000
            yield "95th percentile beside a long call", 0, statistics.quantiles(taken, n=20)[-1] * 1000


def _repeated(measure: Callable[[], float], most: int, least: int = 5, seconds: float = 3.0) -> list[float]:
    """Measure ``most`` times; fewer, but at least ``least`` times, if that takes longer than ``seconds``."""
    deadline = time.monotonic() + seconds
    taken: list[float] = []
    while len(taken) < least or (len(taken) < most and time.monotonic() < deadline):
        taken.append(measure())
    return taken


def _timed(session: Session, rest: float = 0.0) -> float:
    time.sleep(rest)
    start = time.perf_counter()
    session.call(work.noop, "").result()
    return time.perf_counter() - start


@contextmanager
def _held(session: Session, count: int) -> Iterator[None]:
    """Keep some workers busy."""
    begun = [os.path.abspath(f"begun-{number}") for number in range(count)]
    gate = os.path.abspath("gate")
    futures = [session.call(work.hold, path, gate) for path in begun]
    try:
        while not all(map(os.path.exists, begun)):
            time.sleep(0.005)
        yield
    finally:
        open(gate, "w").close()
    for future in futures:
        future.result()


def start_and_stop(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure the time from the start to the first result, and the time of the shutdown."""
    start = time.perf_counter()
    with contender.open(plan.setting()) as session:
        session.call(work.noop, "").result()
        yield "first result", 0, time.perf_counter() - start
        warm_up(session, 20)
        start = time.perf_counter()
    yield "shutdown", 0, time.perf_counter() - start


# --- e: payloads ---


def payloads(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure an array as an argument, and as a result; the receiver touches each of its pages."""
    with contender.open(plan.setting()) as session:
        warm_up(session, 20)
        for point in plan.points:
            size = point * 1024
            data = work.data_of(size)

            def there(data: Any = data, size: int = size) -> float:
                start = time.perf_counter()
                assert session.call(work.size_of, data).result() == size
                return time.perf_counter() - start

            def back(size: int = size) -> float:
                start = time.perf_counter()
                work.touched(session.call(work.data_of, size).result())
                return time.perf_counter() - start

            for way, measure in (("in", there), ("out", back)):
                _repeated(measure, plan.cores, plan.cores)
                yield way, point, statistics.median(_repeated(measure, plan.calls, 3, 1.5)) * 1000


# --- f, g: dependent calls ---


def _dependent(contender: Contender, plan: Plan, run: Callable[[Session, int], float]) -> Iterator[Sample]:
    with contender.open(plan.setting()) as session:
        # All workers must import their modules. A single worker could run all calls if they came one after another.
        for _ in range(10):
            made = [session.call(work.make, 1000, float(number)) for number in range(10 * plan.cores)]
            for added in [session.call(work.add, array, 1.0) for array in made]:
                added.result()
        for point in plan.points:
            yield "time", point, run(session, point)


def tree(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure a pairwise sum of arrays, whose result is returned."""
    return _dependent(contender, plan, _tree)


def _tree(session: Session, megabytes: int, leaves: int = 16) -> float:
    start = time.perf_counter()
    level = [session.call(work.make, megabytes * MEGABYTE // 8, float(number)) for number in range(leaves)]
    while len(level) > 1:
        level = [session.call(work.add, a, b) for a, b in zip(level[::2], level[1::2], strict=True)]
    result = level.pop().result()
    taken = time.perf_counter() - start
    assert result[-1] == sum(range(leaves))
    return taken


def shuffle(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure a shuffle: a part of every block goes to every reducer."""
    return _dependent(contender, plan, _shuffle)


def _shuffle(session: Session, megabytes: int, blocks: int = 8) -> float:
    start = time.perf_counter()
    count = megabytes * MEGABYTE // 8
    made = [session.call(work.make, count, float(number)) for number in range(blocks)]
    parts = [[session.call(work.part, block, number, blocks) for block in made] for number in range(blocks)]
    del made
    totals = [session.call(work.total, *pieces) for pieces in parts]
    del parts
    results = [total.result() for total in totals]
    taken = time.perf_counter() - start
    assert results == [count // blocks * sum(range(blocks))] * blocks
    return taken


def stencil(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure a stencil: blocks and their neighbours, over some time steps."""
    return _dependent(contender, plan, _stencil)


def _stencil(session: Session, megabytes: int, blocks: int = 8, steps: int = 5) -> float:
    start = time.perf_counter()
    result = _relaxed(session.call, megabytes * MEGABYTE // 8, blocks, steps).result()
    taken = time.perf_counter() - start
    # The ends of long blocks do not depend on their length.
    serially = _relaxed(lambda function, *args: function(*args), 4 * steps, blocks, steps)
    assert all(abs(a - b) < 1e-9 for a, b in zip(result, serially, strict=True)), (result, serially)
    return taken


def _relaxed(call: Callable[..., Any], count: int, blocks: int, steps: int) -> Any:
    row = [call(work.make, count, float(number)) for number in range(blocks)]
    for _ in range(steps):
        row = [call(work.relax, row[n - 1], row[n], row[(n + 1) % blocks]) for n in range(blocks)]
    return call(work.ends, *row)


def chain(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure a chain of small calls, each on the previous result."""
    with contender.open(plan.setting()) as session:
        warm_up(session, 20)
        for point in plan.points:
            start = time.perf_counter()
            future = session.call(work.increment, 0)
            for _ in range(point - 1):
                future = session.call(work.increment, future)
            assert future.result() == point
            yield "time per call", point, (time.perf_counter() - start) / point * 1e6


def fan(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure one call, many calls on its result, and one call on all their results."""
    with contender.open(plan.setting()) as session:
        warm_up(session, 20)
        for point in plan.points:
            start = time.perf_counter()
            root = session.call(work.increment, 0)
            end = session.call(work.gather, *[session.call(work.increment, root) for _ in range(point)])
            assert end.result() == 2 * point
            yield "time per call", point, (time.perf_counter() - start) / point * 1e6


# --- h: imports and contexts ---


def imports(contender: Contender, plan: Plan, *, modules: tuple[str, ...] = ()) -> Iterator[Sample]:
    """Measure a function that imports numpy, scipy and ase; the library imports ``modules``."""
    setting = plan.setting(modules=modules)
    return _warm(contender, setting, plan.calls, lambda session: session.call(work.with_imports, 2.0), at_once=True)


def context_each(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure calls that build a context of one second each time."""
    return _warm(contender, plan.setting(), plan.calls, lambda session: session.call(work.without_context, 1.0))


def context_shared(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure calls with a context of one second that the library builds; without a library, the process builds it."""
    if contender.key == "inline":
        return _warm(contender, plan.setting(), plan.calls, lambda session: session.call(work.with_own_context, 1.0))
    setting = plan.setting(context=(work.build, 1.0))
    own = partial(work.with_own_context, 0.0)
    return _warm(contender, setting, plan.calls, lambda session: session.call(work.with_context, 1.0), own)


def _warm(
    contender: Contender,
    setting: Setting,
    calls: int,
    call: Callable[[Session], Any],
    own: Callable[[], Any] | None = None,
    *,
    at_once: bool = False,
) -> Iterator[Sample]:
    """Measure the first call, then optionally four for each core at once, then later calls.

    With ``own``, call that in this process in between, because one processor may be twice as fast as another, and that
    may change within minutes.
    """
    with contender.open(setting) as session:
        start = time.perf_counter()
        call(session).result()
        yield "first call", 0, (time.perf_counter() - start) * 1000
        if calls > 10 or at_once:
            start = time.perf_counter()
            for future in [call(session) for _ in range(4 * setting.cores)]:
                future.result()
            yield "calls at once", 0, (time.perf_counter() - start) * 1000
        taken, beside = [], []
        for _ in range(calls):
            start = time.perf_counter()
            call(session).result()
            taken.append(time.perf_counter() - start)
            if own is not None:
                start = time.perf_counter()
                own()
                beside.append(time.perf_counter() - start)
        yield "later calls", 0, statistics.median(taken) * 1000
        if beside:
            yield IN_TURN, 0, statistics.median(beside) * 1000


# --- i: what it takes ---


def processor(contender: Contender, plan: Plan, *, direct: bool = False) -> Iterator[Sample]:
    """Measure the processor time for each call, by process."""
    with contender.open(plan.setting(direct=direct)) as session:
        for point in plan.points:
            warm_up(session, 2000)
            processes.settled()
            before = processes.seconds()
            for future in [session.call(work.noop, "") for _ in range(point)]:
                future.result()
            after = processes.seconds()
            yield from _by_role(before, after, point, 1e6 / point)


def _by_role(before: dict[str, float], after: dict[str, float], point: int, scale: float) -> Iterator[Sample]:
    grown = {role: used * scale for role, used in processes.growth(before, after).items()}
    yield from ((role, point, used) for role, used in grown.items())
    yield "all", point, sum(grown.values())


def memory(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure the memory for each waiting call, by process."""
    with contender.open(plan.setting()) as session:
        for point in plan.points:
            if isinstance(session.executor, Held):
                yield from _queued(session, point)
                continue
            warm_up(session, 20)  # few, because the next calls would reuse memory of earlier ones
            with _held(session, plan.cores):
                yield from _queued(session, point)


def _queued(session: Session, count: int) -> Iterator[Sample]:
    processes.settled()
    gc.collect()
    before = processes.memory()
    futures = [session.call(work.noop, "") for _ in range(count)]
    processes.settled()
    gc.collect()
    after = processes.memory()
    assert not any(future.done() for future in futures[-100:])
    yield from _by_role(_floats(before), _floats(after), count, 1 / count)


def _floats(numbers: dict[str, int]) -> dict[str, float]:
    return {name: float(number) for name, number in numbers.items()}


def idle(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure the processor time of an idle executor."""
    with contender.open(plan.setting()) as session:
        warm_up(session, 500)
        processes.settled()
        start, before = time.perf_counter(), processes.seconds()
        threading.Event().wait(plan.calls / 10)
        after = processes.seconds()
        yield from _by_role(before, after, 0, 100 / (time.perf_counter() - start))


# --- j: many nodes ---


def nodes(contender: Contender, plan: Plan) -> Iterator[Sample]:
    """Measure no-op calls on many nodes of one core."""
    for point in plan.points:
        with contender.open(Setting(cores=1, nodes=point, direct=True)) as session:
            if not session.executor.wait_for_nodes(point, 120):
                raise TimeoutError(f"{point} nodes did not join")
            warm_up(session, 100 * point)
            processes.settled()
            before, start = processes.seconds(), time.perf_counter()
            for future in [session.call(work.noop, "") for _ in range(plan.calls)]:
                future.result()
            taken, after = time.perf_counter() - start, processes.seconds()
            yield "time per call", point, taken / plan.calls * 1e6
            yield from _by_role(before, after, point, 1e6 / plan.calls)


# --- the table ---

_RATE = {"rate": Metric("calls/s", True)}
_MS = Metric("ms")
_US = Metric("µs")
_EMBEDDED = ("ours", "ours-dag", "ours-L1", "ours-L1-dag")
_VINE = ("vine", "vine-dag", "vine-L1", "vine-L1-dag")
_OURS = (*_EMBEDDED, *_VINE)
_UPSTREAM = ("upstream", "upstream-regular")
_ONE_BY_ONE: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("ours-L1", "ours-L1-dag", "vine-L1", "vine-L1-dag"), (50,)),
    "upstream": (300,),
    "upstream-regular": (10,),
}
"""Sizes for contenders that start a process for each call, or are as slow."""
_OTHERS = ("dask", "ray", "executorlib", "pool")

CASES: dict[str, Case] = {
    "a": Case(
        title="no-op apps through the DFK, as parsl-perf does",
        measure=through_dfk,
        contenders=(*_OURS, "null", "threads", "htex", *_UPSTREAM),
        metrics=_RATE,
        points=(1000, 5000, 20_000, 100_000),
        quick=(1000, 5000),
        unit="calls",
        only={"htex": (5000,), "threads": (20_000,), "ours-dag": (5000, 20_000), "vine-dag": (5000,), **_ONE_BY_ONE},
        slow=("ours-L1-dag", "vine-L1-dag"),
    ),
    "b": Case(
        title="no-op calls past the DFK",
        measure=direct,
        contenders=("ours", "ours-L1", "vine", "vine-L1", "threads", "htex", "upstream", *_OTHERS),
        metrics=_RATE,
        points=(1000, 5000, 20_000, 100_000),
        quick=(5000,),
        unit="calls",
        only={**dict.fromkeys(("threads", "htex", *_OTHERS), (5000,)), **_ONE_BY_ONE},
        slow=("htex", "dask", "ray", "executorlib"),
    ),
    "c": Case(
        title="one call after another",
        measure=latency,
        contenders=(*_OURS, "threads", "htex", *_UPSTREAM, *_OTHERS),
        metrics={"*": _MS},
        calls=400,
        slow=("ours-L1-dag", "vine-L1-dag", "executorlib"),
    ),
    "d": Case(
        title="from nothing to the first result, and the end",
        measure=start_and_stop,
        contenders=(*_OURS, "threads", "htex", *_UPSTREAM, *_OTHERS),
        metrics={"*": Metric("s")},
        slow=("ours-L1-dag", "vine-L1-dag", *_OTHERS),
    ),
    "e": Case(
        title="an array as argument, as result",
        measure=payloads,
        contenders=("ours", "ours-dag", "vine", "threads", "htex", "upstream", "dask", "pool"),
        metrics={"*": _MS},
        points=(1, 32, 1024, 8192, 65_536),
        quick=(1, 1024, 65_536),
        unit="KB",
        slow=("ours-dag", "dask"),
        together=True,
    ),
    **{
        f"f.{name}": Case(
            title=title,
            measure=measure,
            contenders=("ours-dag", "ours", "vine-dag", "threads", "htex", "upstream", "dask"),
            metrics={"*": Metric("s")},
            points=(1, 16, 32, 64),
            quick=(16,),
            unit="MB",
            only={
                "htex": (1, 32) if name == "tree" else (1,),
                "upstream": (32,),
                "vine-dag": (16, 32),
                "ours": (16,),
                "threads": (16,),
            },
            slow=("htex", "ours", "threads"),
        )
        for name, title, measure in (
            ("tree", "pairwise sum of 16 arrays", tree),
            ("shuffle", "8 arrays, in 8 parts each, all to all", shuffle),
            ("stencil", "8 arrays and their neighbours, 5 steps", stencil),
        )
    },
    "g.chain": Case(
        title="chain of small calls",
        measure=chain,
        contenders=("ours-dag", "ours", "ours-L1-dag", "vine-dag", "vine-L1-dag", "threads", "htex", "dask"),
        metrics={"*": _US},
        points=(1000,),
        quick=(300,),
        unit="calls",
        only={"ours-L1-dag": (30,), "vine-L1-dag": (10,)},
        slow=("htex", "ours"),
    ),
    "g.fan": Case(
        title="one call, many on its result, one on all of theirs",
        measure=fan,
        contenders=("ours-dag", "ours", "ours-L1-dag", "vine-dag", "vine-L1-dag", "threads", "htex", "dask"),
        metrics={"*": _US},
        points=(2000,),
        quick=(500,),
        unit="calls",
        only={"ours-L1-dag": (50,), "vine-L1-dag": (50,)},
        slow=("htex", "ours"),
    ),
    "h.imports": Case(
        title="a function that imports numpy, scipy and ase",
        measure=imports,
        contenders=("ours", "ours-L1", "vine", "vine-L1", "inline", "htex"),
        metrics={"*": _MS},
        calls=5,
        quick_calls=3,
        slow=("htex",),
        rounds=2,
    ),
    "h.named": Case(
        title="the same, with import_modules",
        measure=partial(imports, modules=work.MODULES),
        contenders=("ours", "vine"),
        metrics={"*": _MS},
        calls=5,
        quick_calls=3,
        rounds=2,
    ),
    "h.each": Case(
        title="a context that takes a second, built by every call",
        measure=context_each,
        contenders=("ours", "ours-L1", "vine", "vine-L1"),
        metrics={"*": _MS},
        calls=2,
        quick_calls=1,
        rounds=2,
    ),
    "h.shared": Case(
        title="a context that takes a second, built by the library",
        measure=context_shared,
        contenders=("ours", "vine", "inline"),
        metrics={"*": _MS},
        calls=50,
    ),
    "i.dfk": Case(
        title="processor time for a no-op app, by process",
        measure=processor,
        contenders=("ours", "ours-dag", "vine", "null", "threads", "htex"),
        metrics={"*": _US},
        points=(20_000,),
        quick=(5000,),
        unit="calls",
        only={"htex": (2000,)},
        slow=("htex", "ours-dag", "threads"),
        rounds=2,
    ),
    "i.direct": Case(
        title="processor time for a no-op call past the DFK, by process",
        measure=partial(processor, direct=True),
        contenders=("ours", "vine"),
        metrics={"*": _US},
        points=(20_000,),
        quick=(5000,),
        unit="calls",
        rounds=2,
    ),
    "i.memory": Case(
        title="memory for a no-op app that waits, by process",
        measure=memory,
        contenders=("ours", "ours-dag", "vine", "held", "htex"),
        metrics={"*": Metric("bytes")},
        points=(20_000,),
        quick=(5000,),
        unit="calls",
        slow=("htex", "ours-dag"),
        rounds=2,
    ),
    "i.idle": Case(
        title="processor time with nothing to do, by process",
        measure=idle,
        contenders=("ours", "vine", "htex"),
        metrics={"*": Metric("% of a core")},
        calls=50,
        slow=("htex",),
        rounds=2,
    ),
    "j": Case(
        title="no-op calls past the DFK on nodes of one core",
        measure=nodes,
        contenders=("ours", "vine"),
        metrics={"*": _US},
        points=(1, 2, 4, 8, 16, 32),
        quick=(1, 8),
        unit="nodes",
        calls=20_000,
        quick_calls=5000,
        rounds=2,
    ),
}
"""The table, by key."""
