"""The simulation behind :func:`taskvine_tune.simulation.api.simulate`: the manager's shell with a simulated clock.

This module and those of the nodes and the user import the scheduler. They are imported only when a simulation begins.
"""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time_ns
from typing import Any

from taskvine_manager.node.pool import CHUNK_CALLS
from taskvine_manager.parameters import PARAMETERS
from taskvine_manager.parameters.own import BATCH, INLINE_LIMIT, LIBRARY_SLOTS, LOSS_INTERVAL
from taskvine_manager.parameters.taskvine import MAX_WORKERS
from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.core import Scheduler
from taskvine_manager.scheduling.events import (
    RELAY,
    Answer,
    Drop,
    Event,
    Fetch,
    Finish,
    Full,
    Kill,
    Record,
    Relay,
    Relayed,
    Replica,
    Run,
    RunAgain,
    Tuned,
)
from taskvine_manager.scheduling.tables import Settings
from taskvine_tune.errors import BadSimulation
from taskvine_tune.simulation.fleet import Fleet
from taskvine_tune.simulation.model import Cluster, Outcome, Traffic
from taskvine_tune.simulation.network import Clock, Network, Port
from taskvine_tune.simulation.nodes import ImaginedNode
from taskvine_tune.simulation.user import User
from taskvine_tune.simulation.workloads import Workload
from taskvine_tune.tuning import TuneParameters

__all__ = ["Simulation"]

HOPELESS = 1000
"""Losses per node, without a task that returned in between, after which the simulation is hopeless."""


class Simulation:
    """One simulation, from its beginning to its end; see :func:`taskvine_tune.simulation.api.simulate`.

    It is the environment of the nodes, and the manager of the user.
    """

    def __init__(self, workload: Workload, cluster: Cluster, tuning: TuneParameters, seed: int, window: int) -> None:
        self.clock = Clock()
        self.network = Network(self.clock)
        self.manager = Port(cluster.manager_bandwidth)
        self.cluster = cluster
        self.inline_limit = int(INLINE_LIMIT.of(tuning))
        self.most_calls = int(BATCH.of(tuning)) or CHUNK_CALLS
        self.input_sizes = dict(workload.files)
        self._workload = workload
        most = int(MAX_WORKERS.of(tuning))
        size = min(cluster.nodes, most) if most > 0 else cluster.nodes
        loss_rate = cluster.loss_rate / 3600
        if interval := LOSS_INTERVAL.of(tuning):
            loss_rate += 1 / (interval * size)
        slots = int(LIBRARY_SLOTS.of(tuning)) or None
        self.core = Scheduler(Settings(max_retries=cluster.retries, peer_transfers=cluster.peer_transfers))
        self._fleet = Fleet(size, loss_rate, slots, seed, self, self._check_hope)
        self.user = User(workload, window, self)
        self._relayed: set[str] = set()
        self.actions: dict[type, Callable[[Any], None]] = {
            Run: self._run,
            Fetch: lambda it: self._tell(it.node, lambda node: node.fetch(it.file, it.source)),
            Drop: self._drop,
            Kill: lambda it: self._tell(it.node, lambda node: node.kill(it.numbers)),
            Full: lambda it: self._tell(it.node, lambda node: node.full(it.numbers)),
            Relay: self._relay,
            Finish: self._finish,
            Answer: self.user.answer,
            RunAgain: lambda it: None,  # the scheduler counts retries itself
            Record: lambda it: None,  # simulated runs have no record
        }
        """What is called for each type of instruction."""
        # Counts:
        self._spent = 0
        self._events = 0
        self._decisions = 0
        self._reruns = 0
        self._busy = 0.0
        self._losses_at_return = 0
        self._traffic: dict[str, Traffic] = {}
        tuned = {name: float(value) for name, value in tuning.items() if PARAMETERS[name].on("embedded").support.acts}
        if tuned:
            self.handle(Tuned(tuned))

    def run(self) -> Outcome:
        """Run the simulation."""
        self._fleet.start()
        self.user.begin()
        while not self.user.is_content and self.clock.step():
            pass
        self.user.give_up()  # no node is left to run the rest
        stats, user, slots = self.core.stats(), self.user, self._fleet.slot_seconds
        return Outcome(
            makespan=self.clock.now,
            storage_peak=stats["bytes_stored_at_most"],
            moved=self._traffic.get("nodes", Traffic(0, 0)).size,
            rerun=self._reruns,
            recovered=stats["tasks_recovered"],
            done=user.done,
            failed=user.failed,
            undelivered=user.undelivered,
            transfers=dict(self._traffic),
            evicted=stats["files_evicted"],
            lost_nodes=self._fleet.losses,
            utilization=self._busy / slots if slots else 0.0,
            decisions=self._decisions,
            events=self._events,
            scheduling_seconds=self._spent / 1e9,
        )

    # --- the scheduler ---

    def handle(self, event: Event) -> None:
        """Give the scheduler an event at once, and carry out its instructions."""
        begin = thread_time_ns()
        instructions = self.core.handle(event)
        self._spent += thread_time_ns() - begin
        self._events += 1
        for instruction in instructions:
            self.actions[type(instruction)](instruction)

    def say(self, event: Event) -> None:
        self.clock.after(self.cluster.latency, self.handle, event)

    def _tell(self, node: str, act: Callable[[ImaginedNode], None]) -> None:
        if (here := self._fleet.get(node)) is not None:
            self.clock.after(self.cluster.latency, self._told, here, act)

    @staticmethod
    def _told(node: ImaginedNode, act: Callable[[ImaginedNode], None]) -> None:
        if node.is_alive:
            act(node)

    def _run(self, run: Run) -> None:
        self._decisions += len(run.tasks)
        self._tell(run.node, lambda node: node.run(run))

    def _drop(self, order: Drop) -> None:
        if order.node == RELAY:
            self._relayed.difference_update(order.files)
        else:
            self._tell(order.node, lambda node: node.drop(order.files))

    def _finish(self, order: Finish) -> None:
        if any(completion.outcome == failure.RETURNED for completion in order.completions):
            self._losses_at_return = self._fleet.losses
        self.user.finish(order)

    def _check_hope(self) -> None:
        """End a simulation in which nodes are lost faster than any task ends."""
        fleet = self._fleet
        if fleet.losses - self._losses_at_return > HOPELESS * fleet.size:
            raise BadSimulation(
                f"{fleet.losses} nodes were lost in {self.clock.now:.4g} s, and of {self._workload.count} tasks "
                f"{self.user.done} ended: at {fleet.loss_rate * 3600:g} losses per node and hour, the others never "
                "will"
            )

    # --- files ---

    def port(self, node: str) -> Port | None:
        if node == RELAY:
            return self.manager
        here = self._fleet.get(node)
        return here.port if here is not None else None

    def holds(self, node: str, file: str) -> bool:
        if node == RELAY:
            return file in self._relayed
        here = self._fleet.get(node)
        return here is not None and file in here.files

    def bring(self, file: str, replica: Replica, came: Callable[[], None], failed: Callable[[], None]) -> None:
        if replica.node == RELAY:
            came()
        elif (port := self.port(replica.node)) is None or not self.holds(replica.node, file):
            failed()
        else:
            self.network.begin(port, self.manager, replica.size, came, failed)

    def _relay(self, order: Relay) -> None:
        """Copy a replica to the manager's directory."""
        file, source = order.file, order.source

        def came() -> None:
            self._relayed.add(file)
            self.handle(Relayed(file, 1, None))

        def failed() -> None:
            self.handle(Relayed(file, 0, "its node has lost it"))

        if self.holds(source.node, file):
            self.bring(file, source, came, failed)
        else:
            self.clock.after(self.cluster.latency, failed)

    # --- counts ---

    def ran(self, seconds: float, *, again: bool) -> None:
        self._busy += seconds
        self._reruns += again

    def fetched(self, source: str, size: int) -> None:
        known = {RELAY: "manager", "user": "user", "results": "results"}
        key = known.get(source, "nodes")
        count, total = self._traffic.get(key, (0, 0))
        self._traffic[key] = Traffic(count + 1, total + size)
