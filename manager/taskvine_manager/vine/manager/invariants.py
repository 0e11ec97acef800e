"""What holds in the core between any two events.

Each public function is an invariant: it takes the parts of the core, changes nothing, and yields what contradicts the
invariant, with the values. They are pure, and slow where there is much state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

from taskvine_manager.scheduling.checking import graph_problems, invariants_of
from taskvine_manager.scheduling.graph import DependencyGraph
from taskvine_manager.scheduling.tasks import temp_files
from taskvine_manager.vine.manager.batching import AHEAD
from taskvine_manager.vine.manager.fleet import Fleet
from taskvine_manager.vine.manager.holdings import Holdings, TempFile
from taskvine_manager.vine.manager.reads import Reads
from taskvine_manager.vine.manager.sent import Fetch, Probe, Rescue, SentParcel, SentParcels
from taskvine_manager.vine.manager.tasks import RESOURCES, State, Task
from taskvine_manager.vine.manager.workload import Workload

ROUNDING = 1e-6
"""Largest error in resources of a node, which are added and subtracted many times."""


class Parts(NamedTuple):
    """The parts of the core that are checked."""

    graph: DependencyGraph
    workload: Workload
    files: Holdings
    fleet: Fleet
    sent: SentParcels
    reads: Reads

    @property
    def size(self) -> int:
        """How much there is to check: tasks, files, parcels and nodes."""
        files = self.files
        held = len(files.values) + len(files.temps) + len(files.pruned)
        return len(self.workload.tasks) + held + len(self.sent) + 4 * len(self.fleet.nodes)

    def parcels(self) -> set[SentParcel]:
        """Return the parcels that TaskVine has, or would run again."""
        temps = (*self.files.temps.values(), *self.files.pruned.values())
        return {*self.sent, *(temp.parcel for temp in temps if temp.parcel is not None)}


# --- tasks ----------------------------------------------------------------------------------------------------------


def tasks_have_their_numbers(parts: Parts) -> Iterator[str]:
    """Each unfinished task is in the table under its number."""
    for number, task in parts.workload.tasks.items():
        if task.invocation.number != number or task.state is State.DONE:
            yield f"task {number}: its number is {task.invocation.number}, its state {task.state.name}"


def tasks_are_in_one_place(parts: Parts) -> Iterator[str]:
    """Each task is in exactly one place, the one that its state demands; only cancelled tasks may be there besides."""
    workload = parts.workload
    found: list[tuple[State, str, Task]] = [(State.READY, "queued", task) for task in workload.backlog]
    found += [(State.READY, "queued as a suspect", task) for task in workload.suspects]
    found += [(State.UNFIT, "unfit", task) for task in workload.unfit]
    found += [(State.ASSIGNED, f"in parcel {sent.number}", task) for sent in parts.sent for task in sent.tasks.values()]
    cases = {sent.errand.case for sent in parts.sent if isinstance(sent.errand, Probe)}
    found += [(State.EXAMINED, "examined", task) for case in cases for task in case.tasks]
    places: dict[int, list[str]] = {}
    for state, place, task in found:
        number = task.invocation.number
        if task.state is State.DONE and number not in workload.tasks:
            continue
        places.setdefault(number, []).append(place)
        if workload.tasks.get(number) is not task or task.state is not state:
            yield f"task {number} is {place}, but {task.state.name}, or another one than in the table"
    for number, task in workload.tasks.items():
        here = places.get(number, [])
        if len(here) != (task.state is not State.WAITING):
            yield f"task {number}: {task.state.name}, and {here or 'nowhere'}"


def suspects_run_one_at_a_time(parts: Parts) -> Iterator[str]:
    """At most one suspect is in a parcel, and exactly the waiting suspects are in the queue of suspects."""
    suspects = [number for sent in parts.sent for number, task in sent.tasks.items() if task.suspect]
    if len(suspects) > 1:
        yield f"suspects {suspects} were sent at the same time"
    queued = [(task, False) for task in parts.workload.backlog] + [(task, True) for task in parts.workload.suspects]
    for task, is_suspect in queued:
        if task.suspect != is_suspect:
            yield f"task {task.invocation.number}: suspect {task.suspect}, in the wrong queue"


def waiting_tasks_wait_for_files(parts: Parts) -> Iterator[str]:
    """Exactly the waiting tasks lack files."""
    for number, task in parts.workload.tasks.items():
        if (task.state is State.WAITING) == parts.graph.is_ready(number):
            yield f"task {number}: {task.state.name}, without {parts.graph.missing(number)}"


def graph_agrees_with_tasks(parts: Parts) -> Iterator[str]:
    """The graph holds exactly the tasks with files, and counts their missing files."""
    tasks = {
        number: (temp_files(task.invocation.inputs), temp_files(task.invocation.outputs))
        for number, task in parts.workload.tasks.items()
    }
    return graph_problems(parts.graph, {number: names for number, names in tasks.items() if any(names)})


# --- parcels and nodes ----------------------------------------------------------------------------------------------


def parcels_know_their_tasks(parts: Parts) -> Iterator[str]:
    """A parcel that TaskVine has is in the table under its number, has tasks or an errand, and has not ended."""
    for sent in parts.sent:
        if parts.sent.get(sent.number) is not sent:
            yield f"parcel {sent.number} is in the table under another number"
        if sent.ended:
            yield f"parcel {sent.number} has ended"
        if sent.tasks and sent.errand is not None:
            yield f"parcel {sent.number} has tasks {list(sent.tasks)} and the errand {sent.errand}"
        for number, task in sent.tasks.items():
            if task.invocation.number != number or task.parcel != sent.number:
                yield f"task {task.invocation.number}, in parcel {sent.number} as {number}, names parcel {task.parcel}"


def cases_are_open(parts: Parts) -> Iterator[str]:
    """Each examination counts exactly the probes that TaskVine has for it."""
    probes = Counter(sent.errand.case for sent in parts.sent if isinstance(sent.errand, Probe))
    for case, count in probes.items():
        if case.open != count:
            numbers = [task.invocation.number for task in case.tasks]
            yield f"the examination of tasks {numbers} counts {case.open} probes, found {count}"


def resources_add_up(parts: Parts) -> Iterator[str]:
    """The resources in use on a node are those of its parcels, and no more than it has."""
    for address, node in parts.fleet.nodes.items():
        if node.address != address or node.room.key != node.name or parts.fleet.name(address) != node.name:
            yield f"node {node.name} at {node.address} is in the table as {address}, its room as {node.room.key}"
        held = [sent for sent in parts.sent if sent.room is node.room]
        taken = [sent.taken for sent in held if sent.taken is not None]
        found = [
            sum(amounts) for amounts in zip((0.0,) * 4, *(node.room.here(need)[:4] for need in taken), strict=True)
        ]
        for name, busy, sum_, total in zip(RESOURCES, node.room.busy[:4], found, node.room.total[:4], strict=True):
            if abs(busy - sum_) > ROUNDING or busy > total + ROUNDING:
                yield f"node {node.name}: counted {busy} {name}, found {sum_}, has {total}"
        libraries = Counter(sent.library if sent.taken is None else sent.taken.library for sent in held)
        del libraries[None]
        if node.room.libraries != libraries:
            yield f"node {node.name}: counted {node.room.libraries} of libraries, found {libraries}"
        together = reduce(node.room.beside, filter(None, libraries), node.room.busy)
        for name in ("memory", "gpus"):
            if (sum_ := getattr(together, name)) > getattr(node.room.total, name) + ROUNDING:
                yield f"node {node.name}: its libraries and tasks take {sum_} {name}"
        batches = sum(sent.taken is None for sent in held)
        if not node.room.batches == batches <= AHEAD:
            yield f"node {node.name}: counted {node.room.batches} batches, found {batches}, at most {AHEAD}"


def reads_are_counted(parts: Parts) -> Iterator[str]:
    """The count of open reads equals the parcels that read pieces of files."""
    found = sum(isinstance(sent.errand, Fetch) for sent in parts.sent)
    if parts.reads.open != found:
        yield f"counted {parts.reads.open} reads, found {found}"


# --- files ----------------------------------------------------------------------------------------------------------


def files_are_in_one_place(parts: Parts) -> Iterator[str]:
    """A result is kept by value or as a temp file, and not as both."""
    files = parts.files
    names = Counter((*files.values, *files.temps, *files.pruned))
    names.update(files.unread.keys() - files.pruned.keys())
    for name, count in names.items():
        if count > 1:
            yield (
                f"{name}: a value {name in files.values}, a temp file {name in files.temps}, pruned "
                f"{name in files.pruned}, for recoveries only {name in files.unread}"
            )


def bytes_add_up(parts: Parts) -> Iterator[str]:
    """The stored bytes are the sum of the temp files."""
    files = parts.files
    found = sum(temp.size for temp in files.temps.values())
    if not files.stored == found <= files.most_stored:
        yield f"counted {files.stored} bytes, found {found}, at most {files.most_stored} before"


def readers_are_counted(parts: Parts) -> Iterator[str]:
    """The counts of each file's parcels that read it equal recounts; what is kept only for them has some."""
    files, parcels = parts.files, parts.parcels()
    readers = Counter(name for sent in parcels for name in sent.reads)
    for name, temp in _temps(parts):
        if temp.readers != readers[name]:
            yield f"{name}: counted {temp.readers} readers, found {readers[name]}"
    if unknown := readers.keys() - files.temps.keys() - files.pruned.keys():
        yield f"{sorted(unknown)} are read, but unknown"
    for name, temp in files.pruned.items():
        if not temp.readers:
            yield f"{name} is kept to recreate others, of which there are none"
    by_path = Counter(name for sent in parcels for name in sent.reads_by_path)
    if by_path.items() != files.readers_by_path.items():
        yield f"counted readers by path {dict(files.readers_by_path)}, found {dict(by_path)}"
    if unread := files.unread.keys() - by_path.keys():
        yield f"results {sorted(unread)} are kept to recreate others, of which there are none"


def _temps(parts: Parts) -> list[tuple[str, TempFile]]:
    return [*parts.files.temps.items(), *parts.files.pruned.items()]


def parcels_count_their_files(parts: Parts) -> Iterator[str]:
    """Each parcel counts the temp files that it would recreate; one that has ended is kept only for such files."""
    made = Counter(temp.parcel for _, temp in _temps(parts))
    for sent in parts.parcels():
        if sent.temps != made[sent]:
            yield f"parcel {sent.number}: counted {sent.temps} temp files, found {made[sent]}"


def graph_agrees_with_files(parts: Parts) -> Iterator[str]:
    """The graph takes exactly the files as available that have been created."""
    files = parts.files
    there = {name for name in (*files.values, *files.temps) if files.is_there(name)}
    for name in there ^ parts.graph.available:
        yield f"{name}: created {name in there}, available to tasks {name in parts.graph.available}"


def files_are_kept_for_a_reason(parts: Parts) -> Iterator[str]:
    """A temp file exists, or is being created; a forgotten one is still read or created."""
    files, graph = parts.files, parts.graph
    for name, temp in files.temps.items():
        if not temp.node and not graph.makers(name):
            yield f"{name} does not exist, and no task creates it"
    for name in files.unwanted:
        if not (graph.consumers(name) or graph.makers(name)):
            yield f"{name} was forgotten, and no task reads or creates it"


def requests_wait_for_files(parts: Parts) -> Iterator[str]:
    """Each request waits for one file, which is being created."""
    requests = Counter(request for asked in parts.files.requests.values() for request in asked)
    for request, count in requests.items():
        if count > 1:
            yield f"request {request} waits {count} times"
    for name, asked in parts.files.requests.items():
        if parts.files.is_there(name) or not parts.graph.makers(name):
            yield f"requests {asked} wait for {name}: created {parts.files.is_there(name)}, or no task creates it"


def rescues_are_under_way(parts: Parts) -> Iterator[str]:
    """Each file that a node is to rescue is in a parcel that TaskVine has for that node."""
    under_way = {
        (name, sent.pinned) for sent in parts.sent if isinstance(sent.errand, Rescue) for name in sent.errand.files
    }
    for name, temp in parts.files.temps.items():
        if temp.rescue and (name, temp.rescue) not in under_way:
            yield f"{name} is to be copied by {temp.rescue}, which was not told"


INVARIANTS = invariants_of(__name__)
"""All of them; a test breaks each."""
