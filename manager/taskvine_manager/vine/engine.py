"""The TaskVine engine: between the manager's loop and TaskVine.

Calls that wait for files of others are held by the dependency graph, calls that could run by the backlog; a few tasks
for each node are TaskVine's at a time. What ends is an answer of a node's supervisor, or a verdict of TaskVine's. Like
TaskVine, this is single-threaded: every call of it is made from the manager's loop.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from taskvine_manager import sweep
from taskvine_manager.embedded.cache import copy
from taskvine_manager.embedded.factory import NodeFactory
from taskvine_manager.engine import NodesFail, Outlet, Watch
from taskvine_manager.graph import DependencyGraph
from taskvine_manager.messages import L1, Completion, FileUse, Invocation, NodeInfo, Profile
from taskvine_manager.runtime import failure, payload
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.vine import failures, parcels, port
from taskvine_manager.vine.batching import MOST, Backlog, Estimates, Need, Room
from taskvine_manager.vine.parcels import Answer, Body, Parcel
from taskvine_manager.vine.worker import ADDRESS, MARK

logger = logging.getLogger(__name__)

RESERVE = 4
"""Function slots of TaskVine's on each node beyond those of ours: for parcels that are no work."""
INLINE_FUNCTION = 4096
"""Functions up to so many bytes ride in parcels; larger ones are cached files."""
HOME = "manager"
"""What stands for a node's name where a file is beside the manager."""
OVERUSED = 3
"""Times that a file on this machine may be found changed by whoever wants to read it, before it gets a copy."""
FETCH_TRIES, FETCH_PAUSE = 20, 0.1
"""How often a file that is on a worker is asked for, and seconds between."""
_PLAIN = re.compile(r"[A-Za-z0-9_./+=,-]{1,200}")
HOUSEKEEPING = 1.0
"""Seconds between two times that TaskVine gets to look after its connections."""
WAIT = "wait-for-workers"
"""The one parameter of TaskVine's that the engine acts on in its place."""
BATCH = "executor.batch"
REPLICATION = 0.05
"""The same, while temp files are new and may be waiting for replication."""
LOOK = 0.05
"""Seconds between two looks at the list of workers, at least."""
MUST_TUNE = {
    "perf-log-interval": 1e6,  # when it is due while a library is removed, the manager aborts
    "transient-error-interval": 1,  # a worker rests so long after a failure; 15 s otherwise
    "attempt-schedule-depth": 1000,  # the sentinels count on it: one cycle looks at every task
}


@dataclass(frozen=True, kw_only=True)
class VineConfig:
    """What the engine is told at its start.

    Parameters
    ----------
    max_retries : int or None
        Tries after the first for an invocation whose worker went; None for ever.
    uniform : bool
        Whether all nodes are alike.
    slots : int
        Calls that a node is expected to run at once.
    tune : dict of str to float
        Tuning parameters that TaskVine knows.
    nodes : dict
        What the supervisors are told.
    python : str
        Interpreter for the supervisors, where it exists; else ``python3``.
    port, name, password_file, ssl, log
        As of :class:`~taskvine_manager.vine.port.VinePort`.
    local : bool
        Whether nodes are on this machine: large values are then named by path.
    batching : bool
        Whether short calls travel together.
    peer_transfers : bool
        Whether workers send files to each other.
    wait_for_nodes : int
        Workers that must have joined before anything runs.
    factory_command : tuple of str
        Starts ``vine_factory``, but for the address; else empty.
    node_command : tuple of str
        Starts a worker on this machine, but for the address, if the engine itself is to; else empty.
    min_nodes, max_nodes : int
        Bounds for the workers that the engine starts.
    idle_timeout : float
        Seconds without work after which such a worker goes.
    """

    max_retries: int | None = 1
    uniform: bool = True
    slots: int = 1
    tune: dict[str, float] = field(default_factory=dict)
    nodes: dict[str, Any]
    python: str
    port: int = 0
    name: str | None = None
    password_file: str | None = None
    ssl: tuple[str, str] | bool = False
    log: str
    local: bool = True
    batching: bool = True
    peer_transfers: bool = True
    wait_for_nodes: int = 0
    factory_command: tuple[str, ...] = ()
    node_command: tuple[str, ...] = ()
    min_nodes: int = 0
    max_nodes: int = 0
    idle_timeout: float = 0.0


class Job:
    """An invocation in the engine's hands."""

    __slots__ = ("alone", "flight", "invocation", "over", "profile", "sequence", "suspect", "tries")

    def __init__(self, invocation: Invocation, profile: Profile, sequence: int) -> None:
        self.invocation = invocation
        self.profile = profile
        self.sequence = sequence
        self.tries = 0
        self.suspect = False
        self.over = False
        self.alone = (
            profile.mode == L1
            or any((profile.memory, profile.disk, profile.gpus))
            or any(use.kind != "value" for use in (*invocation.inputs, *invocation.outputs))
        )
        self.flight: Flight | None = None

    @property
    def priority(self) -> float:
        return self.profile.priority

    @property
    def category(self) -> str:
        return self.profile.category

    @property
    def need(self) -> Need:
        profile = self.profile
        cores = 1.0 if profile.cores is None else profile.cores
        return Need(cores, profile.memory or 0.0, profile.disk or 0.0, float(profile.gpus or 0))


@dataclass(eq=False)
class Flight:
    """A TaskVine task of ours, or a row of them: collecting what a parcel left open takes another.

    ``room`` is the node that it was given, with what is counted there for it (``taken``, None for a batch); ``node``
    is where it was last seen, by address; ``files``, and what is at ``paths``, are let go with it, or if it is ``kept``
    with the temp files that it makes: TaskVine makes those again by running the task once more.
    """

    number: int
    jobs: dict[int, Job]
    room: Room | None = None
    taken: Need | None = None
    task: Any = None
    out: Any = None
    node: str | None = None
    files: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    kept: bool = False
    pinned: str | None = None
    greets: bool = False
    brought: dict[str, str] = field(default_factory=dict)
    arrived: Callable[[bool], None] | None = None


@dataclass(eq=False)
class TempFile:
    """A temp file: TaskVine's, and what was needed to make it.

    ``node`` is the name of one that has it, empty until it is made; ``inode`` is where on that node, if it is on this
    machine; ``home`` is the path of a copy beside the manager, made because somebody asked for it.
    """

    file: Any
    size: int = 0
    node: str = ""
    inode: tuple[int, int, int] | None = None
    home: str = ""
    disturbed: int = 0
    recoverable: bool = True
    rescue: str = ""
    flight: Flight | None = None


class VineNode:
    """A worker."""

    def __init__(self, address: str, said: dict[str, Any], slots: int | None) -> None:
        arch = str(said.get("arch", ""))
        self.address = address
        self.ours = arch.startswith(MARK)
        self.name = arch.removeprefix(MARK) if self.ours else address
        block = self.name[1:].partition("-")[0] if self.ours and self.name.startswith("b") else ""
        cores = float(said.get("cores_total") or said.get("ncpus") or 0)
        self.info = NodeInfo(
            self.name,
            cores,
            float(said.get("memory_total") or 0),
            float(said.get("disk_total") or 0),
            int(said.get("gpus_total") or 0),
            slots,
            block,
            int(self.name.rpartition("-")[2]) if self.ours else 0,
            "",
        )
        total = Need(max(cores, float(self.slots)), self.info.memory, self.info.disk, float(self.info.gpus))
        self.room = Room(total, self.slots, self.name)
        self.greeted = not self.ours
        self.draining = False
        self.leaving = False
        self.idle_since = time.monotonic()

    @property
    def slots(self) -> int:
        return self.info.slots or max(1, int(self.info.cores))


class VineEngine:
    """See the module's docstring.

    Parameters
    ----------
    base : str
        The run's private directory.
    config : VineConfig
        See there.
    outlet : Outlet
        Is told what happens.
    watch, unwatch : callable
        Register and unregister a file descriptor with the manager's loop.
    vine : module, optional
        ``ndcctools.taskvine``, or what stands for it in a test.
    """

    def __init__(
        self, base: str, config: VineConfig, outlet: Outlet, watch: Watch, unwatch: Any, vine: Any = None
    ) -> None:
        self._base = base
        self._config = config
        self._outlet = outlet
        self._watch = watch
        self._unwatch = unwatch
        self._jobs: dict[int, Job] = {}
        self._functions: dict[str, Payload] = {}
        self._function_files: dict[str, Any] = {}
        self._profiles: dict[int, Profile] = {}
        self._graph = DependencyGraph()
        self._values: dict[str, Payload] = {}  # results that consumers get with their arguments
        self._temps: dict[str, TempFile] = {}
        self._unwanted: set[str] = set()
        self._locals: dict[tuple[str, int, int], Any] = {}
        self._estimates = Estimates()
        self._backlog = Backlog(self._estimates, lambda job: job.over, self._near, enabled=config.batching)
        self._hopeless: list[Job] = []
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._suspects: list[Job] = []
        self._flights: dict[int, Flight] = {}  # by TaskVine's task id
        self._numbers = itertools.count(1)
        self._sequence = 0
        self._nodes: dict[str, VineNode] = {}
        self._names: dict[str, str] = {}  # by address, of nodes that are gone too
        self._draining: set[str] = set()
        self._drained: set[str] = set()
        self._watched: set[int] = set()
        self._due = True
        self._look_due = True
        self._looked = 0.0
        self._housekept = 0.0
        self._temps_new = 0.0
        self._joined = False
        self._done = 0
        self._retried = 0
        self._peak = 0
        self._remaking = 0
        self._asked: dict[str, list[int]] = {}  # requests for what is yet to be made
        self._wait_for_nodes = config.wait_for_nodes
        self._inline_limit = int(config.nodes.get("inline_limit", payload.INLINE_LIMIT))
        self._finished: list[Completion] = []
        self._stopped = False
        ssl = config.ssl
        os.makedirs(os.path.join(base, "files"), mode=0o700, exist_ok=True)
        self._vine = port.VinePort(
            vine if vine is not None else port.load(),
            port=config.port,
            name=config.name,
            directory=config.log,
            password_file=config.password_file,
            ssl=ssl if isinstance(ssl, tuple) else (port.make_key(base) if ssl else None),
            tune=MUST_TUNE,
        )
        self.tune(config.tune)
        if not config.peer_transfers:
            self._vine.manager.disable_peer_transfers()
        self._libraries = itertools.count()
        self._install()
        self._rescan()
        _publish(os.path.join(base, ADDRESS), str(self._vine.port))
        address = ["localhost", str(self._vine.port)]
        self._factory: subprocess.Popen[bytes] | None = None
        self._own_factory: NodeFactory | None = None
        if config.factory_command:
            self._start_factory([*config.factory_command, *address])
        if config.node_command:
            log = os.path.join(config.log, "factory.out")
            command = [*config.node_command, *address]
            self._own_factory = NodeFactory(command, config.min_nodes, config.max_nodes, log)

    def _start_factory(self, command: list[str]) -> None:
        with open(os.path.join(self._config.log, "factory.out"), "ab") as output:
            self._factory = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _install(self) -> None:
        """Install the supervisor as a library; TaskVine gives one up that has ended twice, hence the names."""
        self._library = f"taskvine-exec-{next(self._libraries)}"
        inputs = [
            (self._vine.buffer(runtime_archive(), cache=True), "runtime.tar"),
            (self._vine.buffer(pickle.dumps(self._config.nodes), cache=True), "config"),
        ]
        command = (
            f"exec >library.out 2>&1 </dev/null; tar xf runtime.tar; p={shlex.quote(self._config.python)}; "
            f'[ -x "$p" ] || p=python3; '
            f'exec "$p" runtime/taskvine_manager/__main__.py supervise {self._library} config'
        )
        self._vine.install(command, self._library, self._config.slots + RESERVE, inputs)

    # --- what the manager asks ---

    def submit(
        self, functions: list[tuple[str, Payload]], profiles: list[Profile], invocations: list[Invocation]
    ) -> None:
        self._functions.update(functions)
        for profile in profiles:
            self._profiles[profile.number] = profile
        for invocation in invocations:
            job = Job(invocation, self._profiles[invocation.profile], self._sequence)
            self._sequence += 1
            self._jobs[invocation.number] = job
            self._admit(job)
        self._due = True

    def _admit(self, job: Job) -> None:
        invocation = job.invocation
        needs, makes = _ids(invocation.inputs), _ids(invocation.outputs)
        if needs or makes:
            try:
                ready = self._graph.add(invocation.number, needs, makes)
            except ValueError as error:
                self._fail(job, failure.lost("file-missing", str(error), path=needs[0]))
                return
            if not ready:
                return
        self._ready(job)

    def _ready(self, job: Job) -> None:
        for use in job.invocation.inputs:
            if use.kind == "local" and not os.path.exists(use.source):
                self._fail(job, failure.lost("file-missing", "No such file or directory", path=use.source))
                return
            elif (temp := self._temps.get(use.source)) is not None and self._is_gone(temp):
                self._end_lost(job, use.source)
                return
        if not self._could(job):
            return
        # What reads files of TaskVine's goes where they are, and its task must not end before it.
        job.alone = job.alone or any(use.source in self._temps for use in job.invocation.inputs)
        if job.suspect:
            self._suspects.append(job)
        else:
            self._backlog.push(job)
        self._due = True

    def _could(self, job: Job) -> bool:
        """Whether any node can ever hold a call; where all are alike, one that none can has failed."""
        need = job.need
        if not self._nodes or any(node.room.could(need) for node in self._nodes.values()):
            return True
        if not self._config.uniform:
            self._hopeless.append(job)  # one that can may yet join
            return False
        asked = {name: getattr(job.profile, name) for name in Need._fields}
        totals = [node.room.total for node in self._nodes.values()]
        largest = {name: max(getattr(total, name) for total in totals) for name in Need._fields}
        requested = {name: amount for name, amount in asked.items() if amount is not None}
        reason = "it asks for more than the largest node has"
        self._fail(job, failure.lost("unsatisfiable", reason, requested=requested, largest=largest))
        return False

    def _judge(self) -> None:
        """Look again at what may fit no node, now that there are others."""
        waiting, self._hopeless = self._hopeless, []
        for job in waiting:
            if not job.over:
                self._ready(job)
        if self._config.uniform:
            totals = [node.room for node in self._nodes.values()]
            for job in self._backlog.remove(lambda need: not any(room.could(need) for room in totals)):
                self._ready(job)

    def cancel(self, numbers: tuple[int, ...]) -> None:
        running: dict[str, list[int]] = {}
        for number in numbers:
            job = self._jobs.get(number)
            if job is None or job.over:
                continue
            flight = job.flight
            self._over(job)
            self._abandon_outputs(job, "its task was cancelled")
            if flight is not None:
                self._locate_flight(flight)
                if flight.node is None and len(flight.jobs) == 1:
                    self._vine.manager.cancel_by_task_id(flight.task.id)
                elif flight.node in self._nodes:
                    running.setdefault(str(flight.node), []).append(number)
        for address, chosen in running.items():
            if self._nodes[address].ours:
                self._pinned(self._nodes[address], Parcel("cancel", next(self._numbers), numbers=tuple(chosen)))
        self._due = True

    def forget(self, files: tuple[str, ...]) -> None:
        for name in files:
            if (value := self._values.pop(name, None)) is not None:
                payload.discard(value)
                continue
            temp = self._temps.get(name)
            if temp is None or self._is_needed(name):
                self._unwanted.add(name)
            else:
                self._drop(name)

    def _is_needed(self, name: str) -> bool:
        """Whether an invocation that is not over reads a file."""
        return bool(self._graph.consumers(name))

    def _is_gone(self, temp: TempFile) -> bool:
        """Whether a file was lost that TaskVine is not to make again."""
        return bool(temp.node) and not temp.recoverable and not temp.home and not self._vine.replicas(temp.file)

    def _drop(self, name: str) -> None:
        temp = self._temps.pop(name)
        self._unwanted.discard(name)
        self._graph.lost(name)
        self._vine.undeclare([temp.file])
        _remove([temp.home])
        flight = temp.flight
        if flight is not None and not any(other.flight is flight for other in self._temps.values()):
            self._vine.undeclare(flight.files)
            _remove(flight.paths)

    def drain(self, block: str) -> None:
        self._draining.add(block)
        self._due = self._look_due = True
        self._drain()

    def _drain(self) -> None:
        """Let nodes of draining blocks go once they have nothing to do, and nothing that only they have.

        The last node with temp files stays until another has joined: it would take them with it.
        """
        for node in self._nodes.values():
            node.draining = node.draining or node.info.block in self._draining
        others = [node for node in self._nodes.values() if not node.draining]
        staying = set()
        for node in self._nodes.values():
            if not node.draining:
                continue
            busy = any(
                node.address in (flight.node, flight.pinned) and (flight.jobs or flight.arrived)
                for flight in self._flights.values()
            )
            precious = self._only_on(node)
            if precious and others:
                self._rescue(precious, others[0])
            if busy or precious:
                staying.add(node.info.block)
                if not others:
                    node.draining = busy and not precious  # it works on: nothing else is left to do so
        for block in self._draining - staying:
            self._draining.discard(block)
            self._drained.add(block)
            self._outlet.drained(block)
        self._due = self._look_due = True

    def _only_on(self, node: VineNode) -> list[TempFile]:
        """Temp files that are known to be on no other node; TaskVine counts replicas that are still on their way."""
        return [temp for temp in self._temps.values() if temp.node == node.name]

    def _rescue(self, temps: list[TempFile], node: VineNode) -> None:
        """Have a node take copies of temp files, by being sent something that reads them."""
        wanted = [temp for temp in temps if temp.rescue != node.address]
        for temp in wanted:
            temp.rescue = node.address
        if wanted:
            inputs = [(temp.file, f"i{number}") for number, temp in enumerate(wanted)]
            parcel = Parcel("hello", next(self._numbers))
            flight = Flight(parcel.number, {}, arrived=partial(self._rescued, wanted, node))
            self._pinned(node, parcel, flight, inputs=inputs)

    def _rescued(self, temps: list[TempFile], node: VineNode, arrived: bool) -> None:
        for temp in temps:
            temp.rescue = ""
            if arrived:
                temp.node, temp.inode = node.name, None
        self._look_due = True

    def locate(self, request: int, file: str) -> None:
        temp = self._temps.get(file)
        if file not in self._values and (temp is None or not temp.node) and self._graph.makers(file):
            self._asked.setdefault(file, []).append(request)
        else:
            self._locate(request, file, FETCH_TRIES)

    def spoiled(self, node: str, file: str, stamp: int) -> None:
        temp = self._temps.get(file)
        if temp is None or not stamp:
            return
        if node == HOME and temp.home and os.path.exists(temp.home) and os.stat(temp.home).st_ctime_ns != stamp:
            _remove([temp.home])
            temp.home = ""
        # TaskVine gives tasks hard links to what is cached, which leaves the same mark as writing to it.
        temp.disturbed += 1

    def _locate(self, request: int, file: str, tries: int) -> None:
        """Say where a file is; one that is lost is made again first."""
        answer = self._found(file)
        temp = self._temps.get(file)
        if answer is not None:
            self._outlet.located(request, answer)
        elif temp is None or not temp.node or not tries or self._is_gone(temp):
            self._outlet.located(request, (self._lost_record(file),))
        elif self._vine.replicas(temp.file):
            # A worker that has just failed to send or get a file is not asked for another for a while.
            later = partial(self._locate, request, file, tries - 1)
            self._timers.append((time.monotonic() + FETCH_PAUSE, later))
        else:  # TaskVine makes a file again that a task is to read
            parcel = Parcel("hello", next(self._numbers))
            flight = Flight(parcel.number, {}, arrived=lambda _: self._remade(request, file, tries - 1))
            self._remaking += 1
            self._launch(flight, parcel, inputs=[(temp.file, "i0")], priority=port.FIRST / 2, near=True)

    def _remade(self, request: int, file: str, tries: int) -> None:
        self._remaking -= 1
        self._locate(request, file, tries)

    def _lost_record(self, file: str) -> bytes:
        temp = self._temps.get(file)
        if temp is None or not self._is_gone(temp):
            return failure.lost("file-lost", f"{file} is on no node", name=file)
        reason = f"{file} was lost with node {temp.node}, and is not to be made again"
        return failure.lost("file-lost", reason, node=temp.node, name=file)

    def _found(self, file: str) -> Any:
        """Where a file can be read now, as of :meth:`Outlet.located`; None if it cannot."""
        value = self._values.get(file)
        if isinstance(value, bytes):
            return value
        if value is not None:
            return _where(HOME, value)
        temp = self._temps.get(file)
        if temp is None:
            return None
        if temp.home and (where := _where(HOME, temp.home)) is not None:
            return where
        path = self._on_this_machine(temp)
        if path is not None and temp.disturbed < OVERUSED:
            return _where(temp.node, path)
        if path is not None and (home := self._copied(path)) is not None:
            temp.home = home
        elif (data := self._vine.fetch(temp.file)) is not None:
            temp.home = self._spool(data)
        else:
            return None
        return _where(HOME, temp.home)

    def _copied(self, path: str) -> str | None:
        home = self._spool(b"")
        try:
            copy(path, home)
        except OSError:  # its worker has just gone
            _remove([home])
            return None
        return home

    def _on_this_machine(self, temp: TempFile) -> str | None:
        """Path of a temp file in the cache of a worker on this machine: TaskVine says neither, but moved the file."""
        node = next((node for node in self._nodes.values() if node.name == temp.node), None)
        if temp.inode is None or node is None or not node.info.directory.startswith(self._base + os.sep):
            return None
        device, inode, size = temp.inode
        cache = os.path.join(node.info.directory, "cache")
        with contextlib.suppress(OSError):
            for entry in os.scandir(cache):
                if entry.inode() == inode:
                    status = entry.stat()
                    if (status.st_dev, status.st_size) == (device, size):
                        return entry.path
        return None

    def _spool(self, data: bytes) -> str:
        descriptor, path = tempfile.mkstemp(prefix="value-", dir=os.path.join(self._base, "spool"))
        with open(descriptor, "wb") as file:
            file.write(data)
        return path

    def tune(self, parameters: dict[str, float]) -> None:
        for name, value in parameters.items():
            if name == WAIT:
                # While TaskVine waits for workers it would hand back no sentinels.
                self._wait_for_nodes = max(self._config.wait_for_nodes, int(value))
            elif name == BATCH:
                self._backlog.most = int(value) or MOST
            else:
                self._vine.tune(name, float(value))

    def stats(self) -> dict[str, Any]:
        replicas = {name: self._holders(temp) for name, temp in self._temps.items() if temp.node}
        stored = sum(self._temps[name].size * len(holders) for name, holders in replicas.items())
        self._peak = max(self._peak, stored)
        return {
            "tasks_done": self._done,
            "tasks_pending": len(self._jobs),
            "tasks_waiting": self.waiting,
            "tasks_recovered": self._vine.recoveries,
            "tasks_retried": self._retried,
            "nodes": len(self._nodes),
            "bytes_between_nodes": 0,
            "inputs_read": self._vine.bytes_sent,
            "bytes_stored": stored,
            "bytes_stored_at_most": self._peak,
            "replicas": replicas,
        }

    def snapshot(self) -> dict[str, Any]:
        files = [(name, temp.size, self._holders(temp)) for name, temp in self._temps.items() if temp.node]
        values = [(name, payload.size(value), [HOME]) for name, value in self._values.items()]
        return {
            "tasks": [(number, *self._state(job), job.tries) for number, job in self._jobs.items()],
            "files": [*files, *values],
        }

    def _state(self, job: Job) -> tuple[str, str]:
        """The state of a call, and the name of its node."""
        if job.flight is None:
            return ("ready" if self._graph.is_ready(job.invocation.number) else "waiting"), ""
        where = job.flight.node or job.flight.pinned
        return "assigned", self._names.get(where, "") if where is not None else ""

    def _holders(self, temp: TempFile) -> list[str]:
        """Nodes that have a temp file: TaskVine says how many there are, and that is known of one."""
        count = self._vine.replicas(temp.file)
        names = sorted((node.name for node in self._nodes.values()), key=lambda name: name != temp.node)
        return names[:count]

    @property
    def waiting(self) -> int:
        return len(self._graph) - self._remaking

    # --- the loop ---

    def tick(self) -> float | None:
        now = time.monotonic()
        for entry in [entry for entry in self._timers if entry[0] <= now]:
            self._timers.remove(entry)
            entry[1]()
        if self._factory is not None and self._factory.poll() is not None:
            raise NodesFail(f"vine_factory ended with status {self._factory.returncode}", self._factory_said())
        if self._due:
            self._pump()
        elif now - self._housekept >= self._housekeeping_interval(now):
            self._housekeep()
        if self._look_due and now - self._looked >= LOOK:
            self._look()
            if self._due:
                self._pump()
        if self._finished:
            finished, self._finished = self._finished, []
            self._outlet.done(finished)
        if self._due:
            return 0.0
        if self._own_factory is not None and not self._stopped:
            self._adjust(self._own_factory, now)
        waits = [0.5] if self._own_factory is not None else []
        waits.append(max(0.0, self._housekept + self._housekeeping_interval(now) - now))
        waits += [max(0.0, when - now) for when, _ in self._timers]
        if self._look_due:
            waits.append(max(0.0, self._looked + LOOK - now))
        return min(waits)

    def _adjust(self, factory: NodeFactory, now: float) -> None:
        """Have as many workers as the work asks for; those that had nothing to do for long go, all but the fewest."""
        demand = len(self._backlog) + len(self._suspects) + sum(len(flight.jobs) for flight in self._flights.values())
        slots = max((node.slots for node in self._nodes.values()), default=self._config.slots)
        factory.adjust({node.info.pid for node in self._nodes.values()}, demand, slots)
        busy = {flight.node for flight in self._flights.values() if flight.jobs}
        staying = sum(not node.draining for node in self._nodes.values())
        for node in self._nodes.values():
            if node.address in busy:
                node.idle_since = now
            elif (
                not node.draining
                and now - node.idle_since > self._config.idle_timeout > 0
                and staying > self._config.min_nodes
                and not (self._only_on(node) and staying == 1)
            ):
                node.draining, node.leaving = True, True
                staying -= 1
        for node in self._nodes.values():
            if node.leaving and node.address not in busy:
                others = [other for other in self._nodes.values() if not other.draining]
                precious = self._only_on(node)
                if precious and others:
                    self._rescue(precious, others[0])
                elif not precious:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(node.info.pid, signal.SIGTERM)

    def _factory_said(self) -> str:
        with contextlib.suppress(OSError), open(os.path.join(self._config.log, "factory.out"), "rb") as file:
            return file.read()[-2000:].decode(errors="replace")
        return ""

    def _housekeeping_interval(self, now: float) -> float:
        return REPLICATION if now - self._temps_new < 2.0 else HOUSEKEEPING

    def _event(self) -> None:
        self._due = True

    def _pump(self) -> None:
        self._dispatch()
        self._due = False
        ended = self._vine.cycle()
        for flight in self._flights.values():
            if flight.node is None:  # remembered, for TaskVine forgets it when the worker goes
                self._locate_flight(flight)
        for task in ended:
            self._ended(task)
        if ended and (self._backlog or self._suspects):
            self._due = True  # there is room for more
        elif not ended:
            self._look_due = True  # it may have been a connection that ended

    def _housekeep(self) -> None:
        self._housekept = time.monotonic()
        for task in self._vine.housekeeping():
            self._ended(task)
        self._look_due = True

    def _rescan(self) -> None:
        sockets = self._vine.sockets()
        for descriptor in self._watched - sockets:
            self._unwatch(descriptor)
        for descriptor in sockets - self._watched:
            self._watch(descriptor, self._event if self._joined or self._watched else self._knock)
        self._watched = sockets

    def _knock(self) -> None:
        """A worker wants to connect."""
        self._housekeep()
        self._rescan()
        self._looked = 0.0
        self._due = self._look_due = True

    # --- workers ---

    def _look(self) -> None:
        """See which workers there are."""
        self._look_due = False
        self._looked = time.monotonic()
        self._rescan()
        said = {str(worker["addrport"]): worker for worker in self._vine.workers()}
        joined = {
            address: worker for address, worker in said.items() if address not in self._nodes and worker.get("ncpus")
        }
        gone = [address for address in self._nodes if address not in said]
        if len(said) != len(self._nodes) + len(joined) - len(gone):
            self._look_due = True  # one has not said yet what it has
        for address, worker in joined.items():
            node = self._nodes[address] = VineNode(address, worker, self._config.nodes["slots"])
            self._joined = True
            self._names[address] = node.name
            logger.info("node joined: %s", node.info)
            if node.info.block in self._drained:
                node.draining = True
            if node.ours:
                number = next(self._numbers)
                self._pinned(node, Parcel("hello", number), Flight(number, {}, greets=True))
        for address in gone:
            node = self._nodes.pop(address)
            logger.info("node %s left", node.name)
        if gone:
            self._lost_nodes()
            self._give_up()
        if joined:
            self._judge()
        if joined or gone:
            self._due = True
            self._say_nodes()
        if self._draining:
            self._drain()

    def _say_nodes(self) -> None:
        self._outlet.nodes([node.info._asdict() for node in self._nodes.values() if node.greeted])

    def _locate_flight(self, flight: Flight) -> None:
        flight.node = flight.task.addrport or flight.node

    def _lost_nodes(self) -> None:
        """Charge the calls whose node went: TaskVine would try them again for ever, wherever they bring it down."""
        for flight in list(self._flights.values()):
            where = flight.node or flight.pinned
            if where is None or where in self._nodes:
                continue
            self._vine.manager.cancel_by_task_id(flight.task.id)
            del self._flights[flight.task.id]
            self._land(flight)
            for job in flight.jobs.values():
                reason, node = f"its worker was lost, at attempt {job.tries + 1}", self._names.get(where, where)
                self._again(job, failure.lost("node-lost", reason, node=node), node)

    def _again(self, job: Job, record: bytes, node: str = "") -> None:
        """Try a call again that was lost, or give it up."""
        job.flight = None
        if job.over:
            return
        job.tries += 1
        job.suspect = True
        most = self._config.max_retries
        if most is not None and job.tries > most:
            self._fail(job, record, node)
        else:
            self._retried += 1
            self._outlet.again([job.invocation.number], failure.brief(record))
            self._ready(job)

    def _pinned(
        self,
        node: VineNode,
        parcel: Parcel,
        flight: Flight | None = None,
        inputs: Iterable[tuple[Any, str]] = (),
    ) -> None:
        """Send something to one node."""
        flight = flight or Flight(parcel.number, {})
        flight.pinned = node.address
        self._launch(flight, parcel, inputs=inputs, priority=port.FIRST / 2, feature=node.name)

    # --- towards TaskVine ---

    def _dispatch(self) -> None:
        rooms = [node.room for node in self._nodes.values() if not node.draining]
        joined = sum(node.greeted for node in self._nodes.values())
        if not rooms or (joined < self._wait_for_nodes and not self._done):
            return
        if self._suspects and not any(job.suspect for f in self._flights.values() for job in f.jobs.values()):
            self._fly_suspect(rooms)
        if self._backlog:
            for room, taken, jobs in self._backlog.take(rooms):
                self._fly(jobs, room, taken)

    def _fly_suspect(self, rooms: list[Room]) -> None:
        """Try one call again whose node was lost; a second one would be charged if this brings the next node down."""
        self._suspects = [job for job in self._suspects if not job.over]
        if self._suspects:
            job = self._suspects[0]
            room = self._backlog.place(job, job.need, rooms)
            if room is not None:
                del self._suspects[0]
                room.take(job.need)
                self._fly([job], room, job.need)

    def _near(self, job: Job, room: Room) -> float:
        """Bytes of a call's inputs that a node has made."""
        temps = (self._temps.get(use.source) for use in job.invocation.inputs)
        return float(sum(temp.size for temp in temps if temp is not None and temp.node == room.key))

    def _fly(self, jobs: list[Job], room: Room, taken: Need | None) -> None:
        flight = Flight(next(self._numbers), {job.invocation.number: job for job in jobs}, room, taken)
        profiles = {job.profile.number: job.profile for job in jobs}
        inputs: list[tuple[Any, str]] = []
        outputs: list[tuple[Any, str]] = []
        staged: dict[str, str] = {}
        values: dict[str, Payload] = {}
        functions = []
        for key in {profile.function for profile in profiles.values()}:
            encoded = self._functions[key]
            if isinstance(encoded, bytes) and len(encoded) > INLINE_FUNCTION:
                encoded = self._functions[key] = payload.write_file(encoded, (), os.path.join(self._base, "spool"))
            if isinstance(encoded, str) and not self._config.local:
                staged[encoded] = name = f"f{len(staged)}"
                inputs.append((self._local(encoded), name))
            functions.append((key, encoded))
        temps = False
        for job in list(jobs):
            try:
                temps = self._files_of(job, flight, inputs, outputs, staged, values) or temps
            except OSError as error:  # an input that has just been removed, say
                jobs.remove(job)
                del flight.jobs[job.invocation.number]
                self._fail(job, failure.lost("file-missing", error.strerror or str(error), path=error.filename))
        if not jobs:
            self._land(flight)
            return
        parcel = Parcel(
            "run",
            flight.number,
            tuple(functions),
            tuple(tuple(profile) for profile in profiles.values()),
            tuple(tuple(job.invocation) for job in jobs),
            values or None,
            staged or None,
        )
        for job in jobs:
            job.flight = flight
        self._launch(
            flight,
            parcel,
            inputs=inputs,
            outputs=outputs,
            priority=jobs[0].priority,
            category=jobs[0].category if len(jobs) == 1 else "batches",
            feature=self._feature(flight, room),
            near=temps,
        )

    def _feature(self, flight: Flight, room: Room) -> str | None:
        """What ties a task to the node that it was given; one that is not ours has nothing that could."""
        for node in self._nodes.values():
            if node.room is room and node.ours:
                flight.pinned = node.address
                return node.name
        return None

    def _files_of(
        self,
        job: Job,
        flight: Flight,
        inputs: list[tuple[Any, str]],
        outputs: list[tuple[Any, str]],
        staged: dict[str, str],
        values: dict[str, Payload],
    ) -> bool:
        """Add the files of a call to its task; say whether it reads temp files."""
        arguments = job.invocation.arguments
        makes = any(self._stays(job, use) for use in job.invocation.outputs)
        if isinstance(arguments, str) and (makes or not self._config.local):
            staged[arguments] = name = f"a{len(staged)}"
            path = arguments
            if makes:  # it may be needed once more after the call has ended, and with it its own file
                path = os.path.join(self._base, "spool", f"kept-{job.invocation.number}-{flight.number}")
                with contextlib.suppress(FileNotFoundError):
                    os.link(arguments, path)
                flight.paths.append(path)
            file = self._vine.local(path)
            flight.files.append(file)
            inputs.append((file, name))
        near = False
        for use in job.invocation.inputs:
            if use.source in values or use.source in staged:
                continue
            if use.kind == "value" and use.source in self._values:
                values[use.source] = self._values[use.source]
                continue
            staged[use.source] = name = f"i{len(staged)}"
            if use.kind == "local":
                inputs.append((self._local(use.source), name))
            else:
                inputs.append((self._temps[use.source].file, name))
                near = True
        for use in job.invocation.outputs:
            if not self._stays(job, use):
                continue
            staged[">" + use.source] = name = f"o{len(staged)}"
            if use.kind == "local":
                path = os.path.join(self._base, "files", f"{flight.number}-{name}")
                flight.brought[use.source] = path  # moved to its own name when it is whole
                file = self._vine.local(path)
                flight.files.append(file)
            else:
                file = self._vine.temp()
                self._temps[use.source] = TempFile(file, flight=flight, recoverable=job.profile.recoverable)
                flight.kept = True
            outputs.append((file, name))
        return near

    def _stays(self, job: Job, use: FileUse) -> bool:
        """Whether an output is a file of TaskVine's: a result is one unless those of its kind are known to be small."""
        if use.kind != "value":
            return True
        largest = self._estimates.largest(job.category)
        return not self._config.batching or self._backlog.most < 2 or largest is None or largest > self._inline_limit

    def _local(self, path: str) -> Any:
        """A file of this machine, declared once for each of its versions."""
        status = os.stat(path)
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in self._locals:
            plain = path
            if not _PLAIN.fullmatch(path):  # TaskVine's protocol does not take every name
                plain = os.path.join(self._base, "files", f"input-{len(self._locals)}")
                try:
                    os.link(path, plain)
                except OSError:
                    shutil.copyfile(path, plain)
            self._locals[key] = self._vine.local(plain, cache=True)
        return self._locals[key]

    def _launch(
        self,
        flight: Flight,
        parcel: Parcel,
        *,
        inputs: Iterable[tuple[Any, str]] = (),
        outputs: Iterable[tuple[Any, str]] = (),
        priority: float,
        category: str = "",
        feature: str | None = None,
        near: bool = False,
    ) -> None:
        command, data = parcels.pack(parcel)
        task = self._vine.task(command, self._library)
        if data is not None:
            file = self._vine.buffer(data)
            flight.files.append(file)
            task.add_input(file, parcels.IN)
        for file, name in inputs:
            task.add_input(file, name)
        for file, name in outputs:
            task.add_output(file, name, success_only=True)
        flight.out = self._vine.buffer(None)
        flight.files.append(flight.out)
        task.add_output(flight.out, parcels.OUT)
        if priority:
            task.set_priority(priority)
        if category:
            task.set_category(category)
        if not near:
            self._vine.spread(task)
        flight.task = task
        flight.node = None
        self._vine.manager.submit(task)
        if feature is not None:
            # After it was submitted: the copy of it that TaskVine may run to make temp files again must not be tied to
            # a node that is gone then.
            task.add_feature(feature)
        self._flights[task.id] = flight
        self._due = True

    # --- from TaskVine ---

    def _ended(self, task: Any) -> None:
        flight = self._flights.pop(task.id, None)
        if flight is None:
            return  # cancelled
        answer = self._answer(flight, task)
        if answer is None:
            self._no_answer(flight, task)
            return
        if answer.radio:
            self._outlet.radio(list(answer.radio))
        if flight.greets and (node := self._nodes.get(str(flight.pinned))) is not None:
            self._hello(node, answer)
        files = answer.files or {}
        for path, data in (answer.left or {}).items():
            with contextlib.suppress(OSError):
                _write_home(path, data)
        for item in answer.done:
            self._completed(Completion(*item), flight, files)
        node = self._nodes.get(str(task.addrport))
        if answer.open and flight.jobs:
            if node is None:
                self._rest_lost(flight)
                return
            self._release(flight)
            self._pinned(node, Parcel("collect", flight.number), flight)
            return
        if flight.jobs:
            self._rest_lost(flight)
        else:
            self._land(flight, well=True)

    def _rest_lost(self, flight: Flight) -> None:
        for job in list(flight.jobs.values()):
            self._again(job, failure.lost("node-lost", "the node knows nothing of it any more", node=flight.node))
        flight.jobs.clear()
        self._land(flight)

    def _answer(self, flight: Flight, task: Any) -> Answer | None:
        if task.result in ("library exit", "missing library", "forsaken", "cancelled", "input missing"):
            return None
        try:
            return Answer(*pickle.loads(flight.out.contents()))
        except Exception:
            logger.warning("task %d brought no answer: %s, exit code %d", task.id, task.result, task.exit_code)
            return None

    def _release(self, flight: Flight) -> None:
        """Let the files of a task go that has ended."""
        if not flight.kept:
            self._vine.undeclare(flight.files)
            _remove(flight.paths)
            flight.files, flight.paths = [], []

    def _land(self, flight: Flight, *, well: bool = False) -> None:
        if flight.arrived is not None:
            flight.arrived(well)
        if flight.room is not None:
            if flight.taken is None:
                flight.room.batches -= 1
            else:
                flight.room.give(flight.taken)
            flight.room = None
        if flight.kept and not any(temp.flight is flight for temp in self._temps.values()):
            flight.kept = False
        self._release(flight)

    def _no_answer(self, flight: Flight, task: Any) -> None:
        result = task.result
        verdict = failures.verdict(result)
        if result == "missing library":
            logger.warning("TaskVine has given up the library %s: another takes its place", self._library)
            self._install()
        for job in list(flight.jobs.values()):
            if job.over:
                continue
            if verdict.fault is failures.Fault.TASK:
                self._fail(job, failures.record(result, job.tries + 1))
            else:
                self._again(job, failures.record(result, job.tries + 1))
        flight.jobs.clear()
        self._land(flight)

    def _hello(self, node: VineNode, answer: Answer) -> None:
        """A node's supervisor is there: only then has it joined."""
        node.greeted = True
        if answer.info is not None:
            said = NodeInfo(*answer.info)
            node.info = node.info._replace(pid=said.pid, directory=said.directory)
        self._say_nodes()

    def _completed(self, completion: Completion, flight: Flight, files: dict[str, tuple[int, int, int]]) -> None:
        job = flight.jobs.pop(completion.number, None)
        body: Any = completion.body
        if job is None or job.over:
            if isinstance(body, str) and body:
                with contextlib.suppress(OSError):
                    os.unlink(body)
            return
        job.flight = None
        missing = failure.lost_file(body) if completion.outcome == failure.LOST else None
        if missing is not None:
            self._again(job, body)
            return
        size = len(body.data) if isinstance(body, Body) else 0
        if isinstance(body, str):
            size = self._inline_limit + 1
        if completion.outcome == failure.RETURNED and (record := self._bring_home(flight)) is not None:
            completion = completion._replace(outcome=failure.LOST, body=record)
        if completion.outcome == failure.RETURNED:
            self._estimates.learn(job.category, completion.seconds, size)
            completion = self._keep(job, completion, files)
        else:
            if isinstance(body, Body):
                completion = completion._replace(body=self._spool(body.data))
            self._over(job)
            self._abandon_outputs(job, "the task that was to make it failed")
        self._done += 1
        self._finished.append(completion)

    def _bring_home(self, flight: Flight) -> bytes | None:
        """Give the files that have come their names; return the failure record if one cannot have it."""
        for target, path in flight.brought.items():
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.move(path, target)
            except OSError as error:
                words = error.strerror or str(error)
                return failure.lost("output-missing", words, path=os.path.basename(target))
        return None

    def _keep(self, job: Job, completion: Completion, files: dict[str, tuple[int, int, int]]) -> Completion:
        """Take over what a call has made; return its completion as the user's process is to get it."""
        body: Any = completion.body
        sizes = {name: size for name, size, _ in completion.made}
        made: list[tuple[str, int, int]] = []
        there: list[str] = []
        if isinstance(body, Body):
            body = self._spool(body.data)
        for use in job.invocation.outputs:
            if use.kind == "local":
                continue
            there.append(use.source)
            temp = self._temps.get(use.source)
            if use.source in sizes:
                assert temp is not None
                temp.size, temp.node, temp.inode = sizes[use.source], completion.node, files.get(use.source)
                self._temps_new = time.monotonic()
                path = self._on_this_machine(temp) or "" if use.kind == "value" else ""
                if use.kind == "value":
                    body = path
            else:
                if temp is not None:  # a small result after all
                    del self._temps[use.source]
                    self._vine.undeclare([temp.file])
                path = body if isinstance(body, str) else ""
                if path and not self._config.local:  # a large one that was expected to be small
                    self._temps[use.source] = TempFile(
                        self._vine.local(path, cache=True), os.path.getsize(path), HOME, home=path
                    )
                else:
                    self._values[use.source] = body
            where = _where(completion.node, path) if path else None
            if use.source in sizes or where is not None:
                made.append((use.source, *(where[2:] if where is not None else (sizes[use.source], 0))))
        self._peak = max(self._peak, sum(temp.size for temp in self._temps.values()) if sizes else 0)
        ready = self._graph.made(there)
        self._over(job)
        for number in ready:
            if (follower := self._jobs.get(number)) is not None:
                self._ready(follower)
        for name in there:
            if name in self._unwanted and not self._is_needed(name):
                self._unwanted.discard(name)
                if name in self._temps:
                    self._drop(name)
                payload.discard(self._values.pop(name, b""))
            for request in self._asked.pop(name, ()):
                self._locate(request, name, FETCH_TRIES)
        return completion._replace(body=body, made=tuple(made))

    # --- ends ---

    def _over(self, job: Job) -> None:
        job.over = True
        self._jobs.pop(job.invocation.number, None)
        self._graph.prune(job.invocation.number)
        payload.discard(job.invocation.arguments)
        for use in job.invocation.inputs:
            if use.kind != "local" and use.source in self._unwanted and not self._is_needed(use.source):
                if use.source in self._temps:
                    self._drop(use.source)
                self._unwanted.discard(use.source)

    def _fail(self, job: Job, record: bytes, node: str = "") -> None:
        self._over(job)
        self._done += 1
        self._finished.append(Completion(job.invocation.number, failure.LOST, record, node, 0.0, 0.0, 0.0))
        self._abandon_outputs(job, "the task that was to make it failed")

    def _end_lost(self, job: Job, file: str) -> None:
        self._fail(job, self._lost_record(file))

    def _give_up(self) -> None:
        """End what waits for files that went with a node and that TaskVine is not to make again."""
        for name in [name for name, temp in self._temps.items() if self._is_gone(temp)]:
            for number in self._graph.consumers(name):
                job = self._jobs.get(number)
                if job is not None and job.flight is None:
                    self._end_lost(job, name)

    def _abandon_outputs(self, job: Job, reason: str) -> None:
        """What a task was to make that failed: its consumers are told by the user's process, which may try again."""
        for use in job.invocation.outputs:
            if use.kind != "local" and (temp := self._temps.pop(use.source, None)) is not None:
                self._vine.undeclare([temp.file])
            for request in self._asked.pop(use.source, ()):
                self._outlet.located(request, (self._lost_record(use.source),))

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._base, ADDRESS))
        for descriptor in self._watched:
            self._unwatch(descriptor)
        self._watched = set()
        if self._factory is not None:
            self._factory.terminate()
        with contextlib.suppress(Exception):
            self._vine.close()

    @property
    def stopped(self) -> bool:
        return self._stopped  # workers are told to go, and what of them is on this machine is killed below

    def kill(self) -> None:
        for node in self._nodes.values():
            if os.path.isdir(os.path.join(self._base, "nodes", node.name)):
                sweep.kill_strays(self._base, node.name)
        if self._own_factory is not None:
            self._own_factory.kill()
        if self._factory is not None:
            self._factory.kill()
            self._factory.wait()


def _ids(uses: tuple[FileUse, ...]) -> list[str]:
    return [use.source for use in uses if use.kind != "local"]


def _where(node: str, path: str) -> tuple[str, str, int, int] | None:
    """A file that the user's process can read: its node, path, size and stamp; None if it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return node, path, status.st_size, status.st_ctime_ns


def _remove(paths: Iterable[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _write_home(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def _publish(path: str, content: str | bytes) -> None:
    """Write a file that appears whole."""
    data = content.encode() if isinstance(content, str) else content
    partial = f"{path}.partial"
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    os.rename(partial, path)


def runtime_archive() -> bytes:
    """What a node needs of this package, as a tarball: it is run from there, by whatever Python the node has."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.add(root, "runtime/taskvine_manager", filter=_needed)
    return made.getvalue()


def _needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "/tests" in member.name or member.name.endswith((".orig", ".rej")):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
