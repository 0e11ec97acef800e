"""The supervisor's loop on a worker: read parcels, run their tasks in slots and processes, write answers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from taskvine_manager import cleanup, gpu_shares
from taskvine_manager.node import accelerators, hardware, sandboxes, temporary
from taskvine_manager.node.accelerators import Found
from taskvine_manager.node.calls import Call, Ending
from taskvine_manager.node.config import NodeConfig
from taskvine_manager.node.devices import Devices, Gpus
from taskvine_manager.node.loop import Loop, Radio
from taskvine_manager.node.runner import CANCELLED, Runner, Site
from taskvine_manager.node.sandboxes import Sandboxes
from taskvine_manager.runtime import failure, keeper
from taskvine_manager.runtime.payload import Payload, discard
from taskvine_manager.vine import parcels, seals
from taskvine_manager.vine.parcels import Answer, Body, Parcel
from taskvine_manager.vine.seals import Inode
from taskvine_manager.vine.worker import files
from taskvine_manager.vine.worker.direct_link import DirectLink
from taskvine_manager.vine.worker.pipe import FunctionCall
from taskvine_manager.vine.worker.running import Request, RunningParcel
from taskvine_manager.vine.worker.worker import DIRECT, GPUS
from taskvine_manager.vine.worker.worker_link import WorkerLink
from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import L1, Completion, NodeInfo

OF_THE_LIBRARY = (
    "CORES",
    "CORES_LIST",
    "MEMORY",
    "DISK",
    "GPUS",
    "GPUS_LIST",
    "VECLIB_NUM_THREADS",
    GPUS,
    DIRECT,
    temporary.VARIABLE,
)
"""Environment variables that describe the library, which has the whole worker."""


MOST_STEPS = 8
"""Maximum number of steps of processes in one answer, so that most answers stay small."""


class Node:
    """The supervisor of one worker.

    Parameters
    ----------
    options : argparse.Namespace
        The worker's options: pipes, cores, the worker's process id.
    config : NodeConfig
        The executor's configuration for all its nodes.
    """

    def __init__(self, options: Any, config: NodeConfig) -> None:
        keeper.die_with(options.worker_pid, signal.SIGKILL)
        keeper.disregard(signal.SIGINT)
        self.name = os.environ.get(cleanup.TOKEN + "_NODE") or f"{socket.gethostname()}-{options.worker_pid}"
        directory = os.getcwd()
        here = os.path.exists(os.path.join(config.base, "manager.config"))
        # Outside the library's sandbox, for the worker's next supervisor, if there is one.
        environments = os.path.join(os.path.dirname(directory), "environments")
        os.makedirs(environments, mode=0o700, exist_ok=True)
        for name in ("sandboxes", "scratch", "log", "spool", "functions"):
            os.makedirs(os.path.join(directory, name), mode=0o700, exist_ok=True)
        log = os.path.join(directory, "log")
        if here and os.path.isdir(config.log):
            log = os.path.join(config.log, f"node-{self.name}")
            os.makedirs(log, exist_ok=True)
        config = _with_files(config, os.path.join(directory, "functions"))
        # TaskVine gives a library GPUs only if all workers have equally many, so the worker's launcher passes them.
        gpus = _gpus(config.accelerators)
        memories = accelerators.memories(gpus, config.gpu_memory)
        self._devices = Devices(gpus.names, memories)
        described = _describe(self.name, directory, options, config.slots, len(gpus.names))
        self.info = described._replace(gpu_memory=memories)
        self._loop = Loop()
        self._temporary = os.environ.get(temporary.VARIABLE) or temporary.link(os.path.join(directory, "tmp"))
        temporary.empty(self._temporary)
        self._radio = Radio(self._temporary)
        self._said: list[bytes] = []
        self._libraries: tuple[str, ...] | None = None if config.libraries else ()  # as the manager was told
        self._loop.watch(self._radio, self._radio_speaks)
        program = os.path.abspath(sys.argv[0])
        config = config._replace(
            log=log,
            program=program,
            source_root=os.path.dirname(os.path.dirname(program)),
            env_pack=os.path.abspath(parcels.PACK) if os.path.exists(parcels.PACK) else config.env_pack,
        )
        site = Site(
            directory=directory,
            spool=os.path.join(config.base if here else directory, "spool"),
            environments=environments,
            radio=self._radio.path,
            without=OF_THE_LIBRARY,
            temporary=self._temporary,
            copies=os.path.join(directory, "functions"),
        )
        self._runner = Runner(config, self.info, gpus, site, self._loop, self._report, _notice)
        in_place = config.directory is not None
        self._sandboxes = Sandboxes(os.path.join(directory, "sandboxes"), self._loop, in_place=in_place)
        self._is_here = here
        self._running: dict[int, RunningParcel] = {}
        self._parcels: dict[int, RunningParcel] = {}  # by number of a task
        self._handlers: dict[str, Callable[[Request, Parcel], None]] = {
            "hello": self._greet,
            "run": self._run_tasks,
            "collect": self._collect,
            "cancel": self._cancel,
            "retire": self._retire,
            "read": self._read,
        }
        self._worker = WorkerLink(options, self._loop)
        self._loop.watch(self._worker, self._worker_speaks)
        self._direct = DirectLink(self.name, self._loop, self._manager_speaks)
        self._direct.connect(config.base if here else "", os.environ.get(DIRECT, ""), _notice)

    # --- the loop ---

    def run(self) -> None:
        """Serve until the worker closes its pipe."""
        try:
            while not self._loop.leaving:
                self._loop.turn(self._timeout())
                self._runner.look_after()
                self._answer()
        finally:
            self._direct.close()
            self._runner.stop()
            self._loop.close()
            if temporary.VARIABLE not in os.environ:
                temporary.unlink(self._temporary)

    def _timeout(self) -> float | None:
        now = time.monotonic()
        waits = [wait for parcel in self._running.values() if (wait := parcel.wait(now)) is not None]
        return min([*waits, *self._runner.waits()], default=None)

    def _answer(self) -> None:
        """Answer the function calls whose results are due."""
        now = time.monotonic()
        for parcel in list(self._running.values()):
            if parcel.wait(now) == 0.0:
                self._radio_speaks()  # a task's radio messages must arrive before its result
                names = self._runner.libraries
                told = None if names == self._libraries else names
                steps = tuple(map(tuple, self._runner.steps.first(MOST_STEPS)))
                call, answer, status = parcel.answer(self.name, tuple(self._said), told, steps)
                self._runner.steps.sent(len(answer.steps))
                if answer.libraries is not None:
                    self._libraries = names
                if answer.radio:  # else they await a larger answer
                    self._said = []
                if not answer.open:
                    del self._running[parcel.number]
                self._reply(call, answer, status)

    def _radio_speaks(self) -> None:
        self._said += self._radio.received()

    # --- parcels ---

    def _worker_speaks(self) -> None:
        for call, parcel in self._worker.received():
            self._handle(call, parcel)
        self._runner.pump()

    def _manager_speaks(self, call: Request, parcel: Parcel) -> None:
        self._handle(call, parcel)
        self._runner.pump()

    def _handle(self, call: Request, parcel: Parcel) -> None:
        handler = self._handlers.get(parcel.kind)
        if handler is None:
            raise ValueError(f"the manager sent a parcel of an unknown kind: {parcel.kind!r:.100}")
        handler(call, parcel)

    def _reply(self, call: Request, answer: Answer, status: int | None = None) -> None:
        if isinstance(call, FunctionCall):
            self._worker.answer(call, answer, status)
        else:
            self._direct.answer(call, answer)

    def _greet(self, call: Request, parcel: Parcel) -> None:
        self._reply(call, Answer(self.name, info=tuple(self.info)))

    def _cancel(self, call: Request, parcel: Parcel) -> None:
        wanted = set(parcel.numbers)
        for given_up in self._runner.cancel(wanted):
            self._complete(given_up, Ending(failure.LOST, CANCELLED, 0.0, 0.0))
        for number in wanted & self._runner.calls.keys():
            if not self._runner.calls[number].profile.uninterrupted:
                self._runner.calls[number].kill_record = CANCELLED
        self._reply(call, Answer(self.name))

    def _retire(self, call: Request, parcel: Parcel) -> None:
        self._runner.functions.retire([key for key, _ in parcel.functions], parcel.numbers)
        self._reply(call, Answer(self.name))

    def _read(self, call: Request, parcel: Parcel) -> None:
        (name,) = (parcel.staged or {}).values()
        offset, most = parcel.numbers
        path = os.path.join(call.sandbox, name)
        piece = None
        try:
            with open(path, "rb") as file:
                seals.check(path)
                file.seek(offset)
                piece = os.fstat(file.fileno()).st_size, file.read(most)
        except FileNotFoundError:
            pass
        except seals.Cut:
            piece = parcels.CUT
        self._reply(call, Answer(self.name, piece=piece))

    def _collect(self, call: Request, parcel: Parcel) -> None:
        running = self._running.get(parcel.number)
        if running is None:
            self._reply(call, Answer(self.name))
        else:
            running.collect(call, time.monotonic())

    def _run_tasks(self, call: Request, parcel: Parcel) -> None:
        invocations = messages.invocations(parcel.invocations)
        running = RunningParcel(parcel, call, {invocation.number for invocation in invocations})
        self._running[parcel.number] = running
        for key, encoded in parcel.functions:
            if isinstance(encoded, str) and running.has(encoded):
                self._runner.functions.add_copy(key, running.path(encoded))
            else:
                self._runner.functions.add(key, encoded)
        self._runner.functions.add_profiles(parcel.profiles)
        values = parcel.values or {}
        for invocation in invocations:
            arguments = invocation.arguments
            if isinstance(arguments, str) and running.has(arguments):
                invocation = invocation._replace(arguments=running.path(arguments))
            self._parcels[invocation.number] = running
            self._begin(self._runner.take(invocation), running, values)

    # --- tasks ---

    def _begin(self, call: Call, parcel: RunningParcel, values: dict[str, Payload]) -> None:
        record = self._runner.broken or self._refuse(call)
        if record is None and call.invocation.inputs:
            record = files.give_results(call, parcel, values)
        if record is not None:
            self._report(call, failure.LOST, record, 0.0, 0.0)
        elif call.profile.mode == L1 or files.has_files(call):
            self._stage(call, parcel)
        else:
            self._runner.add(call)

    def _refuse(self, call: Call) -> bytes | None:
        """Return the failure record of a task that needs more than the node has."""
        info, (cores, megabytes, gpus) = self.info, call.need
        if (library := call.profile.library) is not None:
            megabytes = library.memory or megabytes
            if library.gpus or library.gpu_memory:
                gpus = Gpus(library.gpus, library.gpu_memory)
        if cores <= info.cores + 1e-9 and megabytes <= info.memory and self._devices.could(gpus):
            return None
        asked = {"cores": cores, "memory": megabytes, "gpus": gpus.amount, "gpu_memory": gpus.memory}
        return failure.lost(
            "unsatisfiable",
            "its node has less than it asks for",
            requested={name: amount for name, amount in asked.items() if amount},
            largest={
                "cores": info.cores,
                "memory": info.memory,
                "gpus": info.gpus,
                **gpu_shares.largest(info.gpu_memory),
            },
        )

    def _stage(self, call: Call, parcel: RunningParcel) -> None:
        self._sandboxes.assign(call)
        record = sandboxes.make(call)
        if record is not None or not files.has_files(call):
            self._staged(call, record)
            return

        def work() -> None:
            record = files.bring_in(call, parcel)
            self._loop.later(lambda: self._staged(call, record))

        self._loop.in_background(work)

    def _staged(self, call: Call, record: bytes | None) -> None:
        record = record or call.kill_record
        if record is not None:
            self._report(call, failure.LOST, record, 0.0, 0.0)
        else:
            self._runner.run(call)

    def _report(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        ending = Ending(outcome, body, started, seconds)
        if call.directory is None or not files.has_files(call):
            self._complete(call, ending)
            return
        parcel = self._parcels[call.invocation.number]

        def work() -> None:
            ended, left = files.bring_out(call, parcel, ending)
            self._loop.later(lambda: self._complete(call, ended, left))

        self._loop.in_background(work)

    def _complete(self, call: Call, ending: Ending, left: dict[str, bytes] | None = None) -> None:
        number = call.invocation.number
        parcel = self._parcels.pop(number, None)
        if parcel is None:
            return
        self._runner.drop(call)
        outcome, body, started, seconds, made = ending
        kept: dict[str, Inode] = {}
        failed = outcome != failure.RETURNED and bool(call.invocation.outputs)
        sent: Any = body
        try:
            if outcome == failure.RETURNED:
                sent, made, kept = files.hand_over(call, parcel, body)
            if isinstance(sent, str) and sent and not self._is_here:
                with open(sent, "rb") as file:
                    sent = Body(file.read())
                discard(str(body))
        except OSError as error:
            outcome, failed = failure.LOST, True
            sent = failure.lost("disk-full", f"no room for the result: {error.strerror}", path=error.filename or "")
        undeclared = self._sandboxes.left(call)
        completion = Completion(number, outcome, sent, self.name, call.dispatched, started, seconds, made, undeclared)
        parcel.end(completion, time.monotonic(), kept, left or {}, failed=failed)
        if call.directory is not None:
            self._sandboxes.remove(call.directory)


def _with_files(config: NodeConfig, directory: str) -> NodeConfig:
    """Return a configuration in which contexts are paths of files that are there."""
    libraries = tuple(
        library
        if library.context_body is None
        else library._replace(
            context=_written(os.path.join(directory, f"context-{library.kind.name}"), library.context_body),
            context_body=None,
        )
        for library in config.libraries
    )
    config = config._replace(libraries=libraries)
    if config.context_body is None:
        return config
    return config._replace(context=_written(os.path.join(directory, "context"), config.context_body), context_body=None)


def _written(path: str, data: bytes) -> str:
    with open(path, "wb") as file:
        file.write(data)
    return path


def _describe(name: str, directory: str, options: Any, slots: int | None, gpus: int) -> NodeInfo:
    """Return the resources of a worker, and where it runs."""
    ours = cleanup.TOKEN + "_NODE" in os.environ
    cores, megabytes = float(options.library_cores), float(os.environ.get("MEMORY", "0"))
    if not ours:
        # Our launcher did not start this worker. A worker that got no limits either would use the whole machine.
        cores = float(hardware.cores()) if cores == os.cpu_count() else cores
        megabytes = 0.0 if megabytes >= int(hardware.machine_memory()) else megabytes
    disk = float(os.environ.get("DISK", "0")) or hardware.disk(directory)
    block = os.environ.get("PARSL_WORKER_BLOCK_ID", "")
    # The launcher, if it is ours, stands for the node: the whole node ends with it.
    pid = int(name.rpartition("-")[2]) if ours else options.worker_pid
    memory = megabytes or hardware.memory()
    return NodeInfo(name, cores, memory, disk, gpus, slots, block, pid, os.path.dirname(directory))


def _gpus(names: Sequence[str]) -> Found:
    """Return the worker's gpus: those with the given names, or those that its launcher has found."""
    kind, is_ours, listed = os.environ.get(GPUS, "").partition(":")
    if not is_ours:
        return accelerators.find(None, names)
    return Found(kind, tuple(names) or tuple(filter(None, listed.split(","))))


def _notice(text: str) -> None:
    sys.stderr.write(f"{text}\n")  # only answers reach the manager
    sys.stderr.flush()
