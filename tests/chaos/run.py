"""Random DAGs while nodes are killed: the results are those of a serial run, and nothing is left behind.

    python tests/chaos/run.py --seeds 50         seeds 0 to 49; ends with status 1 at the first seed that fails
    python tests/chaos/run.py --seed 7           only this seed
    python tests/chaos/run.py --engine taskvine  on TaskVine

All choices follow from the seed. Times do not: a seed that failed once may need several runs to fail again.

=============================== ========================================================================================
seeds                           what is done
=============================== ========================================================================================
even, and multiples of 7        ``temp-replica-count`` 1; nodes are killed when certain numbers of tasks are done
other odd seeds                 the same with ``temp-replica-count`` 2
1, 9, 13, 17, 29, 33 ...        one node is killed when every file has two replicas and calls run on all nodes: no
                                producer may run again
multiples of 5                  half way, some bytes of a file in some node's cache are overwritten as well
multiples of 7                  ``enable_peer_transfers=False``
multiples of 3                  ``taskvinetemp`` files too, not only results
1, 7, 13 ...                    the clock of each process jumps by up to two hours
3, 9, 15 ...                    temporary files are on a small disk that fills up when nodes are killed; Parsl retries
                                tasks that fail with DiskFull, or with an OSError of their code
5, 11, 17 ...                   all nodes are in a control group with little memory
=============================== ========================================================================================

``harm.py`` kills, stops and continues processes; ``conditions.py`` has clocks, disks and memory. A stopped process
counts as lost after a second of silence and a second without an answer.

On TaskVine no file is overwritten, because TaskVine does not check files. Its count of replicas includes copies that
are under way, so a producer may run again. In every fourth run, a call also kills each worker that runs it, until the
call is given up.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import parsl
from parsl.config import Config
from parsl.data_provider.files import File
from parsl.providers import LocalProvider

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from taskvine_exec import DAG_RESOLVER, TaskVineExecutor
from taskvine_exec.errors import DiskFull, NodeLost
from taskvine_manager.node import staging
from tests import control_groups
from tests.chaos import conditions, harm
from tests.chaos.plan import LAYERS, WIDTH, Node, Plan
from tests.conftest import eventually, our_processes, settle

NODES = 3
DOUBLES = 65_536  # half a megabyte: large results stay on nodes
SECONDS = 60.0
"""Time limit of a run."""
RETRIES = 10
STRATEGY_SECONDS = 0.05


# --- what runs ------------------------------------------------------------------------------------------------------


def mix(number: int, kind: str, parents: list[Any]) -> Any:
    """Compute the value of a node from its parents' values: an exact number that differs for every node.

    It overwrites the parents' arrays, to show that no other task sees that.
    """
    import numpy as np

    total = np.arange(65_536, dtype=float) + number
    for parent in parents:
        total = (3 * total + parent) % 1_000_003
        if isinstance(parent, np.ndarray):
            parent *= -1
    return int(total.sum()) % 1_000_003 if kind == "small" else total


def serially(nodes: list[Node]) -> dict[int, Any]:
    """Compute the same values in this process, without the executor."""
    values: dict[int, Any] = {}
    for node in nodes:
        parents = [np.copy(values[parent]) if values[parent] is not None else None for parent in node.parents]
        values[node.number] = mix(node.number, node.kind, parents)
    return values


@parsl.python_app
def value(account: str, node: Any, order: Any, *parents: Any, gate: str | None = None, inputs: Any = ()) -> Any:
    return work(account, node, order, parents, inputs, gate)


@parsl.python_app
def file(
    account: str, node: Any, order: Any, *parents: Any, gate: str | None = None, inputs: Any = (), outputs: Any = ()
) -> None:
    work(account, node, order, parents, inputs, gate).tofile(outputs[0].filepath)


@parsl.python_app
def poison() -> None:
    """Kill the worker; its launcher's process id is in the node's name."""
    import os
    import signal
    import time

    os.kill(int(os.environ["TASKVINE_EXEC_RUN_NODE"].rpartition("-")[2]), signal.SIGKILL)
    time.sleep(60)


def work(account: str, node: Any, order: Any, parents: Any, inputs: Any, gate: str | None) -> Any:
    """Do the work of both apps. ``order`` says whether each parent is an argument or a file, and which one."""
    import os
    import time

    import numpy as np

    number, kind, seconds = node
    descriptor = os.open(account, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)
    if gate is not None:
        open(f"{gate}.{number}.{os.getpid()}", "w").close()
    while gate is not None and not os.path.exists(gate):
        time.sleep(0.002)
    time.sleep(seconds)  # some work, so that the run lasts until the first node is killed
    found = [np.fromfile(inputs[place].filepath) if is_file else parents[place] for is_file, place in order]
    return mix(number, kind, found)


# --- a run ----------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A run had a wrong result, or left something behind."""


def ensure(condition: object, what: str) -> None:
    """Fail the run unless a condition holds."""
    if not condition:
        raise Failed(what)


class Progress:
    """The number of tasks that are done."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.done = 0
        self.times: list[float] = []
        self.errors: list[BaseException] = []

    def count(self, future: Future[Any]) -> None:
        """Count a task that is done."""
        with self._changed:
            self.done += 1
            self.times.append(time.monotonic())
            if (error := future.exception()) is not None:
                self.errors.append(error)
            self._changed.notify_all()

    def wait(self, count: int) -> bool:
        """Wait until ``count`` tasks are done."""
        with self._changed:
            return self._changed.wait_for(lambda: self.done >= count or bool(self.errors), SECONDS)


class Run:
    """One run of a plan on some nodes of this machine."""

    def __init__(
        self, plan: Plan, directory: str, engine: Literal["embedded", "taskvine"], disk: str | None, group: Path | None
    ) -> None:
        self.plan = plan
        self.disk = disk
        self.group = group
        self.engine = engine
        self.account = os.path.join(directory, "account")
        self.gate = os.path.join(directory, "gate")
        self.rng = random.Random(plan.seed + 1_000_000)  # for choices that depend on the state of the run
        self.progress = Progress()
        self.killed: set[str] = set()
        self.how: list[str] = []
        self.harmed: list[float] = []
        self.futures: dict[int, Any] = {}
        self.executor = TaskVineExecutor(
            label="tv",
            engine=engine,
            cores=1,
            provider=LocalProvider(
                init_blocks=NODES,
                min_blocks=NODES,
                max_blocks=NODES,
                worker_init=f"echo $$ >{group}/cgroup.procs" if group is not None else "",
            ),
            max_retries=4 if plan.poison else RETRIES,  # the call that kills workers ends this many of them
            enable_peer_transfers=plan.peers,
            tune_parameters={"temp-replica-count": plan.replicas, "keepalive-interval": 1, "keepalive-timeout": 1},
        )
        self.config = Config(
            executors=[self.executor],
            dependency_resolver=DAG_RESOLVER,
            strategy="simple",  # the strategy replaces blocks while others are left
            strategy_period=STRATEGY_SECONDS,
            run_dir=os.path.join(directory, "runinfo"),
            initialize_logging=False,
            retries=0 if disk is None else 1,
            retry_handler=lambda error, _: 0 if _is_for_want_of_space(error) else 2,  # 0: retry without limit
        )

    def submit(self, nodes: list[Node], *, gated: bool = False) -> None:
        """Submit a part of the DAG. With ``gated``, tasks that could start at once wait for the gate."""
        here = {node.number for node in nodes}
        for node in nodes:
            parents: list[Any] = []
            inputs: list[Any] = []
            order = []
            for parent in node.parents:
                future = self.futures[parent]
                is_file = bool(future.outputs)
                order.append((is_file, len(inputs if is_file else parents)))
                (inputs if is_file else parents).append(future.outputs[0] if is_file else future)
            arguments = (self.account, (node.number, node.kind, node.seconds), order, *parents)
            gate = self.gate if gated and here.isdisjoint(node.parents) else None
            options: dict[str, Any] = {"inputs": inputs, "gate": gate}
            if node.kind == "file":
                future = file(*arguments, **options, outputs=[File(f"taskvinetemp:///file{node.number}")])
            else:
                future = value(*arguments, **options)
            future.add_done_callback(self.progress.count)
            self.futures[node.number] = future

    def let_go(self, following: list[Node]) -> None:
        """Drop the futures that are neither held nor needed as parents."""
        needed = self.plan.held.union(*(node.parents for node in following))
        self.futures = {number: future for number, future in self.futures.items() if number in needed}

    def harm(self, *ways: str) -> None:
        """Harm a random node."""
        nodes = eventually(self._living, SECONDS)
        node = self.rng.choice(sorted(nodes, key=lambda each: int(each["block"])))
        known = [how for how in harm.WAYS[self.engine] if how not in harm.ONCE or set(self.how).isdisjoint(harm.ONCE)]
        how = self.rng.choice(ways or known)
        self.how.append(how)
        if how in harm.FATAL:
            self.killed.add(node["name"])
        self.harmed.append(time.monotonic())
        harm.do(how, node, self.rng)

    def until_next(self) -> list[float]:
        """Return the seconds from each harm to the next completion of a task."""
        times = sorted(self.progress.times)
        following = ((begun, next((when for when in times if when > begun), None)) for begun in self.harmed)
        return [when - begun for begun, when in following if when is not None]

    def _living(self) -> list[dict[str, Any]]:
        return [node for node in self.executor.nodes if node["name"] not in self.killed]

    def kill_along(self) -> None:
        """Kill nodes at the planned times; runs in its own thread."""
        for count in self.plan.kills:
            if not self.progress.wait(count) or self.progress.errors:
                return
            if self.disk is not None:
                conditions.fill(self.disk)
            self.harm()

    def spoil(self) -> None:
        """Overwrite some bytes of a file on some node. No task may run, because mapped files cannot be protected."""

        def try_to() -> bool:
            directories = {node["name"]: node["directory"] for node in self._living()}
            replicas = self.executor.stats()["replicas"]
            places = sorted((name, node) for name, nodes in replicas.items() for node in nodes if node in directories)
            if not places:
                return not replicas  # everything was lost, so no file is left to overwrite
            name, node = self.rng.choice(places)
            path = Path(directories[node], "cache", quote(name, safe="@"))
            try:
                with open(path, "r+b") as stream:
                    stream.seek(self.rng.randrange(path.stat().st_size))
                    stream.write(b"spoiled")
            except FileNotFoundError:
                return False  # it has just been removed
            return True

        eventually(try_to, SECONDS)

    def all_stand(self) -> bool:
        """Whether every file has two replicas, and calls run on every node. No call ends before the gate opens."""
        begun = {name.split(".")[1] for name in os.listdir(os.path.dirname(self.gate)) if name.startswith("gate.")}
        replicas = self.executor.stats()["replicas"].values()
        return len(begun) >= NODES and all(len(nodes) >= 2 for nodes in replicas)

    def run(self) -> dict[str, Any]:
        """Run the plan; return the figures for the report."""
        plan = self.plan
        begin = time.perf_counter()
        nodes = plan.first + plan.second
        parsl.load(self.config)
        ensure(self.executor.wait_for_nodes(NODES, SECONDS), "the nodes did not join")
        killer = threading.Thread(target=self.kill_along, daemon=True)
        killer.start()
        fatal = poison() if plan.poison else None
        self.submit(plan.first)
        self.let_go(plan.second)
        if plan.second:
            ensure(self.progress.wait(len(plan.first)), "the first half was not done in time")
            if plan.spoil:
                self.spoil()
            self.submit(plan.second, gated=plan.standing)
            self.let_go([])
            if plan.standing:
                eventually(self.all_stand, SECONDS)
                self.harm("kill node" if self.engine == "embedded" else "kill group")
                Path(self.gate).touch()
        done = self.progress.wait(len(nodes))
        if self.progress.errors:
            raise self.progress.errors[0]
        ensure(done, "it was not done in time")
        killer.join(SECONDS)
        if fatal is not None:
            ensure(isinstance(fatal.exception(SECONDS), NodeLost), "the call that kills its workers was not given up")
        self.compare(serially(nodes))
        if self.group is not None:
            ensure(not control_groups.kills(self.group), "a process was killed for lack of memory")
        stats = self.executor.stats()
        starts = len(Path(self.account).read_text().split())
        if plan.standing and self.engine == "embedded":
            ensure(stats["tasks_recovered"] == 0, f"{stats['tasks_recovered']} producers ran again")
            # Only the call on the killed node may have begun twice.
            ensure(starts <= len(nodes) + 1, f"{starts} calls began where there are {len(nodes)}")
        return {
            "seed": plan.seed,
            "replicas": plan.replicas,
            "kills": len(self.how),
            "next": self.until_next(),
            "again": stats["tasks_recovered"],
            "retried": stats["tasks_retried"],
            "starts": starts - len(nodes),
            "moved": stats["bytes_between_nodes"] / 2**20,
            "seconds": time.perf_counter() - begin,
            "how": ", ".join(
                name
                for name, is_so in (
                    ("all replicas stood", plan.standing),
                    ("a file spoiled", plan.spoil),
                    ("no peer transfers", not plan.peers),
                    (plan.condition, bool(plan.condition)),
                    ("a call that kills its workers", plan.poison),
                    (" ".join(self.how), bool(self.how)),
                )
                if is_so
            ),
        }

    def compare(self, expected: dict[int, Any]) -> None:
        """Fail unless the results that are held equal those of the serial run."""
        for number in sorted(self.plan.held):
            future = self.futures[number]
            result = _read(future)
            if future.outputs:
                path = self.executor.fetch(future.outputs[0], f"{self.gate}-fetched", SECONDS)
                result = np.fromfile(path)
            ensure(type(result) is type(expected[number]), f"task {number} returned a {type(result).__name__}")
            ensure(np.array_equal(result, expected[number]), f"task {number} has another result than in a serial run")


@contextmanager
def nothing_left(directory: str) -> Iterator[None]:
    """Fail if a process, directory, thread or descriptor of ours remains."""
    before = tempfile.tempdir, dict(os.environ)
    tempfile.tempdir = os.environ["TMPDIR"] = directory
    in_memory = tempfile.mkdtemp(prefix="tv", dir="/dev/shm" if os.path.isdir("/dev/shm") else directory)
    os.environ[staging.MEMORY_VARIABLE] = in_memory
    descriptors = len(os.listdir("/proc/self/fd"))
    try:
        yield
        checks: dict[str, Callable[[], Any]] = {
            "processes": lambda: our_processes(directory),
            "directories": lambda: [name for name in os.listdir(directory) if name.startswith("taskvine-")],
            "files in memory": lambda: os.listdir(in_memory),
            "threads": lambda: [thread for thread in threading.enumerate() if thread.name.startswith("TaskVine")],
            # The DFK sometimes leaves a descriptor open until it is collected.
            "descriptors": lambda: len(os.listdir("/proc/self/fd")) > descriptors + 4 and gc.collect() >= 0,
        }
        for what, look in checks.items():
            left = settle(look)
            ensure(not left, f"{what} remain: {left}")
    finally:
        for process in our_processes(directory):
            process.kill()
        shutil.rmtree(in_memory, ignore_errors=True)
        tempfile.tempdir = before[0]
        os.environ.clear()
        os.environ.update(before[1])


def run(seed: int, engine: Literal["embedded", "taskvine"]) -> dict[str, Any]:
    """Run a seed in a new directory, which is kept if the run fails."""
    directory = tempfile.mkdtemp(prefix="tv", dir="/tmp")  # short, because names of sockets are
    plan = Plan.draw(seed, engine)
    try:
        with nothing_left(directory), ExitStack() as stack:
            disk = group = None
            if plan.condition == "clocks jump":
                stack.enter_context(conditions.jumping_clocks(directory, seed))
            elif plan.condition == "the disk fills up":
                disk = stack.enter_context(conditions.small_disk(directory))
            elif plan.condition == "little memory":
                group = stack.enter_context(conditions.control_group(engine))
            current = Run(plan, directory, engine, disk, group)
            try:
                report = current.run()
            except BaseException:
                _describe(current)
                raise
            finally:
                parsl.dfk().cleanup()
                parsl.clear()
    except BaseException:
        print(f"logs are in {directory}", file=sys.stderr)
        raise
    shutil.rmtree(directory)
    return report


def _read(future: Future[Any]) -> Any:
    """Return a task's result. If a full disk prevented that a lost one was recreated, reading it tries again."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return future.result(SECONDS)
        except Exception as error:
            if not _is_for_want_of_space(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.1)  # the disk is full for a while


def _is_for_want_of_space(error: BaseException) -> bool:
    """Whether a task, or the recovery of its inputs, may have failed because a disk was full."""
    said = ("No space left", "no room for", " written")  # the last is numpy's
    return isinstance(error, DiskFull | OSError) or any(words in str(error) for words in said)


def _describe(run: Run) -> None:
    """Describe the state of a run that has failed."""
    try:
        graph = run.executor.graph()
        states: dict[str, list[Any]] = {}
        for name, data in graph.nodes(data=True):
            states.setdefault(f"{data['kind']} {data.get('state')}", []).append(name)
        for state, names in sorted(states.items()):
            print(f"{state}: {len(names)} {names[:10]}", file=sys.stderr)
        print(run.executor.stats(), [node["name"] for node in run.executor.nodes], sep="\n", file=sys.stderr)
    except Exception:
        traceback.print_exc()


def main() -> int:
    """Run seeds, one after another, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50, help="how many")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the one to begin with")
    parser.add_argument("--seed", type=int, help="that one alone")
    parser.add_argument("--engine", choices=("embedded", "taskvine"), default="embedded", help="of the executor")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds) if options.seed is None else [options.seed]
    print("seed replicas kills  producers run again  retried  begun again   moved  seconds")
    again = kills = 0
    following: list[float] = []
    begin = time.perf_counter()
    for seed in seeds:
        try:
            report = run(seed, options.engine)
        except Exception:
            traceback.print_exc()
            print(f"seed {seed} FAILED: python {os.path.relpath(__file__)} --seed {seed} --engine {options.engine}")
            return 1
        again += report["again"]
        kills += report["kills"]
        following += report["next"]
        print(
            "{seed:4d} {replicas:8d} {kills:5d}  {again:19d}  {retried:7d}  {starts:11d}  {moved:4.0f}MB"
            "  {seconds:7.2f}  {how}".format(**report),
            flush=True,
        )
    print(
        f"{len(seeds)} runs of {LAYERS * WIDTH} tasks equal to serial ones: {kills} kills and stops, "
        f"{again} producers run again, {time.perf_counter() - begin:.0f} s"
    )
    if following:
        print(
            f"seconds from each to the next completion: median {statistics.median(following):.2f}, "
            f"at most {max(following):.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
