"""The simulation behind :func:`taskvine_tune.simulation.api.simulate`: the manager's shell with a simulated clock.

This module and :mod:`taskvine_tune.simulation.nodes` import the scheduler. They are imported only when a simulation
begins.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from time import thread_time_ns
from typing import Any

from taskvine_manager.parameters import PARAMETERS
from taskvine_manager.parameters.own import INLINE_LIMIT, LIBRARY_SLOTS, LOSS_INTERVAL
from taskvine_manager.parameters.taskvine import MAX_WORKERS
from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import core
from taskvine_manager.wire.messages import FileUse, Invocation, NodeInfo, Profile
from taskvine_tune.errors import BadSimulation
from taskvine_tune.simulation.model import Cluster, Outcome, Traffic
from taskvine_tune.simulation.network import Clock, Network, Port
from taskvine_tune.simulation.nodes import ImaginedNode, pack
from taskvine_tune.simulation.workloads import Job, Workload
from taskvine_tune.tuning import TuneParameters

__all__ = ["Simulation"]

BATCH = 512
"""Most tasks that are submitted together."""
FETCHES = 8
"""Results that are brought to the user at a time."""
HOPELESS = 1000
"""Losses per node, without a task that returned in between, after which the simulation is hopeless."""
MB = 1 << 20
UNLIMITED = 1 << 40
"""MB of a disk without limit."""


class Simulation:
    """One simulation, from its beginning to its end; see :func:`taskvine_tune.simulation.api.simulate`."""

    def __init__(self, workload: Workload, cluster: Cluster, tuning: TuneParameters, seed: int, window: int) -> None:
        self.clock = Clock()
        self.network = Network(self.clock)
        self.manager = Port(cluster.manager_bandwidth)
        self.latency = cluster.latency
        self.overhead = cluster.overhead
        self.setup = cluster.setup
        self.write_rate = cluster.write_rate
        self.inline_limit = int(INLINE_LIMIT.of(tuning))
        self.input_sizes = dict(workload.files)
        self._workload = workload
        self._cluster = cluster
        most = int(MAX_WORKERS.of(tuning))
        self._size = min(cluster.nodes, most) if most > 0 else cluster.nodes
        self._loss_rate = cluster.loss_rate / 3600
        if interval := LOSS_INTERVAL.of(tuning):
            self._loss_rate += 1 / (interval * self._size)
        self._library_slots = int(LIBRARY_SLOTS.of(tuning)) or None
        self._random = random.Random(seed)
        self._core = core.Scheduler(max_retries=cluster.retries, peer_transfers=cluster.peer_transfers)
        self._nodes: dict[str, ImaginedNode] = {}
        self._relayed: set[str] = set()
        self._actions: dict[type, Callable[[Any], None]] = {
            core.Run: self._run,
            core.Fetch: self._fetch,
            core.Drop: self._drop,
            core.Kill: self._kill,
            core.Full: self._full,
            core.Relay: self._relay,
            core.Finish: self._finish,
            core.Answer: self._answer,
            core.Again: self._again,
        }
        # Tasks:
        self._jobs = workload.jobs()
        self._next: Job | None = next(self._jobs, None)
        self._window = window
        self._submitted = 0
        self._live: dict[int, tuple[str, ...]] = {}  # results to bring to the user, by unfinished task
        self._done = self._failed = self._undelivered = 0
        self._held: list[tuple[int, str]] = []  # heap of results to forget, by the number of ended tasks
        self._timer = False
        # Results for the user:
        self._ready: deque[str] = deque()
        self._fetching: dict[int, str] = {}
        self._requests = 0
        # Counts:
        self._spent = 0
        self._events = 0
        self._decisions = 0
        self._reruns = 0
        self._busy = 0.0
        self._capacity = 0.0
        self._joined: dict[str, float] = {}
        self._losses = 0
        self._losses_in_vain = 0
        self._traffic: dict[str, Traffic] = {}
        tuned = {name: float(value) for name, value in tuning.items() if PARAMETERS[name].on("embedded").support.acts}
        if tuned:
            self._handle(core.Tuned(tuned))

    def run(self) -> Outcome:
        """Run the simulation."""
        profiles = tuple(Profile(place, "", *kind) for place, kind in enumerate(self._workload.kinds))
        self._handle(core.Submitted(profiles, []))
        for place in range(self._size):
            self.clock.after(self._cluster.startup, self._join, f"n{place}", 0)
        self.clock.after(0.0, self._feed)
        while not self._is_over() and self.clock.step():
            pass
        return self._outcome()

    def _is_over(self) -> bool:
        return self._next is None and not (self._live or self._ready or self._fetching)

    def _outcome(self) -> Outcome:
        left = len(self._live)  # no node is left to run these
        while self._next is not None:
            left += 1
            self._next = next(self._jobs, None)
        for since in self._joined.values():
            self._capacity += self.clock.now - since
        stats = self._core.stats()
        slots = self._capacity * (self._library_slots or self._cluster.slots)
        return Outcome(
            makespan=self.clock.now,
            storage_peak=stats["bytes_stored_at_most"],
            moved=self._traffic.get("nodes", Traffic(0, 0)).size,
            rerun=self._reruns,
            recovered=stats["tasks_recovered"],
            done=self._done,
            failed=self._failed + left,
            undelivered=self._undelivered + len(self._ready) + len(self._fetching),
            transfers=dict(self._traffic),
            evicted=stats["files_evicted"],
            lost_nodes=self._losses,
            utilization=self._busy / slots if slots else 0.0,
            decisions=self._decisions,
            events=self._events,
            scheduling_seconds=self._spent / 1e9,
        )

    # --- the scheduler ---

    def _handle(self, event: core.Event) -> None:
        begin = thread_time_ns()
        instructions = self._core.handle(event)
        self._spent += thread_time_ns() - begin
        self._events += 1
        for instruction in instructions:
            self._actions[type(instruction)](instruction)

    def say(self, event: core.Event) -> None:
        self.clock.after(self.latency, self._handle, event)

    def _tell(self, node: str, act: Callable[[ImaginedNode], None]) -> None:
        if (here := self._nodes.get(node)) is not None:
            self.clock.after(self.latency, self._told, here, act)

    @staticmethod
    def _told(node: ImaginedNode, act: Callable[[ImaginedNode], None]) -> None:
        if node.is_alive:
            act(node)

    def _run(self, run: core.Run) -> None:
        self._decisions += len(run.tasks)
        self._tell(run.node, lambda node: node.run(run))

    def _fetch(self, order: core.Fetch) -> None:
        self._tell(order.node, lambda node: node.fetch(order.file, order.source))

    def _drop(self, order: core.Drop) -> None:
        if order.node == core.RELAY:
            self._relayed.difference_update(order.files)
        else:
            self._tell(order.node, lambda node: node.drop(order.files))

    def _kill(self, order: core.Kill) -> None:
        self._tell(order.node, lambda node: node.kill(order.numbers))

    def _full(self, order: core.Full) -> None:
        self._tell(order.node, lambda node: node.full())

    def _again(self, order: core.Again) -> None:
        """Do nothing: the scheduler counts retries itself."""

    # --- nodes ---

    def _join(self, place: str, generation: int) -> None:
        cluster = self._cluster
        name = f"{place}.{generation}" if generation else place
        # The scheduler knows a node's disk in whole MB, and takes 0 for a disk that cannot hold what a task requests.
        megabytes = cluster.disk // MB or UNLIMITED
        slots, gpus = self._library_slots, cluster.gpus
        info = NodeInfo(name, float(cluster.slots), cluster.memory, megabytes, gpus, slots, "", 0, "")
        node = self._nodes[name] = ImaginedNode(info, megabytes * MB, cluster.bandwidth, self)
        self._joined[name] = self.clock.now
        if self._loss_rate:
            self.clock.after(self._random.expovariate(self._loss_rate), self._lose, node, place, generation)
        self.say(core.NodeJoined(info))

    def _lose(self, node: ImaginedNode, place: str, generation: int) -> None:
        name = node.info.name
        del self._nodes[name]
        self._capacity += self.clock.now - self._joined.pop(name)
        self._losses += 1
        self._losses_in_vain += 1
        if self._losses_in_vain > HOPELESS * self._size:
            raise BadSimulation(
                f"{self._losses} nodes were lost in {self.clock.now:.4g} s, and of {self._workload.count} tasks "
                f"{self._done} ended: at {self._loss_rate * 3600:g} losses per node and hour, the others never will"
            )
        node.die()
        self.say(core.NodeLeft(name, "it was lost"))
        if self._cluster.replace:
            self.clock.after(self._cluster.startup, self._join, place, generation + 1)

    def port(self, node: str) -> Port | None:
        if node == core.RELAY:
            return self.manager
        here = self._nodes.get(node)
        return here.port if here is not None else None

    def holds(self, node: str, file: str) -> bool:
        return file in self._relayed if node == core.RELAY else file in self._nodes[node].files

    def need(self, node: str, task: core.Task) -> tuple[float, ...]:
        return self._core.nodes[node].need(task.shape)

    def ran(self, seconds: float, *, again: bool) -> None:
        self._busy += seconds
        self._reruns += again

    def fetched(self, source: str, size: int) -> None:
        known = {core.RELAY: "manager", "user": "user", "results": "results"}
        key = known.get(source, "nodes")
        count, total = self._traffic.get(key, (0, 0))
        self._traffic[key] = Traffic(count + 1, total + size)

    def _relay(self, order: core.Relay) -> None:
        """Copy a replica to the manager's directory."""
        file, source = order.file, order.source

        def came() -> None:
            self._relayed.add(file)
            self._handle(core.Relayed(file, 1, None))

        def failed() -> None:
            self._handle(core.Relayed(file, 0, "its node has lost it"))

        node = self._nodes.get(source.node)
        if node is None or file not in node.files:
            self.clock.after(self.latency, failed)
        else:
            self.network.begin(node.port, self.manager, source.size, came, failed)

    # --- the user ---

    def _feed(self) -> None:
        """Submit the tasks that are due, as far as the window allows."""
        now, files = self.clock.now, self._forget
        while self._next is not None and self._next.submitted <= now:
            room = min(BATCH, self._window - len(self._live))
            # Wait for a larger batch, instead of submitting tasks one by one as they end.
            if room < min(BATCH, self._window // 4 + 1) and self._live:
                break
            batch: list[Invocation] = []
            forgets: list[tuple[str, int]] = []
            while self._next is not None and len(batch) < room and self._next.submitted <= now:
                batch.append(self._invocation(self._next))
                forgets += self._next.forgets
                self._next = next(self._jobs, None)
            self._handle(core.Submitted((), batch))
            files(forgets)
        if self._next is not None and self._next.submitted > now and not self._timer:
            self._timer = True
            self.clock.after(self._next.submitted - now, self._feed_on)

    def _feed_on(self) -> None:
        self._timer = False
        self._feed()

    def _invocation(self, job: Job) -> Invocation:
        number = self._submitted
        self._submitted += 1
        self._live[number] = tuple(each.name for each in job.outputs) if job.is_final else ()
        inputs = [FileUse("value", "", name) for name in job.inputs]
        if job.temps or job.reads:
            inputs += [FileUse("temp", name, name) for name in job.temps]
            inputs += [FileUse("local", path, path) for path in job.reads]
        outputs = tuple(FileUse(each.kind, "", each.name, each.replicas) for each in job.outputs)
        sizes = tuple(each.size for each in job.outputs)
        return Invocation(number, job.kind, pack(job.seconds, sizes), tuple(inputs), outputs)

    def _forget(self, files: list[tuple[str, int]]) -> None:
        ended = self._done + self._failed
        now = tuple(name for name, count in files if count <= ended)
        for name, count in files:
            if count > ended:
                heappush(self._held, (count, name))
        if now:
            self._handle(core.Forgotten(now))

    def _finish(self, order: core.Finish) -> None:
        for completion in order.completions:
            results = self._live.pop(completion.number)
            if completion.outcome == failure.RETURNED:
                self._done += 1
                self._losses_in_vain = 0
                self._ready.extend(results)
            else:
                self._failed += 1
                self._undelivered += len(results)
        self.clock.after(0.0, self._go_on)  # the scheduler's other instructions come first

    def _go_on(self) -> None:
        ended = self._done + self._failed
        forgotten = []
        while self._held and self._held[0][0] <= ended:
            forgotten.append(heappop(self._held)[1])
        if forgotten:
            self._handle(core.Forgotten(tuple(forgotten)))
        self._deliver()
        if self._next is not None:
            self._feed()

    def _deliver(self) -> None:
        while self._ready and len(self._fetching) < FETCHES:
            self._ask(self._ready.popleft())

    def _ask(self, file: str) -> None:
        self._requests += 1
        self._fetching[self._requests] = file
        self._handle(core.Asked(self._requests, file))

    def _answer(self, answer: core.Answer) -> None:
        request, where = answer.request, answer.where
        if isinstance(where, bytes):
            self.clock.after(0.0, self._delivered, request, 0)
        elif where is None:
            self._undelivered += 1
            self.clock.after(0.0, self._delivered, request, None)
        else:
            self.clock.after(self.latency, self._collect, request, where)

    def _collect(self, request: int, where: core.Replica) -> None:
        def again() -> None:
            file = self._fetching.pop(request)
            # The manager learns of the loss after the same latency.
            self.clock.after(self.latency, self._ask, file)

        node = self._nodes.get(where.node)
        if where.node == core.RELAY:
            self._delivered(request, where.size)
        elif node is None or self._fetching[request] not in node.files:
            again()
        else:
            self.network.begin(node.port, self.manager, where.size, lambda: self._delivered(request, where.size), again)

    def _delivered(self, request: int, size: int | None) -> None:
        file = self._fetching.pop(request)
        if size:
            self.fetched("results", size)
        self._handle(core.Forgotten((file,)))
        self._deliver()
