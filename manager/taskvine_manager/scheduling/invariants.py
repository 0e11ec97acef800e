"""What holds in the scheduler between any two events.

Each public function is an invariant: it takes the parts of the scheduler, changes nothing, and yields what contradicts
the invariant, with the values. They are pure, and slow where there is much state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from taskvine_manager.scheduling.candidates import Candidates
from taskvine_manager.scheduling.checking import graph_problems, invariants_of
from taskvine_manager.scheduling.draining import Draining
from taskvine_manager.scheduling.events import RELAY
from taskvine_manager.scheduling.files import Origin
from taskvine_manager.scheduling.placement import Placement
from taskvine_manager.scheduling.storage import Storage
from taskvine_manager.scheduling.tables import Tables
from taskvine_manager.scheduling.tasks import State


class Parts(NamedTuple):
    """The parts of the scheduler that are checked."""

    tables: Tables
    storage: Storage
    draining: Draining
    candidates: Candidates
    placement: Placement

    @property
    def size(self) -> int:
        """How much there is to check: tasks, files, and nodes in each list of candidates."""
        tables = self.tables
        return len(tables.tasks) + len(tables.files) + len(tables.nodes) * (4 + len(self.candidates.by_shape))


# --- tasks ----------------------------------------------------------------------------------------------------------


def tasks_have_their_numbers(parts: Parts) -> Iterator[str]:
    """Each unfinished task is in the table under its number, below 0 if it recreates files."""
    for number, task in parts.tables.tasks.items():
        if task.invocation.number != number or task.state is State.DONE:
            yield f"task {number}: its number is {task.invocation.number}, its state {task.state.name}"
        if (task.origin is None) != (number >= 0):
            yield f"task {number}: its origin is {task.origin}"
        if task.suspect != task.shape.suspect:
            yield f"task {number}: suspect {task.suspect}, shape {task.shape}"


def tasks_are_counted(parts: Parts) -> Iterator[str]:
    """The counts of tasks equal recounts."""
    tasks = parts.tables.tasks
    found = Counter(task.state for task in tasks.values() if task.origin is None or task.state is State.READY)
    found[State.DONE] = tasks.done
    for state in State:
        if tasks.count(state) != found[state]:
            yield f"{state.name}: counted {tasks.count(state)}, found {found[state]}"


def assigned_tasks_are_on_their_node(parts: Parts) -> Iterator[str]:
    """Each assigned task is on exactly the node that it names; no other task is on a node."""
    tasks, nodes = parts.tables.tasks, parts.tables.nodes
    places: dict[int, list[str]] = {}
    for name, node in nodes.items():
        if node.info.name != name:
            yield f"node {node.info.name} is in the table as {name}"
        for number, task in node.assigned.items():
            places.setdefault(number, []).append(name)
            if tasks.get(number) is not task:
                yield f"task {number} on node {name} is not the one in the table"
    for number, task in tasks.items():
        expected = [task.node] if task.state is State.ASSIGNED else []
        if places.get(number, []) != expected or (task.node is None) == bool(expected):
            yield f"task {number}: {task.state.name}, its node is {task.node}, but it is on {places.get(number, [])}"


def ready_tasks_are_queued(parts: Parts) -> Iterator[str]:
    """Each ready task is in the queue of its shape, with its present order, and no other ready task is in any."""
    tasks = parts.tables.tasks
    queued = {task.invocation.number: task for queue in tasks.queues.values() for task in queue}
    ready = {number: task for number, task in tasks.items() if task.state is State.READY}
    for number in queued.keys() ^ ready.keys():
        yield f"task {number}: queued {number in queued}, ready {number in ready}"
    for shape, queue in tasks.queues.items():
        held = list(queue)
        for task in held:
            if task.shape != shape:
                yield f"task {task.invocation.number} of shape {task.shape} is queued as {shape}"
        if held and not queue.fits and shape not in tasks.unchecked:
            yield f"{len(held)} ready tasks of {shape}: it is unknown whether they fit on a node, and not looked up"


def waiting_tasks_wait_for_files(parts: Parts) -> Iterator[str]:
    """A waiting task lacks files, all of which can still come; a ready task lacks none."""
    graph, files = parts.tables.graph, parts.tables.files
    for number, task in parts.tables.tasks.items():
        missing = graph.missing(number)
        if task.state is State.READY and missing:
            yield f"task {number} is ready without {missing}"
        if task.state is not State.WAITING:
            continue
        if not missing:
            yield f"task {number} waits for nothing"
        for name in missing:
            # The user's process cancels the task if no task that was to produce the file has returned.
            file = files.get(name)
            if not graph.makers(name) and (file is None or file.origin is not None):
                yield f"task {number} waits for {name}, which no task produces"


def tasks_to_send_ahead_are_unfinished(parts: Parts) -> Iterator[str]:
    """Tasks that may be sent ahead are in the table."""
    if gone := parts.tables.tasks.ahead.keys() - parts.tables.tasks.keys():
        yield f"tasks {sorted(gone)} are over"


def recreations_are_needed(parts: Parts) -> Iterator[str]:
    """Each task that recreates files has a missing output that is needed, and may run again."""
    for number, task in parts.tables.tasks.items():
        if task.origin is not None:
            outputs = [parts.tables.files.get(name) for name in task.makes]
            if not any(file is not None and file.is_needed and not file.is_there for file in outputs):
                yield f"task {number} recreates {task.makes}, of which none is missing and needed"
            if not task.profile.recoverable:
                yield f"task {number} must not run again"


def graph_agrees_with_tasks(parts: Parts) -> Iterator[str]:
    """The graph holds exactly the tasks with files, and counts their missing files."""
    tasks = parts.tables.tasks.items()
    return graph_problems(
        parts.tables.graph, {number: (task.files, task.makes) for number, task in tasks if task.files or task.makes}
    )


# --- nodes ----------------------------------------------------------------------------------------------------------


def nodes_count_their_tasks(parts: Parts) -> Iterator[str]:
    """Each node's counts of shapes and of files that are read equal recounts; it runs at most one suspect."""
    for name, node in parts.tables.nodes.items():
        tasks = node.assigned.values()
        shapes = Counter(task.shape for task in tasks)
        if node.shapes.items() != shapes.items():
            yield f"node {name}: counted {dict(node.shapes)}, found {dict(shapes)}"
        reads = Counter(file for task in tasks for file in task.files)
        if node.reads.items() != reads.items():
            yield f"node {name}: counted reads {dict(node.reads)}, found {dict(reads)}"
        if not node.crowded.keys() <= node.assigned.keys():
            yield f"node {name} has no space for outputs of {list(node.crowded)}, its tasks are {list(node.assigned)}"
        if not node.yielding <= node.assigned.keys():
            yield f"tasks {sorted(node.yielding)} give way on node {name}, its tasks are {list(node.assigned)}"
        if (suspects := sum(task.suspect for task in tasks)) > 1:
            yield f"node {name} has {suspects} suspects"


def needs_are_up_to_date(parts: Parts) -> Iterator[str]:
    """What each node remembers of the resources of a shape equals what it would compute now."""
    for name, node in parts.tables.nodes.items():
        for shape, remembered in node.needs.items():
            if remembered != (found := node.measure(shape)):
                yield f"node {name}: {shape} takes {found}, remembered {remembered}"


def candidates_have_room(parts: Parts) -> Iterator[str]:
    """Only present nodes that do not drain are candidates or reserved, and each node with free room is a candidate."""
    nodes = {name: node for name, node in parts.tables.nodes.items() if not node.draining}
    for (shape, depth), names in parts.candidates.by_shape.items():
        if gone := names.keys() - nodes.keys():
            yield f"{sorted(gone)} are candidates for {shape}"
        for name, node in nodes.items():
            if name not in names and (room := node.room_for(shape, depth)) > 0:
                yield f"node {name} has room for {room} tasks of {shape} at depth {depth}, but is no candidate"
    for shape, name in parts.candidates.reserved.items():
        if name not in nodes:
            yield f"node {name} is reserved for {shape}"


def first_task_has_no_room(parts: Parts) -> Iterator[str]:
    """The first ready task is not left waiting for room that there is; it may wait for its inputs."""
    if not parts.placement.begun:
        return
    nodes = [node for node in parts.tables.nodes.values() if not (node.draining or node.crowded)]
    queues = parts.tables.tasks.queues.items()
    possible = [
        min(queue, key=lambda task: task.order)
        for shape, queue in queues
        if queue.head() is not None and any(node.capacity(shape, others=False) for node in nodes)
    ]
    first = min(possible, key=lambda task: task.order, default=None)
    if first is None or first.files or first.invocation.inputs:
        return
    for node in nodes:
        if node.capacity(first.shape, others=True) > node.shapes[first.shape]:
            yield f"task {first.invocation.number} waits, although it fits on node {node.info.name}"


def libraries_fit_together(parts: Parts) -> Iterator[str]:
    """The libraries of a node's tasks take no more memory and gpus than it has."""
    for name, node in parts.tables.nodes.items():
        libraries = {shape.library for shape in node.shapes if shape.library is not None}
        memory = sum(each.memory or 0.0 for each in libraries)
        gpus = sum(node.gpus(each) for each in libraries)
        if memory > node.info.memory or gpus > node.info.gpus + 1e-9:
            names = sorted(each.name for each in libraries)
            yield f"node {name}: its libraries {names} take {memory} MB and {gpus} gpus"


def draining_nodes_leave_in_time(parts: Parts) -> Iterator[str]:
    """The draining nodes are known; one is released exactly when nothing on it is needed."""
    nodes = parts.tables.nodes
    if (found := {name for name, node in nodes.items() if node.draining}) != parts.draining.names:
        yield f"nodes {sorted(found)} drain, known are {sorted(parts.draining.names)}"
    for name, node in nodes.items():
        if node.released and (not node.draining or node.assigned):
            yield f"node {name} is released: draining {node.draining}, tasks {list(node.assigned)}"
        if node.draining and not node.released and not (node.assigned or node.sending or node.unsaved):
            yield f"node {name} drains, but nothing on it is needed"
        if node.unsaved and not (node.draining and node.unsaved.keys() <= node.files.keys()):
            yield f"node {name}: draining {node.draining}, to be saved {list(node.unsaved)}, files {list(node.files)}"


# --- files ----------------------------------------------------------------------------------------------------------


def holders_and_nodes_agree(parts: Parts) -> Iterator[str]:
    """Each file lists exactly the nodes that list it."""
    nodes = parts.tables.nodes
    for file in parts.tables.files.values():
        for name in file.holders:
            if name not in nodes or file.name not in nodes[name].files:
                yield f"{file.name} is on node {name}, which does not have it"
    for name, node in nodes.items():
        for held in node.files:
            if (known := parts.tables.files.get(held)) is None or name not in known.holders:
                yield f"node {name} has {held}, which is not on it"


def bytes_add_up(parts: Parts) -> Iterator[str]:
    """The bytes of a node are the sum of its files, and all stored bytes the sum of the nodes."""
    nodes, replicas = parts.tables.nodes, parts.storage.replicas
    for name, node in nodes.items():
        if node.used != sum(node.files.values()):
            yield f"node {name}: counted {node.used} bytes, found {node.files}"
    stored = sum(node.used for node in nodes.values())
    if not replicas.stored == stored <= replicas.peak:
        yield f"counted {replicas.stored} bytes, found {stored}, at most {replicas.peak} before"


def users_of_files_are_counted(parts: Parts) -> Iterator[str]:
    """The counts of each file's consumers and dependants equal recounts, and all their files have records."""
    files, tasks = parts.tables.files, parts.tables.tasks
    consumers = Counter(name for task in tasks.values() for name in task.files)
    origins = {file.origin for file in files.values() if file.origin is not None}
    dependants = Counter(name for origin in origins for name in origin.inputs)
    outputs = {name for task in tasks.values() if task.origin is None for name in task.makes}
    if unknown := (consumers.keys() | dependants.keys() | outputs) - files.keys():
        yield f"there are no records of {sorted(unknown)}"
    for name, file in files.items():
        if (counted := (file.consumers, file.dependants)) != (found := (consumers[name], dependants[name])):
            yield f"{name}: counted {counted} consumers and dependants, found {found}"


def origins_and_files_agree(parts: Parts) -> Iterator[str]:
    """Each origin lists exactly the files that name it as theirs."""
    found: dict[Origin, set[str]] = {}
    for file in parts.tables.files.values():
        if file.origin is not None:
            found.setdefault(file.origin, set()).add(file.name)
    for origin, names in found.items():
        if origin.files.keys() != names:
            yield f"origin {origin.invocation.number} has {sorted(origin.files)}, and is that of {sorted(names)}"


def graph_agrees_with_files(parts: Parts) -> Iterator[str]:
    """The graph takes exactly the files as available of which a copy exists."""
    there = {file.name for file in parts.tables.files.values() if file.is_there}
    for name in there ^ parts.tables.graph.available:
        yield f"{name}: a copy exists {name in there}, available to tasks {name in parts.tables.graph.available}"


def files_are_kept_for_a_reason(parts: Parts) -> Iterator[str]:
    """Each record is of a file that exists, existed or is being produced, or that a task or the user waits for.

    A file that is not needed has no replicas, and a record only if it may be needed to recreate others, or is being
    produced.
    """
    for file in parts.tables.files.values():
        if not file.is_needed and (file.holders or file.relayed is not None):
            yield f"{file.name} is not needed, but is on {sorted(file.holders)}, relayed {file.relayed}"
        needed = file.was_made if file.wanted else file.is_needed
        if not (needed or file.consumers or file.dependants or file.asked or parts.tables.graph.makers(file.name)):
            yield f"the record of {file.name} is not needed"


def requests_wait_for_files(parts: Parts) -> Iterator[str]:
    """Each request waits for one file, which is missing and being produced."""
    requests: Counter[int] = Counter()
    for file in parts.tables.files.values():
        requests.update(file.asked)
        if file.asked and (file.is_there or not parts.tables.graph.makers(file.name)):
            yield f"requests {file.asked} wait for {file.name}: it is there {file.is_there}, or no task produces it"
    for request, count in requests.items():
        if count > 1:
            yield f"request {request} waits {count} times"


# --- transfers ------------------------------------------------------------------------------------------------------


def transfers_have_both_ends(parts: Parts) -> Iterator[str]:
    """A file is coming to exactly the nodes that are fetching it, each from a source that is there or for a task."""
    nodes, files = parts.tables.nodes, parts.tables.files
    for file in files.values():
        for name in file.coming:
            if name not in nodes or file.name not in nodes[name].fetching:
                yield f"{file.name} is coming to node {name}, which does not fetch it"
    for name, node in nodes.items():
        for fetched, transfer in node.fetching.items():
            if (known := files.get(fetched)) is not None and name not in known.coming:
                yield f"node {name} fetches {fetched}, which is not coming to it"
            if transfer.for_task and fetched not in node.reads:
                yield f"node {name} fetches {fetched} for a task, but none there reads it"
            # A task's transfer ends with the task, which reports that it could not read the file.
            if not transfer.for_task and transfer.source not in nodes and transfer.source != RELAY:
                yield f"node {name} fetches {fetched} from {transfer.source}, which has left"


def transfers_are_counted(parts: Parts) -> Iterator[str]:
    """The counts of transfers from each node and from the manager's directory equal recounts."""
    nodes, transfers = parts.tables.nodes, parts.storage.transfers
    sources = Counter(transfer.source for node in nodes.values() for transfer in node.fetching.values())
    sources.update(transfers.relays.values())
    for known in parts.storage.inputs.by_path.values():
        sources.update(source for source in known.coming.values() if source != RELAY)
    for name, node in nodes.items():
        if node.sending != sources[name]:
            yield f"node {name}: counted {node.sending} transfers, found {sources[name]}"
    if transfers.relaying != sources[RELAY]:
        yield f"the manager's directory: counted {transfers.relaying} transfers, found {sources[RELAY]}"


def places_are_nodes(parts: Parts) -> Iterator[str]:
    """Copies of the user's files are on, or coming to, nodes that are there; all nodes may get replicas."""
    nodes = parts.tables.nodes
    for path, known in parts.storage.inputs.by_path.items():
        if gone := (known.copies.keys() | known.coming.keys()) - nodes.keys():
            yield f"{path} is on, or coming to, {sorted(gone)}"
    if Counter(parts.storage.replication.ring) != Counter(nodes.keys()):
        yield f"nodes for replicas: {parts.storage.replication.ring}, nodes: {list(nodes)}"


INVARIANTS = invariants_of(__name__)
"""All of them; a test breaks each."""
