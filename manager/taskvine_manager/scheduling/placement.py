"""Placement: which ready task runs next, and on which node."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable

from taskvine_manager import gpu_shares
from taskvine_manager.record import events as recorded
from taskvine_manager.scheduling.candidates import Candidates
from taskvine_manager.scheduling.estimates import Estimates
from taskvine_manager.scheduling.events import InputCopy, Replica, Run
from taskvine_manager.scheduling.eviction import Eviction
from taskvine_manager.scheduling.files import File
from taskvine_manager.scheduling.lifecycle import Lifecycle
from taskvine_manager.scheduling.nodes import LOOKED_AT, Node
from taskvine_manager.scheduling.reasons import Reasons
from taskvine_manager.scheduling.storage import Storage
from taskvine_manager.scheduling.tables import Tables
from taskvine_manager.scheduling.tasks import Order, Shape, State, Task
from taskvine_manager.wire.messages import L2

SET_ASIDE = 16
"""Maximum number of ready tasks that are passed over, because they wait for a transfer or a busy node."""
MOST_OTHERS = 3
"""Maximum number of nodes, besides the chosen one, that the record of a placement names."""


class Placement:
    """Assigns tasks to nodes, where each can start first."""

    def __init__(
        self, tables: Tables, storage: Storage, lifecycle: Lifecycle, candidates: Candidates, eviction: Eviction
    ) -> None:
        self._tasks, self._graph, self._files, self._nodes = tables.tasks, tables.graph, tables.files, tables.nodes
        self._outbox, self._tuning, self._settings = tables.outbox, tables.tuning, tables.settings
        self._transfers, self._inputs, self._lifecycle = storage.transfers, storage.inputs, lifecycle
        self._candidates, self._eviction = candidates, eviction
        self.estimates = Estimates(tables.tuning)
        self.reasons = Reasons(tables, candidates)
        self._held, self._details = self.reasons.held, tables.outbox.details
        self.begun = False
        """Whether a task has been placed since the start."""

    def refuse_oversized(self) -> None:
        """End the ready tasks that are too large for any node, once a node has joined."""
        if not self._nodes or not self._settings.uniform:
            return
        for shape in self._tasks.take_unchecked():
            queue = self._tasks.queues[shape]
            if any(node.capacity(shape, others=False) for node in self._nodes.values()):
                queue.fits = True
                continue
            largest = max(self._nodes.values(), key=lambda node: node.total)
            has = dict(zip(("cores", "memory", "disk", "gpus"), largest.total[:4], strict=True))
            has |= gpu_shares.largest(largest.info.gpu_memory)
            asked = dict(zip(Shape._fields[1:5], shape[1:5], strict=True), gpu_memory=shape.gpu_memory)
            requested = gpu_shares.requested(asked, shape.library)
            reason = "it asks for more than the largest node has"
            while queue.head() is not None:
                self._lifecycle.end(queue.pop(), "unsatisfiable", reason, requested=requested, largest=has)

    def place(self, joined: int) -> None:
        """Assign ready tasks to nodes, in their order, once enough nodes have ``joined``."""
        if self._held:
            self._held.clear()
        awaited = max(self._settings.wait_for_nodes, self._tuning.wait_for_workers)
        if not self.begun and joined < awaited:
            self._hold_all(f"{joined} of {awaited}")
            return
        blocked: set[Shape] = set()
        set_aside: list[Task] = []
        while True:
            heads = [
                (head.order, head.sequence, head)
                for shape, queue in self._tasks.queues.items()
                if shape not in blocked and (head := queue.head()) is not None
            ]
            if not heads:
                break
            order, _, task = min(heads)
            shape = task.shape
            if task.files or task.invocation.inputs:
                placed = self._place_by_data(task, set_aside)
            else:
                following = min((entry[0] for entry in heads if entry[0] != order), default=None)
                placed = self._place_many(task, following)
            if not placed:
                blocked.add(shape)
                self._candidates.reserve(shape)
                if self._held is not None:
                    self._held[task.invocation.number] = ("full", "")
            if len(set_aside) >= SET_ASIDE:
                blocked.update(task.shape for task in set_aside)
        for task in set_aside:
            self._tasks.queues[task.shape].push(task)
        self._send_ahead()

    def _hold_all(self, nodes: str) -> None:
        """Note that no task is placed yet, because too few nodes have joined."""
        if self._held is None:
            return
        for queue in self._tasks.queues.values():
            if (head := queue.head()) is not None:
                self._held[head.invocation.number] = ("few-nodes", nodes)

    def _place_many(self, first: Task, following: Order | None) -> bool:
        """Spread tasks of one shape without inputs evenly over the nodes; return False if no node can take one.

        Stop before the task whose order is ``following``, the first task of another shape.
        """
        shape = first.shape
        queue = self._tasks.queues[shape]
        depth = self.estimates.depth(first)
        rooms = self._candidates.rooms(first, depth)
        if not rooms:
            return False
        share = max(1, math.ceil(len(queue) / max(len(rooms), len(self._candidates.of(shape, depth)))))
        library = "" if shape.library is None else shape.library.name
        for name in sorted(rooms, key=lambda name: (library not in self._nodes[name].libraries, -rooms[name])):
            node = self._nodes[name]
            candidates = self._candidates.of(shape, depth)
            candidates[name] = candidates.pop(name, None)  # to the end: next time, others come first
            placed: list[int] = []
            queued = len(node.assigned)
            for _ in range(min(rooms[name], share)):
                task = queue.head()
                if (
                    task is None
                    or task.files
                    or task.invocation.inputs
                    or task.profile.category != first.profile.category
                ):
                    return True
                if following is not None and task.order > following:
                    return True
                self._assign(queue.pop(), node)
                placed.append(task.invocation.number)
                if len(placed) == 1 and self._details is not None:
                    self._details.append(recorded.Placed(name, placed, "spread", queue=queued))
        return True

    def _place_by_data(self, task: Task, set_aside: list[Task]) -> bool:
        """Place a task on the node where it can start first, or add it to ``set_aside`` if that node is busy.

        Of each node, the inputs that it lacks and its queue count. Return False, without a change, if no node can take
        the task.
        """
        shape, queue = task.shape, self._tasks.queues[task.shape]
        inputs = [file for name in task.files if (file := self._files[name]).value is None]
        paths = [use.source for use in task.invocation.inputs if use.kind == "local"]
        tuning = self._tuning
        if not inputs and not paths:
            depth = self.estimates.depth(task)  # small values travel with the task, which may be sent ahead anywhere
        else:
            depth = self.estimates.depth_of_reader(task)
        rooms = self._candidates.rooms(task, depth)
        if not rooms:
            return False
        ranks: list[tuple[float, float, int, str]] = []
        total = sum(file.size for file in inputs)
        held = self._bytes_held(inputs, rooms)
        for name in {**rooms, **self._largest_holders(held)}:
            node = self._nodes[name]
            room = rooms.get(name)
            if room is None:
                room = node.room_for(shape, depth) if self._candidates.is_free(name, task) else 0
            local = held.get(name, 0)
            local += sum(name in self._inputs.by_path[path].copies for path in paths)
            wait = 0.0 if room > 0 else self._wait(node, task)
            cost = tuning.weight_transfer * max(0, total - local) / self._transfers.bandwidth
            cost += wait if math.isinf(wait) else tuning.weight_wait * wait
            ranks.append((cost, -local if tuning.weight_transfer else 0.0, -room, name))
        best = min(ranks, default=None)
        if best is None or math.isinf(best[0]):
            return False
        queue.pop()
        cost, _, minus_room, name = best
        node = self._nodes[name]
        queued, obstacle = len(node.assigned), ("busy-node", name)
        if minus_room < 0:
            late = self._bring(task, node, inputs, paths)
            if late is None:
                if self._details is not None:
                    number, local, others = task.invocation.number, held.get(name, 0), self._others(ranks, name, held)
                    placed = recorded.Placed(name, [number], "inputs", local, total - local, queued, cost, others)
                    self._details.append(placed)
                return True
            obstacle = ("transfer-limit", late)
        set_aside.append(task)  # it waits for a busy node, or until its transfers can start
        if self._held is not None:
            self._held[task.invocation.number] = obstacle
        return True

    @staticmethod
    def _others(
        ranks: list[tuple[float, float, int, str]], chosen: str, held: dict[str, int]
    ) -> list[tuple[str, float, int, int]]:
        """Return the next best nodes, for the record: name, expected seconds, bytes of inputs, and room."""
        if len(ranks) < 2:
            return []
        few = heapq.nsmallest(MOST_OTHERS + 1, ranks)
        return [(name, cost, held.get(name, 0), -minus) for cost, _, minus, name in few if name != chosen]

    def _bytes_held(self, inputs: list[File], rooms: Iterable[str]) -> dict[str, int]:
        """Return the bytes of a task's inputs on each node that holds them or is fetching them.

        For a file on very many nodes, only some of its holders and those in ``rooms`` are counted.
        """
        held: dict[str, int] = {}
        for file in inputs:
            names: Iterable[str] = itertools.chain(file.holders, file.coming)
            if len(file.holders) + len(file.coming) > LOOKED_AT:
                wide = [name for name in rooms if name in file.holders or name in file.coming]
                names = dict.fromkeys([*itertools.islice(names, LOOKED_AT), *wide])
            for name in names:
                held[name] = held.get(name, 0) + file.size
        return held

    def _largest_holders(self, held: dict[str, int]) -> dict[str, None]:
        """Return the nodes that hold most of a task's inputs, without those that are draining."""
        names = {name: None for name in held if not self._nodes[name].draining}
        if len(names) <= LOOKED_AT:
            return names
        return dict.fromkeys(heapq.nlargest(LOOKED_AT, names, key=lambda name: (held[name], name)))

    def _wait(self, node: Node, task: Task) -> float:
        """Return the expected seconds until a busy node can take a task; infinite if unknown, or if it is reserved."""
        seconds = self.estimates.wait(node, task.shape)
        return seconds if self._candidates.is_free(node.info.name, task) else math.inf

    def _bring(self, task: Task, node: Node, inputs: list[File], paths: list[str]) -> str | None:
        """Assign a task to a node and start the transfers of its missing inputs, if all of them can start now.

        Otherwise, return an input that cannot be copied now.
        """
        name = node.info.name
        sources: dict[str, Replica] = {}
        for file in inputs:
            if name not in file.holders and name not in file.coming:
                source = self._transfers.source(file)
                if source is None:
                    return file.name
                sources[file.name] = source
        copies: dict[str, InputCopy | bool] = {}
        for path in paths:
            copy = self._inputs.source(path, name)
            if copy is False:
                return path
            copies[path] = copy
        needed = sum(source.size for source in sources.values())
        if needed and needed > node.room:
            self._lifecycle.lost(self._eviction.evict(node, needed, keep=task.files, order=task.order), evicted=True)
        run = self._assign(task, node)
        for each, source in sources.items():
            self._transfers.start(node, each, source, for_task=True)
            run.sources[each] = source
        for path, copy in copies.items():
            self._inputs.start(path, name, copy)
            if isinstance(copy, InputCopy):
                run.copies[path] = copy
        return None

    def _assign(self, task: Task, node: Node) -> Run:
        self.begun = True
        node.take(task)
        self._tasks.move(task, State.ASSIGNED)
        run = self._outbox.run(node.info.name)
        run.tasks.append(task)
        for each in task.files:
            value = self._files[each].value
            if value is not None:
                run.values[each] = value
        if task.makes:
            self._tasks.add_ahead(self._graph.followers(task.invocation.number))
        return run

    # --- short tasks ---

    def _send_ahead(self) -> None:
        """Send short tasks to the node that is still producing their inputs."""
        kept: list[int] = []
        while len(kept) < SET_ASIDE and (task := self._tasks.next_ahead()) is not None:
            node = self._node_with_inputs(task)
            if node is None:
                continue
            depth = self.estimates.depth(task)
            if depth > 1 and node.room_for(task.shape, depth) > 0 and self._candidates.is_free(node.info.name, task):
                if self._details is not None:
                    queued = len(node.assigned)
                    self._details.append(
                        recorded.Placed(node.info.name, [task.invocation.number], "ahead", queue=queued)
                    )
                self._assign(task, node)
            elif depth > 1:
                kept.append(task.invocation.number)  # the node is full
        self._tasks.put_back_ahead(kept)

    def _node_with_inputs(self, task: Task) -> Node | None:
        """Return the node that holds or is producing all inputs of a short task, if there is one and it has space."""
        name: str | None = None
        uses = (*task.invocation.inputs, *task.invocation.outputs)
        if task.shape.mode != L2 or task.suspect or any(use.kind != "value" for use in uses):
            return None
        for each in task.files:
            file = self._files[each]
            if file.value is not None:
                continue
            if file.holders:
                places = dict.fromkeys(file.holders)
            else:
                makers = [self._tasks[number] for number in self._graph.makers(each)]
                places = {maker.node: None for maker in makers if maker.node is not None} if len(makers) == 1 else {}
            if name is None:
                name = next(iter(places), None)
            if name is None or name not in places:
                return None
        node = self._nodes.get(name) if name is not None else None
        if node is None or node.draining or node.room < node.used:
            return None  # little space is left: a task sent ahead would keep its inputs from being evicted
        return node
