"""The TaskVine engine: the shell around the core, between the manager's loop and TaskVine.

It carries out the core's instructions in TaskVine, and turns the outcomes into events. Like TaskVine it is
single-threaded: only the manager's loop calls it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from taskvine_manager import cleanup
from taskvine_manager.engine_api import Outlet, Watch
from taskvine_manager.functions import Functions
from taskvine_manager.parameters.own import AWAKE, BATCH, RECORD_DETAILS
from taskvine_manager.parameters.taskvine import WAIT_FOR_WORKERS
from taskvine_manager.record import events as recorded
from taskvine_manager.record.events import Process, Recoveries
from taskvine_manager.runtime import failure, payload
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.scheduling import checking
from taskvine_manager.vine.manager import events, port
from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.vine.manager.core import Core
from taskvine_manager.vine.manager.cycles import Cycles
from taskvine_manager.vine.manager.direct import DirectLinks
from taskvine_manager.vine.manager.entrance import Entrance, takes_direct
from taskvine_manager.vine.manager.events import HOME
from taskvine_manager.vine.manager.fetches import Fetches
from taskvine_manager.vine.manager.outbound import Traffic
from taskvine_manager.vine.manager.recoveries import Recoveries as LostFiles
from taskvine_manager.vine.manager.shell import Shell
from taskvine_manager.vine.manager.store import Store, where
from taskvine_manager.vine.manager.workers import Workers
from taskvine_manager.vine.parcels import Answer, Body
from taskvine_manager.wire.messages import Completion, Invocation, NodeInfo, Profile

logger = logging.getLogger(__name__)

INLINE_FUNCTION = 4096
"""Largest function, in bytes, that is sent in parcels; larger ones are cached files."""
LOOK_SECONDS = 1.0
"""Seconds between two times that the record says why tasks wait."""
RETIREMENT = 0.5
"""Seconds between two times that nodes are told which functions to forget."""


class VineEngine:
    """The engine on TaskVine.

    Parameters
    ----------
    base : str
        The run's private directory.
    listener : socket.socket or None
        Listening socket for direct connections of supervisors; it is closed if they are not possible.
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
        self,
        base: str,
        listener: socket.socket | None,
        config: VineConfig,
        outlet: Outlet,
        watch: Watch,
        unwatch: Any,
        vine: Any = None,
    ) -> None:
        self._base = base
        self._config = config
        self._outlet = outlet
        self._core = core = Core(
            config, check=checking.is_wanted(os.environ), details=bool(RECORD_DETAILS.of(config.tune))
        )
        self._functions = Functions()
        self._retired = self._looked = 0.0
        self._recovered = 0
        self._trouble = ""
        self._most_stored = 0
        self._finished: list[Completion] = []
        self._stopped = False
        self._entrance = Entrance(base, config, vine if vine is not None else port.load())
        self._vine = self._entrance.vine
        self._store = Store(base, self._vine, self._directory_of)
        if listener is not None and not takes_direct(config):
            listener.close()
            listener = None
        self._direct = DirectLinks(listener, watch, unwatch, self._answered, self._cut)
        if self._entrance.direct is not None:
            self._direct.take_from(self._entrance.direct)
        self._traffic = Traffic(base, self._vine, self._store, self._direct)
        shell = Shell(core, self._handle, self._vine, self._store, self._traffic, outlet)
        self._recoveries = LostFiles(shell)
        self._fetches = Fetches(shell, self._recoveries)
        self.instructions: dict[type, Callable[[Any], None]] = {
            events.Launch: self._launch,
            events.Abort: lambda said: self._traffic.abort(said.parcel),
            events.Release: lambda said: self._traffic.release(said.parcel),
            events.Drop: lambda said: self._store.drop(said.file),
            events.Prune: lambda said: self._store.prune(said.file),
            events.Renew: self._renew,
            events.Adopt: lambda said: self._store.adopt(said.file, said.path),
            events.Discard: self._discard,
            events.Finish: lambda said: self._finished.append(self._told(said)),
            events.RunAgain: lambda said: outlet.run_again([said.number], said.reason),
            events.Record: lambda said: outlet.happened(said.events),
            events.Locate: self._fetches.locate,
            events.Fetched: self._fetches.fetched,
            events.Lost: lambda said: outlet.located(said.request, (said.record,)),
            events.SayNodes: self._say_nodes,
            events.Drained: lambda said: outlet.drained(said.block),
            events.Dismiss: self._dismiss,
            events.Reinstall: self._reinstall,
        }
        """What is called for each type of instruction."""
        self.tune(config.tune)
        if not config.peer_transfers:
            self._vine.manager.disable_peer_transfers()
        self._install()
        self._workers = Workers(config, self._entrance.port, shell, self._recoveries)
        self._cycles = Cycles(shell, self._workers, self._ended, watch, unwatch)
        self._cycles.watch_connections()
        self._entrance.publish()

    def _install(self) -> None:
        config = self._config
        self._traffic.install(config.nodes, config.python, config.slots, ships=not config.local)

    def _directory_of(self, node: str) -> str:
        return next((other.info.directory for other in self._core.fleet.nodes.values() if other.name == node), "")

    # --- calls of the manager ---

    def submit(
        self, functions: list[tuple[str, Payload]], profiles: list[Profile], invocations: list[Invocation]
    ) -> None:
        for key, encoded in functions:
            self._functions.define(key, encoded if key in self._functions else self._function(encoded))
        kept = tuple((key, self._functions[key]) for key, _ in functions)
        self._handle(events.Submitted(kept, tuple(map(self._functions.hold, profiles)), invocations))
        self._cycles.waiting = True

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
        self._cycles.see_placed()
        self._handle(events.Cancelled(numbers))
        self._cycles.due = True

    def forget(self, files: tuple[str, ...]) -> None:
        self._handle(events.Forgotten(files))

    def drain(self, block: str) -> None:
        self._handle(events.Draining(block))
        self._cycles.due = True
        self._workers.look_soon()

    def locate(self, request: int, file: str) -> None:
        self._handle(events.Asked(request, file))

    def spoiled(self, node: str, file: str, stamp: int) -> None:
        self._store.spoiled(file, node, stamp)

    def tune(self, parameters: dict[str, float]) -> None:
        for name, value in parameters.items():
            if name == WAIT_FOR_WORKERS.name:  # the only TaskVine parameter that the engine implements itself
                # While TaskVine waits for workers it would not return sentinels.
                self._handle(events.WaitFor(max(self._config.wait_for_nodes, int(value))))
            elif name == BATCH.name:
                self._handle(events.BatchOf(int(value)))
            elif name not in (AWAKE.name, RECORD_DETAILS.name):  # the loop handles these
                self._vine.tune(name, float(value))

    def stats(self) -> dict[str, Any]:
        core, temps = self._core, self._core.files.temps
        replicas = {name: self._holders(name) for name, temp in temps.items() if temp.node}
        stored = sum(temps[name].size * len(holders) for name, holders in replicas.items())
        self._most_stored = max(self._most_stored, core.files.most_stored, stored)
        return {
            "tasks_done": core.workload.done,
            "tasks_pending": self.tasks,
            "tasks_waiting": core.waiting,
            "tasks_recovered": self._vine.recoveries,
            "tasks_retried": core.workload.retried,
            "nodes": len(core.fleet.nodes),
            "libraries": dict(Counter(name for node in core.fleet.nodes.values() for name in node.room.warm)),
            "bytes_between_nodes": 0,
            "inputs_read": int(self._vine.manager.stats.bytes_sent),
            "bytes_stored": stored,
            "bytes_stored_at_most": self._most_stored,
            "replicas": replicas,
        }

    def snapshot(self) -> dict[str, Any]:
        held = self._core.files
        files = [(name, temp.size, self._holders(name)) for name, temp in held.temps.items() if temp.node]
        values = [(name, payload.size(value), [HOME]) for name, value in held.values.items()]
        return {"tasks": self._core.states(), "files": [*files, *values]}

    def _holders(self, name: str) -> list[str]:
        """Return as many nodes as have a temp file: TaskVine gives only their number, and only the first is known."""
        count, maker = self._store.on_workers(name), self._core.files.temps[name].node
        return sorted((node.name for node in self._core.fleet.nodes.values()), key=lambda name: name != maker)[:count]

    @property
    def waiting(self) -> int:
        return self._core.waiting

    @property
    def tasks(self) -> int:
        return len(self._core.workload.tasks)

    # --- the loop ---

    def tick(self) -> float | None:
        now = time.monotonic()
        cycles, workers = self._cycles, self._workers
        self._forget_functions()
        self._functions.memory.tidy()
        self._fetches.resume(now)
        self._entrance.check()
        workers.check()
        if cycles.waiting or cycles.due:
            cycles.place()
        if cycles.due:
            cycles.run()
        elif not cycles.wait(now):
            cycles.housekeep()
        if not workers.look_wait(now):
            cycles.watch_connections()
            cycles.due |= workers.look()
            if cycles.due:
                cycles.place()
                cycles.run()
        if self._finished:
            finished, self._finished = self._finished, []
            self._outlet.done(finished)
        if cycles.due or cycles.waiting:
            return 0.0
        if not self._stopped:
            workers.adjust(now)
            self._look(now)
        waits = [cycles.wait(now), workers.wait(now), self._fetches.wait(now)]
        if (wait := self._direct.push()) is not None:
            waits.append(wait)
        return min(waits)

    def _look(self, now: float) -> None:
        """Have the record say why tasks wait, and what TaskVine has recreated. :class:`Cycles` calls often enough."""
        if now < self._looked + LOOK_SECONDS:
            return
        self._looked = now
        if self._core.reasons.are_due:
            self._handle(events.Looked())
            if (said := self._entrance.trouble()) != self._trouble:
                self._trouble = said
                self._outlet.happened([recorded.Entrance(said)])
        if self._vine.recoveries != self._recovered:
            self._recovered = self._vine.recoveries
            self._outlet.happened([Recoveries(self._recovered)])

    # --- from TaskVine ---

    def _ended(self, task: Any) -> None:
        parcel = self._traffic.ended(task)
        if parcel is None:
            return  # it was aborted
        answer = self._traffic.answer(parcel, task)
        if answer is None:
            self._handle(events.Failed(parcel, task.result))
            return
        self._take(parcel, str(task.addrport), answer)

    def _answered(self, parcel: int, node: str, answer: Answer) -> None:
        """Take an answer that came over a direct connection."""
        self._take(parcel, self._core.fleet.address(node), answer)
        self._cycles.waiting = self._cycles.waiting or self._core.workload.queued > 0

    def _cut(self, parcel: int, node: str) -> None:
        """Collect the results of a parcel by TaskVine, because its direct connection has ended."""
        self._take(parcel, self._core.fleet.address(node), Answer(node, open=True))

    def _take(self, parcel: int, node: str, answer: Answer) -> None:
        """Take the answer of a node, given by its address."""
        if answer.radio:
            self._outlet.radio(list(answer.radio))
        if answer.steps:
            self._outlet.happened([Process(answer.node, *step) for step in answer.steps])
        self._traffic.write_home(parcel, answer.left or {})
        if answer.piece is not None:
            self._fetches.arrived(parcel, answer.piece)
        for name, inode in (answer.files or {}).items():
            self._store.made(name, answer.node, inode)
            self._cycles.made_temp()
        spooled: dict[str, int] = {}
        completions = [self._brought(parcel, Completion(*item), spooled) for item in answer.done]
        info = NodeInfo(*answer.info) if answer.info is not None else None
        self._handle(events.Answered(parcel, node, completions, answer.open, info, spooled or None, answer.libraries))

    def _brought(self, parcel: int, completion: Completion, spooled: dict[str, int]) -> Completion:
        """Store the large result and the output files of a task, unless the task is over already."""
        if completion.number not in self._core.workload.tasks:
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
        if completion.outcome == failure.RETURNED and (record := self._traffic.bring_home(parcel)) is not None:
            completion = completion._replace(outcome=failure.LOST, body=record)
        return completion

    # --- instructions ---

    def _handle(self, event: events.Event) -> None:
        for instruction in self._core.handle(event):
            self.instructions[type(instruction)](instruction)

    def _launch(self, said: events.Launch) -> None:
        held, record = self._core.files, None
        temps = [staged.source for staged in said.inputs if staged.kind == "temp"]
        self._recoveries.see_lost([name for name in temps if not held.temps[name].recoverable])
        if gone := next((name for name in temps if held.temps[name].gone), None):
            record = held.lost_record(gone)
        try:
            if record is None and self._traffic.launch(said):
                self._handle(events.Placed({said.parcel.number: self._core.fleet.address(said.feature)}))
                return
        except OSError as error:  # for example, an input that has just been removed
            record = failure.lost("file-missing", error.strerror or str(error), path=error.filename)
        self._cycles.due = True
        if record is not None:
            self._handle(events.Refused(said.parcel.number, record))

    def _renew(self, said: events.Renew) -> None:
        """Remove a file from all workers: TaskVine cannot be told that only one of them has lost or spoiled it."""
        if said.recoverable:
            logger.warning("a node has lost or spoiled its copy of %s: it is sent again or recreated", said.file)
            self._store.renew(said.file)
        elif said.file in self._core.files.temps and self._store.replicas(said.file) < 2:
            self._handle(events.FilesLost((said.file,)))
        self._cycles.due = True

    def _discard(self, said: events.Discard) -> None:
        payload.discard(said.value)
        if isinstance(said.value, str):
            self._store.tidy_buffers()

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

    def _say_nodes(self, said: events.SayNodes) -> None:
        self._outlet.nodes([node.info._asdict() for node in self._core.fleet.nodes.values() if node.greeted])

    def _dismiss(self, said: events.Dismiss) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(said.pid, signal.SIGTERM)

    def _reinstall(self, said: events.Reinstall) -> None:
        logger.warning("TaskVine has given up the library: it is installed again")
        self._install()

    # --- the end ---

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._cycles.close()
            self._direct.close()
            self._workers.terminate()
            self._entrance.close()

    @property
    def stopped(self) -> bool:
        return self._stopped  # workers end by themselves; kill() ends those on this machine

    def kill(self) -> None:
        for node in self._core.fleet.nodes.values():
            if os.path.isdir(os.path.join(self._base, "nodes", node.name)):
                cleanup.kill_strays(self._base, node.name)
        self._workers.kill()
        self._entrance.kill()
