"""Temp files on nodes: where their replicas are, how many there should be, and the transfers between nodes.

This part of the scheduler (see :mod:`taskvine_manager.scheduling.core`) is equally pure: it changes its tables, and
:meth:`Storage.flush` returns the instructions that follow.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from taskvine_manager.parameters import NAMESPACE, canonical, own, taskvine
from taskvine_manager.scheduling.events import (
    RELAY,
    Discard,
    Drop,
    Fetch,
    InputCopy,
    Instruction,
    Relay,
    Replica,
    Stamp,
)
from taskvine_manager.scheduling.files import File, FileTable, Origin
from taskvine_manager.scheduling.graph import DependencyGraph
from taskvine_manager.scheduling.nodes import Node, Transfer
from taskvine_manager.scheduling.tasks import Order

RELAY_TRIES = 3
"""Failed copies of a file to the manager's directory after which the tasks that need it are ended."""
LOOKED_AT = 16
"""Maximum number of nodes compared for one choice, so that its cost does not grow with the number of nodes."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Tuning parameters that the scheduler acts on, with their defaults; a ``default_transfer_rate`` of 0 is unset."""

    temp_replica_count: int = taskvine.TEMP_REPLICA_COUNT.default
    transfer_replica_per_cycle: int = taskvine.TRANSFER_REPLICA_PER_CYCLE.default
    transfer_temps_recovery: bool = taskvine.TRANSFER_TEMPS_RECOVERY.default
    clean_redundant_replicas: bool = taskvine.CLEAN_REDUNDANT_REPLICAS.default
    immediate_recovery: bool = taskvine.IMMEDIATE_RECOVERY.default
    worker_source_max_transfers: int = taskvine.WORKER_SOURCE_MAX_TRANSFERS.default
    file_source_max_transfers: int = taskvine.FILE_SOURCE_MAX_TRANSFERS.default
    shift_disk_load: bool = taskvine.SHIFT_DISK_LOAD.default
    default_transfer_rate: float = 0.0
    resource_submit_multiplier: float = taskvine.RESOURCE_SUBMIT_MULTIPLIER.default
    proportional_resources: bool = False
    proportional_whole_tasks: bool = taskvine.PROPORTIONAL_WHOLE_TASKS.default
    wait_for_workers: int = taskvine.WAIT_FOR_WORKERS.default
    prefetch: float = own.PREFETCH.default
    weight_transfer: float = own.WEIGHT_TRANSFER.default
    weight_wait: float = own.WEIGHT_WAIT.default

    def tuned(self, parameters: Mapping[str, float]) -> Tuning:
        """Return a copy with new values, by parameter name; skip parameters that the scheduler does not use."""
        given = {canonical(name): value for name, value in parameters.items()}
        if (shares := given.get(taskvine.PROPORTIONAL_RESOURCES.name)) is not None:  # it sets both, as in TaskVine
            given.setdefault(taskvine.PROPORTIONAL_WHOLE_TASKS.name, shares)
        elif given.get(taskvine.PROPORTIONAL_WHOLE_TASKS.name):
            given[taskvine.PROPORTIONAL_RESOURCES.name] = True
        for each in (taskvine.TEMP_REPLICA_COUNT, taskvine.TRANSFER_REPLICA_PER_CYCLE):
            if each.name in given:
                given[each.name] = max(1, given[each.name])
        for each in (taskvine.WORKER_SOURCE_MAX_TRANSFERS, taskvine.FILE_SOURCE_MAX_TRANSFERS):
            if given.get(each.name, 1) < 1:  # no limit, as in TaskVine
                given[each.name] = 1 << 30
        fields = {name.removeprefix(NAMESPACE).replace("-", "_"): value for name, value in given.items()}
        known = fields.keys() & Tuning.__dataclass_fields__.keys()
        return replace(self, **{name: type(getattr(self, name))(fields[name]) for name in known})


@dataclass
class Input:
    """A user's file that tasks read.

    ``copies`` maps nodes to the names and stamps of their copies. ``coming`` maps nodes that are fetching one to its
    source: another node, or :data:`RELAY` for the user's file itself.
    """

    size: int = 0
    copies: dict[str, tuple[str, Stamp]] = field(default_factory=dict)
    coming: dict[str, str] = field(default_factory=dict)


class Storage:
    """Replicas of temp files on nodes.

    Parameters
    ----------
    graph : DependencyGraph
        Knows which tasks produce and need a file.
    peer_transfers : bool
        Whether nodes may copy from each other. Otherwise all files pass through the manager's directory.
    """

    def __init__(self, graph: DependencyGraph, *, peer_transfers: bool) -> None:
        self.files = FileTable()
        self.nodes: dict[str, Node] = {}
        self.inputs: dict[str, Input] = {}
        self.tuning = Tuning()
        self.orders: list[Instruction] = []
        self.moved = 0
        self.stored = 0
        self.peak = 0
        """The highest value of ``stored`` so far: bytes of temp files on all nodes together."""
        self.inputs_read = 0
        self.evicted = 0
        """Replicas that were removed to free disk space."""
        self.bandwidth = 1e9
        """Recent rate of one transfer, in bytes per second."""
        self._graph = graph
        self._peers = peer_transfers
        self._relaying = 0
        self._relay_failures: Counter[str] = Counter()
        self._relays: dict[str, str] = {}  # source node of each file that is being copied to the manager's directory
        self._drops: dict[str, list[str]] = {}
        self._discards: list[str] = []
        self._short: list[tuple[int, int, str]] = []  # a heap: number of replicas, tie breaker, file
        self._parked: dict[str, None] = {}  # files that lack replicas which no node can take
        self._shifting: dict[str, str] = {}  # the node that each file leaves while it is moved
        self._pushes = itertools.count()
        self._ring: list[str] = []
        self._turn = 0

    def flush(self) -> Iterator[Instruction]:
        """Yield the instructions collected since the last call."""
        if self._drops:
            drops, self._drops = self._drops, {}
            yield from (Drop(node, files) for node, files in drops.items() if node in self.nodes or node == RELAY)
        if self.orders:
            orders, self.orders = self.orders, []
            yield from orders
        if self._discards:
            discards, self._discards = self._discards, []
            yield Discard(discards)

    # --- nodes ---

    def join(self, node: Node) -> None:
        """Add a node."""
        self.nodes[node.info.name] = node
        self._ring.append(node.info.name)
        self.unpark()

    def leave(self, name: str) -> list[File]:
        """Remove a node; return the files that were lost with it."""
        node = self.nodes.pop(name)
        self.stored -= node.used
        self._ring.remove(name)
        for coming, transfer in list(node.fetching.items()):
            self.arrived(node, coming)
            self.shifted(coming)
            if not transfer.for_task and coming in self.files:
                self.shorten(self.files[coming])
        for other in self.nodes.values():  # replicas that were being copied from it are copied from elsewhere
            for coming, transfer in list(other.fetching.items()):
                if transfer.source == name and not transfer.for_task:
                    self.arrived(other, coming)
                    self.shorten(self.files[coming])
        for known in self.inputs.values():
            known.copies.pop(name, None)
            if (source := known.coming.pop(name, RELAY)) != RELAY:
                self._count(source, -1)
        lost = []
        for held in sorted(node.files):
            file = self.files[held]
            file.refused.clear()  # the lost replica may have been the cause
            del file.holders[name]
            if not file.holders:
                file.lost_with = name
                if not file.is_there:
                    lost.append(file)
            elif self.tuning.transfer_temps_recovery:
                self.shorten(file)
        return lost

    def drain(self, node: Node) -> None:
        """Mark a node as draining. Its replicas no longer count, so its files may need others."""
        node.draining = True
        node.unsaved = dict.fromkeys(sorted(node.files))
        for held in node.unsaved:
            self.shorten(self.files[held])

    def _choices(self) -> Iterator[Node]:
        """Yield the nodes that are not draining, starting with a different one each time."""
        ring = self._ring
        for step in range(len(ring)):
            node = self.nodes[ring[(self._turn + step) % len(ring)]]
            if not node.draining:
                yield node
        self._turn += 1

    # --- replicas ---

    def add(self, node: Node, name: str, size: int, stamp: int) -> File:
        """Record that a node has a replica; return its file."""
        file = self.files[name]
        if node.draining:
            node.unsaved[name] = None
        more = size - node.files.get(name, 0)
        node.files[name] = size
        node.used += more
        self.stored += more
        self.peak = max(self.peak, self.stored)
        file.size = size
        file.holders[node.info.name] = stamp
        file.lost_with = None
        file.refused.pop(node.info.name, None)
        return file

    def remove(self, name: str, file: File) -> bool:
        """Remove a replica from a node, which may already have left; return whether the file is lost now."""
        if file.holders.pop(name, None) is None:
            return False
        self._drop(name, file)
        for holder in file.holders:
            if self.nodes[holder].draining:
                self.nodes[holder].unsaved[file.name] = None
        if file.holders or file.relayed is not None:
            return False
        file.lost_with = name
        return True

    def _drop(self, name: str, file: File) -> None:
        if (node := self.nodes.get(name)) is not None:
            size = node.files.pop(file.name, 0)
            node.unsaved.pop(file.name, None)
            node.used -= size
            self.stored -= size
            self._drops.setdefault(name, []).append(file.name)

    def drop_unknown(self, node: str, name: str) -> None:
        """Tell a node to remove a file that has no record."""
        self._drops.setdefault(node, []).append(name)

    def where(self, file: File) -> Replica | None:
        """Return a replica to read, if possible on a node that is not draining."""
        best: tuple[bool, bool, str] | None = None
        for name in itertools.islice(file.holders, LOOKED_AT):
            node = self.nodes[name]
            rank = (node.released, node.draining, name)
            best = rank if best is None else min(best, rank)
        if best is not None:
            return Replica(best[2], file.size, file.holders[best[2]])
        return None if file.relayed is None else Replica(RELAY, file.size, file.relayed)

    # --- the end of files ---

    def settle(self, *names: str) -> None:
        """Remove the bytes of files that are not needed any more, and records on which nothing depends."""
        left = list(names)
        while left:
            name = left.pop()
            file = self.files.get(name)
            if file is None or file.is_needed:
                continue
            self._remove_bytes(file)
            if file.dependants or self._graph.makers(name):
                continue
            over, inputs = self.files.drop(name)
            left += inputs
            for origin in over:
                self.discard(origin.invocation.arguments)

    def _remove_bytes(self, file: File) -> None:
        for name in list(file.holders):
            self._drop(name, file)
        file.holders.clear()
        if file.relayed is not None:
            file.relayed = None
            self._drops.setdefault(RELAY, []).append(file.name)
        if not file.dependants:  # dependants that run again need a small result
            file.value = None
        if not file.is_there:
            self._graph.lost(file.name)
            file.lost_with = None

    def unmade(self, name: str) -> None:
        """Remove the record of a file that was never produced, if nothing refers to it."""
        file = self.files.get(name)
        if file is None or file.was_made or file.consumers or file.dependants or file.asked:
            return
        if not self._graph.makers(name) and not self._graph.consumers(name):
            self.files.drop(name)

    def remember(self, origin: Origin, names: list[str]) -> None:
        """Record the origin of files, so that they can be recreated."""
        for old in self.files.originate(origin, names):
            self.discard(old.invocation.arguments)
            self.settle(*self.files.release(old))

    def discard(self, arguments: object) -> None:
        """Have the file of a task's arguments removed, if they are in a file."""
        if isinstance(arguments, str):
            self._discards.append(arguments)

    # --- transfers ---

    def start(self, node: Node, name: str, source: Replica, *, for_task: bool) -> None:
        """Record the start of a transfer to a node."""
        if name in node.fetching:
            return
        node.fetching[name] = Transfer(source.node, for_task)
        self.files[name].coming[node.info.name] = None
        self._count(source.node, 1)

    def arrived(self, node: Node, name: str) -> str | None:
        """Record the end of a transfer to a node; return its source."""
        transfer = node.fetching.pop(name, None)
        if transfer is None:
            return None
        if (file := self.files.get(name)) is not None:
            file.coming.pop(node.info.name, None)
        self._count(transfer.source, -1)
        return transfer.source

    def _count(self, source: str, change: int) -> None:
        if source == RELAY:
            self._relaying += change
        elif source in self.nodes:
            self.nodes[source].sending += change

    def source(self, file: File) -> Replica | None:
        """Return a replica that can be copied now, if any.

        Without peer transfers, this is the copy in the manager's directory; if there is none, have one made.
        """
        limit = self.tuning.worker_source_max_transfers
        if not self._peers:
            if file.relayed is not None:
                return Replica(RELAY, file.size, file.relayed) if self._relaying < limit else None
            self._relay(file)
            return None
        best: tuple[bool, bool, int, str] | None = None
        for name in itertools.islice(file.holders, LOOKED_AT):
            node = self.nodes[name]
            if node.sending < limit:
                rank = (node.released, node.draining, node.sending, name)
                best = rank if best is None else min(best, rank)
        return None if best is None else Replica(best[3], file.size, file.holders[best[3]])

    def _relay(self, file: File) -> None:
        where = self.where(file)
        if where is None or file.name in self._relays or where.node == RELAY:
            return
        limit = self.tuning.worker_source_max_transfers
        if self.nodes[where.node].sending < limit:
            self._relays[file.name] = where.node
            self._count(where.node, 1)
            self.orders.append(Relay(file.name, where))

    def relayed(self, name: str, stamp: int, problem: str | None) -> str | None:
        """Record the end of a copy to the manager's directory.

        Return the source node if the copy failed and the file is still needed.
        """
        source = self._relays.pop(name, RELAY)
        self._count(source, -1)
        file = self.files.get(name)
        if file is None or not file.is_needed:
            self._drops.setdefault(RELAY, []).append(name)
        elif problem is None:
            file.relayed = stamp
            self.moved += file.size
        else:
            return source
        self._relay_failures.pop(name, None)
        return None

    def relay_failed(self, name: str) -> bool:
        """Count a failed copy to the manager's directory of a file that exists; return whether to give up."""
        self._relay_failures[name] += 1
        if self._relay_failures[name] < RELAY_TRIES:
            return False
        del self._relay_failures[name]
        return True

    # --- users' files ---

    def input(self, path: str) -> Input:
        """Return the record of a user's input file; create one if there is none."""
        known = self.inputs.get(path)
        if known is None:
            known = self.inputs[path] = Input()
        return known

    def input_source(self, path: str, node: Node) -> InputCopy | bool:
        """Return where a node gets a user's file from: a copy, the file itself (True), or nowhere now (False).

        Only a limited number of nodes read the file itself at a time. With peer transfers, nodes read copies instead
        once there is one.
        """
        known = self.input(path)
        name = node.info.name
        if name in known.copies or name in known.coming:
            return True
        limit = self.tuning.worker_source_max_transfers
        if self._peers:
            for holder in itertools.islice(known.copies, 4 * LOOKED_AT):
                if self.nodes[holder].sending < limit:
                    return InputCopy(holder, *known.copies[holder])
            if known.copies:
                return False
        return sum(source == RELAY for source in known.coming.values()) < self.tuning.file_source_max_transfers

    def start_input(self, path: str, node: Node, copy: InputCopy | bool) -> None:
        """Record that a node is fetching a user's file."""
        known = self.input(path)
        name = node.info.name
        if name not in known.copies and name not in known.coming:
            known.coming[name] = copy.node if isinstance(copy, InputCopy) else RELAY
            if isinstance(copy, InputCopy):
                self._count(copy.node, 1)

    def end_input(self, path: str, node: str) -> None:
        """Record that a node has a user's file, or failed to get it."""
        known = self.inputs.get(path)
        source = known.coming.pop(node, RELAY) if known is not None else RELAY
        if source != RELAY:
            self._count(source, -1)

    # --- how many replicas ---

    def wanted(self, file: File) -> int:
        """Return how many nodes should hold a file."""
        return file.replicas or self.tuning.temp_replica_count

    def shorten(self, file: File) -> None:
        """Queue a file that may have too few replicas."""
        if self.wanted(file) > 1 and file.holders:
            heapq.heappush(self._short, (len(file.holders), next(self._pushes), file.name))

    def unpark(self) -> None:
        """Queue again the files whose replicas no node could take."""
        parked, self._parked = self._parked, {}
        for name in parked:
            if (file := self.files.get(name)) is not None:
                self.shorten(file)

    def replicate(self) -> None:
        """Start copies of files with too few replicas, scarcest first, up to the limit for one cycle."""
        budget = self.tuning.transfer_replica_per_cycle
        later: list[tuple[int, int, str]] = []
        while self._short and budget > 0 and len(later) < LOOKED_AT:
            entry = heapq.heappop(self._short)
            file = self.files.get(entry[2])
            if file is None or not file.holders or not file.is_needed:
                continue
            begun, possible = self.copy(file, self.wanted(file), budget)
            budget -= begun
            if possible:
                later.append(entry)
        for entry in later:
            heapq.heappush(self._short, entry)

    def copy(self, file: File, count: int, budget: int = 1 << 30) -> tuple[int, bool]:
        """Start at most ``budget`` copies, until ``count`` nodes that are not draining hold or are fetching a file.

        Returns
        -------
        begun : int
            Number of copies started.
        possible : bool
            Whether more copies can start later on the same nodes.
        """
        staying = sum(not self.nodes[name].draining for name in file.holders)
        count -= staying + sum(name not in file.holders and not self.nodes[name].draining for name in file.coming)
        if count <= 0:
            return 0, False
        targets = []
        for node in self._choices():
            name = node.info.name
            if name not in file.holders and name not in file.coming and name not in file.refused:
                targets.append(node)
                if len(targets) >= LOOKED_AT:
                    break
        if not targets:
            self._parked[file.name] = None
            return 0, False
        targets.sort(key=lambda node: (len(node.files) + len(node.fetching), node.info.name))
        begun = 0
        for node in targets[: min(count, budget)]:
            source = self.source(file)
            if source is None:
                return begun, True
            self.start(node, file.name, source, for_task=False)
            self.orders.append(Fetch(node.info.name, file.name, source))
            begun += 1
        if begun < count and begun == len(targets):
            self._parked[file.name] = None
            return begun, False
        return begun, begun < count

    def clean(self, name: str) -> None:
        """Remove replicas that no task reads, as far as there are more than wanted."""
        file = self.files.get(name)
        if not self.tuning.clean_redundant_replicas or file is None:
            return
        staying = [holder for holder in file.holders if not self.nodes[holder].draining]
        excess = len(staying) - self.wanted(file)
        if excess <= 0 or file.coming:
            return
        idle = [holder for holder in staying if not self.nodes[holder].reads[name]]
        idle.sort(key=lambda holder: (-self.nodes[holder].used, holder))
        for holder in idle[:excess]:
            del file.holders[holder]
            self._drop(holder, file)

    # --- balance ---

    def shift(self, name: str) -> None:
        """Move a new file to another node, if its node would hold more than that one even without the file."""
        file = self.files.get(name)
        if not self.tuning.shift_disk_load or file is None or not file.is_needed or file.coming:
            return
        if len(file.holders) != 1 or self.wanted(file) > 1:  # further replicas go to nodes with few files anyway
            return
        holder = self.nodes[next(iter(file.holders))]
        rivals = (node for node in self._choices() if node is not holder and node.info.name not in file.refused)
        target = min(
            itertools.islice(rivals, LOOKED_AT), key=lambda node: (self._expected(node), node.info.name), default=None
        )
        if target is None or target.room < file.size or holder.used - self._expected(target) <= file.size:
            return
        if (source := self.source(file)) is not None:
            self._shifting[name] = holder.info.name
            self.start(target, name, source, for_task=False)
            self.orders.append(Fetch(target.info.name, name, source))

    def _expected(self, node: Node) -> int:
        """Return the bytes that a node holds or is fetching."""
        files = (self.files.get(name) for name in node.fetching)
        return node.used + sum(file.size for file in files if file is not None)

    def shifted(self, name: str) -> None:
        """Remove a moved file from its old node, once another node has it and no task reads it there."""
        holder = self._shifting.get(name)
        if holder is None:
            return
        file = self.files.get(name)
        if file is None or holder not in file.holders or not (file.coming or len(file.holders) > 1):
            del self._shifting[name]  # the file is gone, or the transfer failed
        elif len(file.holders) > self.wanted(file) and not self.nodes[holder].reads[name]:
            del self._shifting[name], file.holders[holder]
            self._drop(holder, file)

    # --- eviction ---

    def evict(self, node: Node, size: float, turn: Callable[[File], Order | None], keep: Iterable[str]) -> list[File]:
        """Remove temp files from a node until ``size`` bytes are free, or no more files may be removed.

        Files with other replicas are removed first, then files that no task waits for (cheapest to recreate first),
        then files that are needed last: ``turn`` returns the order of the first task that waits for a file. The files
        of the very first task stay, so that it can run however little space there is. Files that are in use or cannot
        be recreated stay too.

        Returns
        -------
        list of File
            Files with no replica left. The caller must handle their loss.
        """
        kept = {*keep, *node.reads}
        order: list[tuple[int, float, int, str]] = []
        awaited: list[tuple[Order, str]] = []
        for name in node.files:
            file = self.files[name]
            if name in kept or self._is_source(node, name):
                continue
            if len(file.holders) > 1:
                order.append((0, 0.0, file.size, name))
            elif file.asked or file.origin is None or not file.recoverable:
                continue
            elif (first := turn(file)) is not None:
                awaited.append((first, name))
            else:
                order.append((1, self._cost(file), file.size, name))
        awaited.sort(reverse=True)
        last = [name for first, name in awaited if first != awaited[-1][0]]
        lost = []
        for name in [*(entry[-1] for entry in sorted(order)), *last]:
            if node.room >= size:
                break
            self.evicted += 1
            if self.remove(node.info.name, self.files[name]):
                lost.append(self.files[name])
        return lost

    def _is_source(self, node: Node, name: str) -> bool:
        return any(
            other in self.nodes and self.nodes[other].fetching[name].source == node.info.name
            for other in self.files[name].coming
        ) or (self._relays.get(name) == node.info.name)

    def _cost(self, file: File) -> float:
        """Return the seconds that it takes to recreate a file and the missing files that it depends on."""
        seconds, seen, left = 1e-9, {file.name}, [file]
        while left and len(seen) < 1000:
            origin = left.pop().origin
            if origin is None:
                continue
            seconds += origin.seconds
            for name in origin.inputs:
                parent = self.files.get(name)
                if parent is not None and not parent.is_there and name not in seen:
                    seen.add(name)
                    left.append(parent)
        return seconds
