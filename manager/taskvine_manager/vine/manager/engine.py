"""The TaskVine engine: the shell around the core, between the manager's loop and TaskVine.

It carries out the core's instructions in TaskVine, turns the outcomes into events, and watches the workers. Like
TaskVine it is single-threaded: only the manager's loop calls it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from taskvine_manager import cleanup
from taskvine_manager.engine_api import NodesFail, Outlet, Watch
from taskvine_manager.factory import NodeFactory
from taskvine_manager.functions import Functions
from taskvine_manager.node.config import NodeConfig
from taskvine_manager.patience import INTERVAL, TIMEOUT
from taskvine_manager.runtime import failure, payload
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.vine import parcels
from taskvine_manager.vine.manager import admission, events, listening, port
from taskvine_manager.vine.manager.batch import LOOK_SECONDS, BatchFactory
from taskvine_manager.vine.manager.core import Core
from taskvine_manager.vine.manager.outbound import Traffic
from taskvine_manager.vine.manager.records import HOME
from taskvine_manager.vine.manager.store import Store, remove, where
from taskvine_manager.vine.parcels import Body
from taskvine_manager.vine.worker.worker import ADDRESS
from taskvine_manager.wire.messages import Completion, Invocation, NodeInfo, Profile

logger = logging.getLogger(__name__)

INLINE_FUNCTION = 4096
"""Largest function, in bytes, that is sent in parcels; larger ones are cached files."""
RETIREMENT = 0.5
"""Seconds between two times that nodes are told which functions to forget."""
FETCH_TRIES, FETCH_PAUSE = 20, 0.1
"""Tries to fetch a file, and seconds between them."""
HOUSEKEEPING = 1.0
"""Seconds between two times that TaskVine looks after its connections."""
REPLICATION = 0.05
"""The same, while temp files are new and may be waiting for replication."""
LOOK = 0.05
"""Minimum seconds between two looks at the list of workers."""
MOST_RECOVERIES = 20
"""Tasks that TaskVine may run again, beyond two for each temp file, before the engine gives the lost files up."""
VAIN_RECOVERIES = 2
"""Tasks that TaskVine may run again without recreating any file, before the engine renews their inputs too."""
WAIT = "wait-for-workers"
"""The only TaskVine parameter that the engine implements itself."""
BATCH = "executor.batch"
AWAKE = "executor.awake"
MUST_TUNE = {
    "perf-log-interval": 1e6,  # when it is due while a library is removed, the manager aborts
    "transient-error-interval": 1,  # seconds without work after a worker's failure; 15 by default
    "attempt-schedule-depth": 1000,  # for the sentinels: one cycle looks at every task
    # The user may set these two. With TaskVine's defaults, a lost host is noticed after seventeen minutes.
    "keepalive-interval": int(INTERVAL),
    "keepalive-timeout": int(TIMEOUT),
}


@dataclass(frozen=True, kw_only=True)
class VineConfig:
    """Settings of the engine.

    Parameters
    ----------
    max_retries : int or None
        Retries of a task whose worker was lost; None for no limit.
    uniform : bool
        Whether all nodes are alike.
    slots : int
        Tasks that a node is expected to run at once.
    tune : dict of str to float
        Tuning parameters that TaskVine knows.
    nodes : NodeConfig
        Settings for the supervisors.
    python : str
        Interpreter for the supervisors, if it exists on their node; otherwise ``python3``.
    port, name, password_file, ssl, log
        See :class:`~taskvine_manager.vine.manager.port.VinePort`.
    local : bool
        Whether nodes are on this machine: large values are then named by path.
    this_machine : bool
        Whether workers of other machines are kept out: nothing listens on a network then.
    admission_command : tuple of str
        Command that starts the process that admits workers, without the descriptor of its socket.
    batching : bool
        Whether short tasks share parcels.
    peer_transfers : bool
        Whether workers send files to each other.
    wait_for_nodes : int
        Workers that must have joined before anything runs.
    address : str
        Address of this machine for the workers of ``vine_factory``.
    factory_command : tuple of str
        Command that starts ``vine_factory``, without the address; empty for no factory.
    factory_scratch : str
        The directory in which its jobs run.
    node_command : tuple of str
        Command that starts a worker on this machine, without the address; empty if the engine starts none.
    min_nodes, max_nodes : int
        Limits for the number of workers that the engine starts.
    idle_timeout : float
        Seconds without work after which such a worker is dismissed.
    """

    max_retries: int | None = 1
    uniform: bool = True
    slots: int = 1
    tune: dict[str, float] = field(default_factory=dict)
    nodes: NodeConfig
    python: str
    port: int = 0
    name: str | None = None
    password_file: str | None = None
    ssl: tuple[str, str] | bool = False
    log: str
    local: bool = True
    this_machine: bool = False
    admission_command: tuple[str, ...] = ()
    batching: bool = True
    peer_transfers: bool = True
    wait_for_nodes: int = 0
    address: str = "localhost"
    factory_command: tuple[str, ...] = ()
    factory_scratch: str = ""
    node_command: tuple[str, ...] = ()
    min_nodes: int = 0
    max_nodes: int = 0
    idle_timeout: float = 0.0


@dataclass(eq=False)
class Fetch:
    """A file that is being fetched: the requests for it, its path here, and how much of it has arrived."""

    requests: list[int]
    path: str
    offset: int = 0
    size: int = 0
    tries: int = FETCH_TRIES


class VineEngine:
    """The engine on TaskVine.

    Parameters
    ----------
    base : str
        The run's private directory.
    config : VineConfig
        Its settings.
    outlet : Outlet
        Receives reports of what happens.
    watch, unwatch : callable
        Register and unregister a file descriptor with the manager's loop.
    vine : module, optional
        ``ndcctools.taskvine``, or its replacement in a test.
    """

    def __init__(
        self, base: str, config: VineConfig, outlet: Outlet, watch: Watch, unwatch: Any, vine: Any = None
    ) -> None:
        self._base = base
        self._config = config
        self._outlet = outlet
        self._watch = watch
        self._unwatch = unwatch
        self._core = Core(
            max_retries=config.max_retries,
            uniform=config.uniform,
            slots=config.nodes.slots,
            wait_for_nodes=config.wait_for_nodes,
            batching=config.batching,
            local=config.local,
            inline_limit=config.nodes.inline_limit,
            min_nodes=config.min_nodes,
            idle_timeout=config.idle_timeout,
        )
        self._functions = Functions()
        self._retired = 0.0
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._watched: set[tuple[int, int]] = set()
        self._due = True
        self._heard = False
        self._look_due = True
        self._looked = 0.0
        self._housekept = 0.0
        self._temps_new = 0.0
        self._most_stored = 0
        self._fetches: dict[str, Fetch] = {}
        self._pieces: dict[int, tuple[int, bytes]] = {}
        self._stuck: set[str] = set()
        self._recoveries = 0
        self._missing: set[str] = set()
        self._missed_at = 0
        self._joined = False
        self._finished: list[Completion] = []
        self._stopped = False
        ssl = config.ssl if isinstance(config.ssl, tuple) else (port.make_key(base) if config.ssl else None)
        # Not with a name: the catalog server reports TaskVine's own port, and whether TaskVine itself uses TLS.
        self._admits = config.name is None and bool(config.admission_command)
        self._admits = self._admits and (not config.this_machine or ssl is not None)
        self._vine = port.VinePort(
            vine if vine is not None else port.load(),
            port=config.port,
            name=config.name,
            directory=config.log,
            password_file=config.password_file,
            ssl=None if self._admits else ssl,
            tune=MUST_TUNE,
        )
        self._admission: subprocess.Popen[bytes] | None = None
        public = self._listen(ssl)
        self._store = Store(base, self._vine, self._directory_of)
        self._traffic = Traffic(base, self._vine, self._store)
        self.tune(config.tune)
        if not config.peer_transfers:
            self._vine.manager.disable_peer_transfers()
        self._install()
        self._rescan()
        _publish(os.path.join(base, ADDRESS), str(public))
        self._factory: BatchFactory | None = None
        self._own_factory: NodeFactory | None = None
        if config.factory_command:
            command = [*config.factory_command, config.address, str(public)]
            self._factory = BatchFactory(command, config.factory_scratch, config.log)
        if config.node_command:
            log = os.path.join(config.log, "factory.out")
            command = [*config.node_command, "localhost", str(public)]
            self._own_factory = NodeFactory(command, config.min_nodes, config.max_nodes, log)

    def _listen(self, ssl: tuple[str, str] | None) -> int:
        """Listen only where the expected workers can connect; return the port for them."""
        config, public = self._config, self._vine.port
        if self._admits:
            assert config.password_file is not None
            self._vine.listen_on_loopback(same_port=False)
            key, certificate = ssl or (None, None)
            told = admission.AdmissionConfig(
                port=self._vine.port,
                password_file=config.password_file,
                key=key,
                certificate=certificate,
                log=os.path.join(config.log, "manager.log"),
            )
            host = listening.LOOPBACK if config.this_machine else ""
            with listening.listen(host, public, fixed=bool(config.port)) as listener:
                public = listener.getsockname()[1]
                self._admission = admission.start(list(config.admission_command), listener, told)
        elif config.this_machine and config.name is None:
            self._vine.listen_on_loopback(same_port=True)
            public = self._vine.port
        where = "this machine" if config.this_machine and config.name is None else "any machine"
        logger.info("TaskVine accepts workers of %s at port %d", where, public)
        return public

    def _install(self) -> None:
        config = self._config
        self._traffic.install(config.nodes, config.python, config.slots, ships=not config.local)

    def _directory_of(self, node: str) -> str:
        return next((other.info.directory for other in self._core.nodes.values() if other.name == node), "")

    # --- calls of the manager ---

    def submit(
        self, functions: list[tuple[str, Payload]], profiles: list[Profile], invocations: list[Invocation]
    ) -> None:
        for key, encoded in functions:
            self._functions.define(key, encoded if key in self._functions else self._function(encoded))
        kept = tuple((key, self._functions[key]) for key, _ in functions)
        self._handle(events.Submitted(kept, tuple(map(self._functions.hold, profiles)), invocations))
        self._due = True

    def retire(self, profiles: tuple[int, ...]) -> None:
        self._handle(events.Retired(profiles))

    def _forget_functions(self) -> None:
        """Make nodes forget the functions that no task needs any more, several at a time.

        A function that is submitted again before that keeps its file, by which nodes know it.
        """
        if time.monotonic() - self._retired < RETIREMENT:
            return
        if gone := self._functions.gone():
            self._retired = time.monotonic()
            self._store.forget([each.encoded for each in gone if isinstance(each.encoded, str)])
            self._handle(events.FunctionsGone({each.key: each.profiles for each in gone}))

    def _function(self, encoded: Payload) -> Payload:
        if isinstance(encoded, str) or len(encoded) <= INLINE_FUNCTION:
            return encoded
        return payload.write_file(encoded, (), os.path.join(self._base, "spool"))

    def cancel(self, numbers: tuple[int, ...]) -> None:
        self._see_placed()
        self._handle(events.Cancelled(numbers))
        self._due = True

    def forget(self, files: tuple[str, ...]) -> None:
        self._handle(events.Forgotten(files))

    def drain(self, block: str) -> None:
        self._handle(events.Draining(block))
        self._due = self._look_due = True

    def locate(self, request: int, file: str) -> None:
        self._handle(events.Asked(request, file))

    def spoiled(self, node: str, file: str, stamp: int) -> None:
        self._store.spoiled(file, node, stamp)

    def tune(self, parameters: dict[str, float]) -> None:
        for name, value in parameters.items():
            if name == WAIT:
                # While TaskVine waits for workers it would not return sentinels.
                self._handle(events.WaitFor(max(self._config.wait_for_nodes, int(value))))
            elif name == BATCH:
                self._handle(events.BatchOf(int(value)))
            elif name != AWAKE:  # the loop handles that one
                self._vine.tune(name, float(value))

    def stats(self) -> dict[str, Any]:
        core = self._core
        replicas = {name: self._holders(name) for name, temp in core.temps.items() if temp.node}
        stored = sum(core.temps[name].size * len(holders) for name, holders in replicas.items())
        self._most_stored = max(self._most_stored, core.most_stored, stored)
        return {
            "tasks_done": core.done,
            "tasks_pending": len(core.jobs),
            "tasks_waiting": core.waiting,
            "tasks_recovered": self._vine.recoveries,
            "tasks_retried": core.retried,
            "nodes": len(core.nodes),
            "bytes_between_nodes": 0,
            "inputs_read": self._vine.bytes_sent,
            "bytes_stored": stored,
            "bytes_stored_at_most": self._most_stored,
            "replicas": replicas,
        }

    def snapshot(self) -> dict[str, Any]:
        files = [(name, temp.size, self._holders(name)) for name, temp in self._core.temps.items() if temp.node]
        values = [(name, payload.size(value), [HOME]) for name, value in self._core.values.items()]
        return {"tasks": self._core.states(), "files": [*files, *values]}

    def _holders(self, name: str) -> list[str]:
        """Return as many nodes as have a temp file: TaskVine gives only their number, and only the first is known."""
        count, maker = self._store.on_workers(name), self._core.temps[name].node
        return sorted((node.name for node in self._core.nodes.values()), key=lambda name: name != maker)[:count]

    @property
    def waiting(self) -> int:
        return self._core.waiting

    # --- the loop ---

    @property
    def tasks(self) -> int:
        return len(self._core.jobs)

    def tick(self) -> float | None:
        now = time.monotonic()
        self._forget_functions()
        self._functions.memory.tidy()
        for entry in [entry for entry in self._timers if entry[0] <= now]:
            self._timers.remove(entry)
            entry[1]()
        if self._admission is not None and self._admission.poll() is not None:
            raise NodesFail(
                f"the process that admits workers ended with status {self._admission.returncode}: see manager.log", ""
            )
        if self._factory is not None:
            self._factory.check(joined=self._joined)
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
        waits += [LOOK_SECONDS] if self._factory is not None else []
        waits.append(max(0.0, self._housekept + self._housekeeping_interval(now) - now))
        waits += [max(0.0, when - now) for when, _ in self._timers]
        if self._look_due:
            waits.append(max(0.0, self._looked + LOOK - now))
        return min(waits)

    def _adjust(self, factory: NodeFactory, now: float) -> None:
        """Adjust the number of workers to the work."""
        nodes = self._core.nodes.values()
        slots = max((node.slots for node in nodes), default=self._config.slots)
        factory.adjust({node.info.pid for node in nodes}, self._core.demand, slots)
        self._handle(events.Clock(now))

    def _housekeeping_interval(self, now: float) -> float:
        return REPLICATION if now - self._temps_new < 2.0 else HOUSEKEEPING

    def _event(self) -> None:
        self._due = self._heard = True

    def _pump(self) -> None:
        self._handle(events.Cycle())
        self._due = False
        heard, self._heard = self._heard, False
        task = self._vine.turn()
        self._see_placed()
        if task is not None:
            # Report its outcome first. After that, more tasks may have ended, or nodes may take more.
            self._ended(task)
            self._due = self._traffic.is_out or self._core.has_work
        elif heard:
            self._look_due = True  # a connection may have ended

    def _see_placed(self) -> None:
        if placed := self._traffic.placed():
            self._handle(events.Placed(placed))

    def _housekeep(self) -> None:
        self._housekept = time.monotonic()
        for task in self._vine.housekeeping():
            self._ended(task)
        self._look_due = True

    def _rescan(self) -> None:
        sockets = self._vine.sockets()
        for descriptor, _ in self._watched - sockets:
            self._unwatch(descriptor)
        for descriptor, _ in sockets - self._watched:
            self._watch(descriptor, self._event if self._joined or self._watched else self._knock)
        self._watched = sockets

    def _knock(self) -> None:
        """Accept a worker that wants to connect."""
        self._housekeep()
        self._rescan()
        self._looked = 0.0
        self._due = self._look_due = True

    def _look(self) -> None:
        """Find out which workers there are."""
        self._look_due = False
        self._looked = time.monotonic()
        self._rescan()
        nodes = self._core.nodes
        said = {str(worker["addrport"]): worker for worker in self._vine.workers()}
        joined = {address: worker for address, worker in said.items() if address not in nodes and worker.get("ncpus")}
        gone = tuple(address for address in nodes if address not in said)
        if len(said) != len(nodes) + len(joined) - len(gone):
            self._look_due = True  # a worker has not reported its resources yet
        for address in gone:
            logger.info("node %s left", nodes[address].name)
        if gone:
            # Before the lost tasks are retried: their inputs may be lost, too.
            self._see_lost(self._core.irreplaceable)
        if joined or gone or self._core.draining:
            self._handle(events.Connected(joined, gone, self._looked))
            self._due = True
        for address in joined:
            logger.info("node joined: %s", nodes[address].info)
            self._joined = True
        if self._core.draining:
            self._look_due = True
        self._see_stuck(changed=bool(joined or gone))

    def _see_lost(self, names: list[str]) -> None:
        """Tell the core which of these files, which must not be recreated, are on no worker."""
        if lost := tuple(name for name in names if not self._store.replicas(name)):
            self._handle(events.FilesLost(lost))

    def _see_stuck(self, *, changed: bool) -> None:
        """Fail the readers of lost files that TaskVine tries to recreate in vain, which it would do for ever."""
        lost = {name for name in self._traffic.awaited() if self._is_lost(name)}
        if not lost:
            self._stuck = self._missing = lost
            return
        if changed or lost != self._stuck:
            self._stuck, self._recoveries = lost, self._vine.recoveries
        too_many = self._vine.recoveries - self._recoveries > MOST_RECOVERIES + 2 * len(self._store)
        missing, there = self._lineage_of(lost)
        if changed or missing != self._missing:
            self._missing, self._missed_at = missing, self._vine.recoveries
        elif self._vine.recoveries - self._missed_at > VAIN_RECOVERIES:
            # Their inputs may be missing on a worker without TaskVine knowing it.
            self._missed_at = self._vine.recoveries + MOST_RECOVERIES
            for name in sorted(there):
                self._handle(events.CutShort(name))
        for name in sorted(lost):
            reason = self._why_not_remade(name)
            if reason is None and too_many:
                reason = "its task keeps failing, or an input of that task is lost"
            if reason is not None:
                self._handle(events.NotRemade(name, reason))
        self._due = self._look_due = True

    def _is_lost(self, name: str) -> bool:
        temp = self._core.temps.get(name)
        return temp is not None and bool(temp.node) and temp.node != HOME and not self._store.on_workers(name)

    def _lineage_of(self, files: set[str]) -> tuple[set[str], set[str]]:
        """Return the files to recreate for lost ones, these included, and the existing files that are read for that."""
        left, missing, there = list(files), set(files), set()
        while left:
            name = left.pop()
            lineage = self._core.lineage(name)
            there.update(self._core.given(name))
            for each in set(lineage[1] if lineage is not None else ()) - missing:
                if self._store.on_workers(each):
                    there.add(each)
                else:
                    missing.add(each)
                    left.append(each)
        return missing, there

    def _why_not_remade(self, file: str) -> str | None:
        """Return why TaskVine failed to recreate a file, or one that it is created from; None if nothing has failed."""
        left, known = [file], {file}
        while left:
            name = left.pop()
            lineage = self._core.lineage(name)
            if lineage is None:
                continue
            flight, reads = lineage
            failed = self._traffic.failed_again(flight)
            if (spoiled := failure.lost_file(failed)) is not None:
                self._handle(events.CutShort(spoiled))
            elif failed is not None:
                return failure.brief(failed)
            lost = [each for each in reads if each not in known and not self._store.on_workers(each)]
            known.update(lost)
            left += lost
        return None

    # --- from TaskVine ---

    def _ended(self, task: Any) -> None:
        flight = self._traffic.ended(task)
        if flight is None:
            return  # it was aborted
        answer = self._traffic.answer(flight, task)
        if answer is None:
            self._handle(events.Failed(flight, task.result))
            return
        if answer.radio:
            self._outlet.radio(list(answer.radio))
        self._traffic.write_home(flight, answer.left or {})
        if answer.piece is not None:
            self._pieces[flight] = answer.piece
        for name, inode in (answer.files or {}).items():
            self._store.made(name, answer.node, inode)
            self._temps_new = time.monotonic()
        spooled: dict[str, int] = {}
        completions = [self._brought(flight, Completion(*item), spooled) for item in answer.done]
        info = NodeInfo(*answer.info) if answer.info is not None else None
        node = str(task.addrport)
        self._handle(events.Answered(flight, node, completions, answer.open, info, spooled or None))

    def _brought(self, flight: int, completion: Completion, spooled: dict[str, int]) -> Completion:
        """Store the large result and the output files of a task, unless the task is over already."""
        if completion.number not in self._core.jobs:
            return completion
        body: Any = completion.body
        if isinstance(body, Body):
            try:
                body = self._store.spool(body.data)
            except OSError as error:
                reason = f"the result cannot be stored on the manager's machine: {error.strerror}"
                full = failure.lost("disk-full", reason, path=error.filename or self._base)
                return completion._replace(outcome=failure.LOST, body=full)
            spooled[body] = len(completion.body.data)  # type: ignore[union-attr]
            completion = completion._replace(body=body)
        if completion.outcome == failure.RETURNED and (record := self._traffic.bring_home(flight)) is not None:
            completion = completion._replace(outcome=failure.LOST, body=record)
        return completion

    # --- instructions ---

    def _handle(self, event: events.Event) -> None:
        for instruction in self._core.handle(event):
            self._carry_out(instruction)

    def _carry_out(self, said: events.Instruction) -> None:
        if isinstance(said, events.Launch):
            self._launch(said)
        elif isinstance(said, events.Finish):
            self._finished.append(self._told(said))
        elif isinstance(said, events.Release):
            self._traffic.release(said.flight)
        elif isinstance(said, events.Abort):
            self._traffic.abort(said.flight)
        elif isinstance(said, events.Drop):
            self._store.drop(said.file)
        elif isinstance(said, events.Prune):
            self._store.prune(said.file)
        elif isinstance(said, events.Renew):
            self._renew(said)
        elif isinstance(said, events.Adopt):
            self._store.adopt(said.file, said.path)
        elif isinstance(said, events.Discard):
            payload.discard(said.value)
            if isinstance(said.value, str):
                self._store.tidy_buffers()
        elif isinstance(said, events.Again):
            self._outlet.again([said.number], said.reason)
        elif isinstance(said, events.Locate):
            self._locate(said.request, said.file)
        elif isinstance(said, events.Fetched):
            self._fetched(said)
        elif isinstance(said, events.Lost):
            self._outlet.located(said.request, (said.record,))
        elif isinstance(said, events.SayNodes):
            self._outlet.nodes([node.info._asdict() for node in self._core.nodes.values() if node.greeted])
        elif isinstance(said, events.Drained):
            self._outlet.drained(said.block)
        elif isinstance(said, events.Dismiss):
            with contextlib.suppress(ProcessLookupError):
                os.kill(said.pid, signal.SIGTERM)
        else:
            logger.warning("TaskVine has given up the library: it is installed again")
            self._install()

    def _launch(self, said: events.Launch) -> None:
        self._due = True
        record = None
        temps = [staged.source for staged in said.inputs if staged.kind == "temp"]
        self._see_lost([name for name in temps if not self._core.temps[name].recoverable])
        if gone := next((name for name in temps if self._core.temps[name].gone), None):
            record = self._core.lost_record(gone)
        try:
            if record is None:
                self._traffic.launch(said)
        except OSError as error:  # for example, an input that has just been removed
            record = failure.lost("file-missing", error.strerror or str(error), path=error.filename)
        if record is not None:
            self._handle(events.Refused(said.flight, record))

    def _renew(self, said: events.Renew) -> None:
        """Remove a file from all workers: TaskVine cannot be told that only one of them has lost or spoiled it."""
        if said.recoverable:
            logger.warning("a node has lost or spoiled its copy of %s: it is sent again or recreated", said.file)
            self._store.renew(said.file)
        elif said.file in self._core.temps and self._store.replicas(said.file) < 2:
            self._handle(events.FilesLost((said.file,)))
        self._due = True

    def _told(self, said: events.Finish) -> Completion:
        """Return a completion for the user's process, with path and stamp of a result that it can read."""
        completion, body = said.completion, said.completion.body
        if completion.outcome != failure.RETURNED or not said.value or isinstance(body, bytes):
            return completion
        path = body or self._store.path(said.value) or ""
        there = where(completion.node, path) if path else None
        if there is None:
            return completion._replace(body=path)
        others = tuple(made for made in completion.made if made[0] != said.value)
        return completion._replace(body=path, made=(*others, (said.value, *there[2:])))

    def _locate(self, request: int, file: str) -> None:
        """Report where a file is; fetch it first if it is on other machines."""
        value = self._core.values.get(file)
        answer: Any = where(HOME, value) if isinstance(value, str) else value
        answer = self._store.found(file) if answer is None else answer
        temp = self._core.temps.get(file)
        if answer is None and temp is not None and temp.node and not temp.recoverable:
            self._see_lost([file])
        if answer is not None:
            self._outlet.located(request, answer)
        elif temp is None or not temp.node or temp.gone:
            self._outlet.located(request, (self._core.lost_record(file),))
        elif file in self._fetches:
            self._fetches[file].requests.append(request)
        else:
            try:
                path = self._store.spool(b"")
            except OSError as error:
                self._outlet.located(request, (_unreadable(file, error),))
                return
            self._fetches[file] = Fetch([request], path)
            self._handle(events.Wanted(file, 0))

    def _fetched(self, said: events.Fetched) -> None:
        """Append a piece to a file that is being fetched, and ask for the next; start again if none has arrived."""
        piece = self._pieces.pop(said.flight, None)
        file, fetch = said.file, self._fetches[said.file]
        if piece == parcels.CUT:
            self._handle(events.CutShort(file))
            piece = None
        if said.record or file not in self._core.temps:
            self._end_fetch(file, said.record)
        elif piece is not None and piece[0] == (fetch.size or piece[0]):
            size, data = piece
            try:
                with open(fetch.path, "ab") as home:
                    home.write(data)
                    fetch.size, fetch.offset = size, home.tell()
            except OSError as error:  # for example, a full disk; the file remains on its node
                self._end_fetch(file, _unreadable(file, error))
                return
            if data and fetch.offset < size:
                self._handle(events.Wanted(file, fetch.offset))
            else:
                self._store.bring_home(file, fetch.path)
                self._end_fetch(file)
        elif fetch.tries:
            # Wait first: TaskVine gives a worker no work for a while after a failed transfer. Start from the beginning:
            # a recreated file may differ.
            fetch.tries -= 1
            fetch.size = fetch.offset = 0
            os.truncate(fetch.path, 0)
            self._timers.append((time.monotonic() + FETCH_PAUSE, lambda: self._handle(events.Wanted(file, 0))))
        else:
            self._end_fetch(file, self._core.lost_record(file))

    def _end_fetch(self, file: str, record: bytes = b"") -> None:
        fetch = self._fetches.pop(file)
        answer: Any = self._store.found(file)
        if answer is None:
            remove([fetch.path])
            answer = (record or self._core.lost_record(file),)
        for request in fetch.requests:
            self._outlet.located(request, answer)

    # --- the end ---

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._base, ADDRESS))
        for descriptor, _ in self._watched:
            self._unwatch(descriptor)
        self._watched = set()
        if self._factory is not None:
            self._factory.terminate()
        with contextlib.suppress(Exception):
            self._vine.close()  # new workers find nobody
        if self._admission is not None and self._admission.stdin is not None:
            self._admission.stdin.close()  # it ends once it has passed on TaskVine's last messages

    @property
    def stopped(self) -> bool:
        return self._stopped  # workers end by themselves; kill() ends those on this machine

    def kill(self) -> None:
        for node in self._core.nodes.values():
            if os.path.isdir(os.path.join(self._base, "nodes", node.name)):
                cleanup.kill_strays(self._base, node.name)
        if self._own_factory is not None:
            self._own_factory.kill()
        if self._admission is not None:
            try:
                self._admission.wait(admission.LAST_SECONDS)
            except subprocess.TimeoutExpired:
                self._admission.kill()
                self._admission.wait()
        if self._factory is not None:
            self._factory.kill()


def _unreadable(file: str, error: OSError) -> bytes:
    reason = f"it cannot be copied to the manager's machine: {error.strerror or error}: {error.filename}"
    return failure.lost("file-unreadable", reason, name=file)


def _publish(path: str, content: str) -> None:
    """Write a file so that it appears whole."""
    partial_path = f"{path}.partial"
    with open(os.open(partial_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content.encode())
    os.rename(partial_path, path)
