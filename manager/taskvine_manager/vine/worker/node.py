"""The supervisor's loop on a worker: read parcels, run their tasks in slots and processes, write answers."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pickle
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from taskvine_manager import cleanup
from taskvine_manager.node import hardware, staging, temporary, trees
from taskvine_manager.node.cache import copy, deliver
from taskvine_manager.node.config import NodeConfig
from taskvine_manager.node.runner import Runner
from taskvine_manager.node.slots import Call
from taskvine_manager.runtime import failure, keeper
from taskvine_manager.runtime.payload import Payload, discard
from taskvine_manager.runtime.removal import remove
from taskvine_manager.vine import parcels, seals
from taskvine_manager.vine.parcels import Answer, Body, Parcel
from taskvine_manager.vine.worker import pipe
from taskvine_manager.vine.worker.worker import GPUS
from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import L1, Completion, FileUse, Invocation, NodeInfo, Profile

OF_THE_LIBRARY = (
    "CORES",
    "CORES_LIST",
    "MEMORY",
    "DISK",
    "GPUS",
    "GPUS_LIST",
    "VECLIB_NUM_THREADS",
    GPUS,
    temporary.VARIABLE,
)
"""Environment variables that describe the library, which has the whole worker."""
PATIENCE = 0.020
"""Seconds that a result waits for the others of its parcel before it is sent without them."""


class Load:
    """A parcel of tasks in progress.

    ``call`` is the function call that waits for an answer, if there is one at the moment.
    """

    def __init__(self, number: int, call: pipe.FunctionCall) -> None:
        self.number = number
        self.call: pipe.FunctionCall | None = call
        self.sandbox = call.sandbox
        self.staged: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.open: set[int] = set()
        self.done: list[Completion] = []
        self.files: dict[str, tuple[int, int, int, int]] = {}
        self.left: dict[str, bytes] = {}
        self.since = 0.0
        self.status = 0
        self.brief = False

    @property
    def has_outputs(self) -> bool:
        """Whether TaskVine expects output files of it."""
        return any(name.startswith(">") for name in self.staged)


class Node(Runner):
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
        super().__init__(config, os.getcwd())
        self._options = options
        self.name = os.environ.get(cleanup.TOKEN + "_NODE") or f"{socket.gethostname()}-{options.worker_pid}"
        self._here = config.base if os.path.exists(os.path.join(config.base, "manager.config")) else None
        self._reader = pipe.CallReader()
        self._loads: dict[int, Load] = {}
        self._calls: dict[int, tuple[Call, Load]] = {}
        self._functions: set[str] = set()
        self._sandboxes = itertools.count()
        self._said: list[bytes] = []
        self._set_up()

    def _set_up(self) -> None:
        config = self._config
        # Outside the library's sandbox, for the worker's next supervisor, if there is one.
        self._environments = os.path.join(os.path.dirname(self._directory), "environments")
        os.makedirs(self._environments, mode=0o700, exist_ok=True)
        for name in ("sandboxes", "scratch", "log", "spool", "functions"):
            os.makedirs(os.path.join(self._directory, name), mode=0o700, exist_ok=True)
        self._spool = os.path.join(self._here, "spool") if self._here else os.path.join(self._directory, "spool")
        log = os.path.join(self._directory, "log")
        if self._here and os.path.isdir(config.log):
            log = os.path.join(config.log, f"node-{self.name}")
            os.makedirs(log, exist_ok=True)
        if config.context_body is not None:
            kept = os.path.join(self._directory, "functions", "context")
            with open(kept, "wb") as file:
                file.write(config.context_body)
            self._config = config = replace(config, context=kept, context_body=None)
        # TaskVine gives a library GPUs only if all workers have equally many, so the worker's launcher passes them.
        gpus = [gpu for gpu in os.environ.get(GPUS, ",".join(hardware.gpus())).split(",") if gpu]
        cores, megabytes = float(self._options.library_cores), float(os.environ.get("MEMORY", "0"))
        if cleanup.TOKEN + "_NODE" not in os.environ:
            # Our launcher did not start this worker. A worker that got no limits either would use the whole machine.
            cores = float(hardware.cores()) if cores == os.cpu_count() else cores
            megabytes = 0.0 if megabytes >= int(hardware.machine_memory()) else megabytes
        megabytes = megabytes or hardware.memory()
        disk = float(os.environ.get("DISK", "0")) or hardware.disk(self._directory)
        block = os.environ.get("PARSL_WORKER_BLOCK_ID", "")
        # The launcher, if it is ours, stands for the node: the whole node ends with it.
        pid = int(self.name.rpartition("-")[2]) if cleanup.TOKEN + "_NODE" in os.environ else self._options.worker_pid
        self.info = NodeInfo(
            self.name, cores, megabytes, disk, len(gpus), config.slots, block, pid, os.path.dirname(self._directory)
        )
        self._open_wakeup()
        self._temporary = os.environ.get(temporary.VARIABLE) or temporary.link(os.path.join(self._directory, "tmp"))
        temporary.empty(self._temporary)
        self._open_radio(self._temporary)
        program = os.path.abspath(sys.argv[0])
        self._start_runtime(
            self.info,
            gpus,
            log=log,
            spool=self._spool,
            program=program,
            root=os.path.dirname(os.path.dirname(program)),
            pack=os.path.abspath(parcels.PACK) if os.path.exists(parcels.PACK) else config.env_pack,
            environments=self._environments,
            without=OF_THE_LIBRARY,
            temporary=self._temporary,
        )
        os.set_blocking(self._options.in_pipe_fd, False)
        self._watch(self._options.in_pipe_fd, self._worker_speaks)

    # --- the loop ---

    def run(self) -> None:
        """Serve until the worker closes its pipe."""
        try:
            while not self._leaving:
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._tick()
        finally:
            self._stop_runtime()
            if temporary.VARIABLE not in os.environ:
                temporary.unlink(self._temporary)

    def _timeout(self) -> float | None:
        waits = self._waits()
        oldest = min(
            (load.since for load in self._loads.values() if load.done and load.call and not load.staged), default=None
        )
        if oldest is not None:
            waits.append(max(0.0, PATIENCE - (time.monotonic() - oldest)))
        return min(waits, default=None)

    def _tick(self) -> None:
        self._look_after()
        now = time.monotonic()
        for load in [load for load in self._loads.values() if load.call is not None]:
            # An answer ends the function call, which removes the sandbox and its staged files.
            if not load.open or (load.done and not load.staged and now - load.since >= PATIENCE):
                self._answer(load)

    def _notice(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")  # only answers reach the manager
        sys.stderr.flush()

    def _radio_speaks(self) -> None:
        self._said += self._overheard()

    # --- the worker ---

    def _worker_speaks(self) -> None:
        try:
            data = os.read(self._options.in_pipe_fd, 1 << 20)
        except BlockingIOError:
            return
        if not data:
            self._leaving = True
            return
        for call in self._reader.feed(data):
            try:
                parcel = parcels.unpack(call.command, call.sandbox)
            except FileNotFoundError:  # cancelled: the worker has removed its sandbox
                self._end(call, 1)
                continue
            getattr(self, f"_on_{parcel.kind}")(call, parcel)
        self._slots.pump()

    def _end(self, call: pipe.FunctionCall, status: int) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._options.out_pipe_fd, pipe.ended(call.task, status))
        try:
            os.kill(self._options.worker_pid, signal.SIGCHLD)  # otherwise it reads the pipe once in five seconds
        except ProcessLookupError:
            self._leaving = True

    def _say(self, call: pipe.FunctionCall, answer: Answer, status: int | None = None) -> None:
        """Answer a function call; if it has output files, its status says whether they are there."""
        data, is_output = parcels.to_output(answer) if status is None else (pickle.dumps(tuple(answer), 5), False)
        if status is None:  # TaskVine fetches the answer's file only if the call failed
            status = 0 if is_output else 1
        # A cancelled call has no sandbox any more.
        path = call.output if is_output else os.path.join(call.sandbox, parcels.OUT)
        with contextlib.suppress(FileNotFoundError), open(path, "wb") as file:
            file.write(data)
        self._end(call, status)

    def _answer(self, load: Load) -> None:
        call, load.call = load.call, None
        assert call is not None
        self._radio_speaks()  # a task's radio messages must arrive before its result
        answer = Answer(
            self.name,
            tuple(load.done),
            bool(load.open),
            radio=tuple(self._said),
            files=load.files or None,
            left=load.left or None,
        )
        if load.brief and not parcels.to_output(answer)[1]:
            load.brief = False
            self._say(call, Answer(self.name, open=True))
            return
        self._said = []
        load.done = []
        load.files, load.left = {}, {}
        if not load.open:
            del self._loads[load.number]
        self._say(call, answer, load.status if load.has_outputs else None)

    # --- parcels ---

    def _on_hello(self, call: pipe.FunctionCall, parcel: Parcel) -> None:
        self._say(call, Answer(self.name, info=tuple(self.info)))

    def _on_cancel(self, call: pipe.FunctionCall, parcel: Parcel) -> None:
        record = failure.lost("cancelled", "cancelled while it ran")
        wanted = set(parcel.numbers)
        for given_up in [*self._slots.cancel(wanted, record), *self._oneshots.cancel(wanted, record)]:
            self._complete(given_up, failure.LOST, record, 0.0, 0.0)
        for number in wanted & self._calls.keys():
            self._calls[number][0].kill_record = record
        self._say(call, Answer(self.name))

    def _on_retire(self, call: pipe.FunctionCall, parcel: Parcel) -> None:
        self._retire([key for key, _ in parcel.functions], parcel.numbers)
        self._say(call, Answer(self.name))

    def _live(self) -> Iterable[Call]:
        return [call for call, _ in self._calls.values()]

    def _forget_functions(self) -> None:
        before = self._retired.copy()
        super()._forget_functions()
        for key in before - self._retired:
            self._functions.discard(key)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self._directory, "functions", key))

    def _on_read(self, call: pipe.FunctionCall, parcel: Parcel) -> None:
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
        self._say(call, Answer(self.name, piece=piece))

    def _on_collect(self, call: pipe.FunctionCall, parcel: Parcel) -> None:
        load = self._loads.get(parcel.number)
        if load is None:
            self._say(call, Answer(self.name))
            return
        load.call = call
        load.since = time.monotonic()

    def _on_run(self, call: pipe.FunctionCall, parcel: Parcel) -> None:
        load = self._loads[parcel.number] = Load(parcel.number, call)
        load.staged = parcel.staged or {}
        load.sizes = parcel.sizes or {}
        load.brief = parcel.brief
        values = parcel.values or {}
        for key, encoded in parcel.functions:
            self._add_function(key, encoded, load)
        for item in parcel.profiles:
            profile = Profile(*item)
            self._profiles[profile.number] = profile
        for invocation in messages.invocations(parcel.invocations):
            profile = self._profiles[invocation.profile]
            staged = load.staged.get(invocation.arguments) if isinstance(invocation.arguments, str) else None
            if staged is not None:
                invocation = invocation._replace(arguments=os.path.join(load.sandbox, staged))
            begun = Call(invocation, profile, self._need(profile))
            self._calls[invocation.number] = (begun, load)
            load.open.add(invocation.number)
            self._begin(begun, load, values)

    def _add_function(self, key: str, encoded: Payload, load: Load) -> None:
        self._retired.discard(key)
        if key in self._functions:
            return
        if isinstance(encoded, str) and encoded in load.staged:
            kept = os.path.join(self._directory, "functions", key)
            shutil.copyfile(os.path.join(load.sandbox, load.staged[encoded]), kept)
            encoded = kept
        self._functions.add(key)
        self._slots.add_function(key, encoded)
        self._oneshots.add_function(key, encoded)

    def _begin(self, call: Call, load: Load, values: dict[str, Payload]) -> None:
        info, (cores, megabytes, gpus) = self.info, call.need
        if self._broken is not None:
            self._report(call, failure.LOST, self._broken, 0.0, 0.0)
        elif cores > info.cores + 1e-9 or megabytes > info.memory or gpus > info.gpus:
            asked = {"cores": cores, "memory": megabytes, "gpus": gpus}
            has = {"cores": info.cores, "memory": info.memory, "gpus": info.gpus}
            asked = {name: amount for name, amount in asked.items() if amount}
            record = failure.lost("unsatisfiable", "its node has less than it asks for", requested=asked, largest=has)
            self._report(call, failure.LOST, record, 0.0, 0.0)
        else:
            if call.profile.memory is not None:
                self._limited.add(call.invocation.number)
            record = None
            for use in call.invocation.inputs:
                if use.kind == "value":
                    inline = values.get(use.source)
                    call.values[use.source] = self._staged(load, use) if inline is None else inline
                    if inline is None:
                        record = record or _attempt(use, partial(seals.check, self._staged(load, use)))
            if record is not None:
                self._report(call, failure.LOST, record, 0.0, 0.0)
            elif call.profile.mode != L1 and not _files(call.invocation):
                self._slots.add(call)
            else:
                self._stage(call, load)

    # --- files ---

    def _staged(self, load: Load, use: FileUse, prefix: str = "") -> str:
        return os.path.join(load.sandbox, load.staged[prefix + use.source])

    def _stage(self, call: Call, load: Load) -> None:
        number = call.invocation.number
        call.directory = os.path.join(self._directory, "sandboxes", f"t{number}-{next(self._sandboxes)}")
        sandbox = os.path.join(call.directory, "sandbox")
        try:
            os.makedirs(sandbox, mode=0o700)
        except OSError as error:
            reason = f"no sandbox can be made: {failure.describe(error)}"
            self._staged_in(call, failure.lost("disk-full", reason, path=call.directory))
            return
        if not _files(call.invocation):
            self._staged_in(call, None)
            return

        def stage() -> None:
            record = None
            for use in call.invocation.inputs:
                if use.kind != "value":
                    record = record or _attempt(use, partial(self._bring_in, load, use, sandbox))
            for use in call.invocation.outputs:
                if use.kind != "value":
                    try:
                        staging.prepare(sandbox, use)
                    except Exception as error:
                        record = record or staging.explain_output(use, error)
            self._later(lambda: self._staged_in(call, record))

        self._in_background(stage)

    def _bring_in(self, load: Load, use: FileUse, sandbox: str) -> None:
        # Copy the file, sharing extents where possible: TaskVine has put a link into its cache there.
        staged, target = self._staged(load, use), staging.inside(sandbox, use.name)
        if use.kind == "temp":
            deliver(staged, target, seals.check(staged))
            return
        if os.path.getsize(staged) < load.sizes.get(use.source, 0):
            raise seals.Cut(errno.EIO, "it was cut short on its node", staged)
        deliver(staged, target)

    def _staged_in(self, call: Call, record: bytes | None) -> None:
        record = record or call.kill_record
        if record is not None:
            self._report(call, failure.LOST, record, 0.0, 0.0)
        elif call.profile.mode == L1:
            self._oneshots.pending.append(call)
            self._oneshots.pump()
        else:
            self._slots.add(call)
            self._slots.pump()

    # --- results ---

    def _report(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        if call.directory is not None and _files(call.invocation):
            self._in_background(self._bring_out, call, outcome, body, started, seconds)
        else:
            self._complete(call, outcome, body, started, seconds)

    def _bring_out(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        """Move a task's outputs to where TaskVine takes them."""
        _, load = self._calls[call.invocation.number]
        sandbox = os.path.join(str(call.directory), "sandbox")
        made: list[tuple[str, str]] = []
        record = None
        for use in call.invocation.outputs:
            if use.kind == "value":
                continue
            path = os.path.join(sandbox, use.name)
            try:
                if use.stream and not os.path.exists(path):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    open(path, "xb").close()
                if not os.path.exists(path):
                    raise FileNotFoundError(errno.ENOENT, "the task ended without it", use.name)
                made.append((path, self._staged(load, use, ">")))
            except Exception as error:
                record = record or failure.lost("output-missing", staging.words(error), path=use.name)
        if outcome == failure.RETURNED and record is not None:
            discard(body)
            outcome, body = failure.LOST, record
        if outcome == failure.RETURNED:
            for path, target in made:
                try:
                    _take_out(path, target, sandbox)
                except Exception as error:
                    discard(body)
                    outcome, body = failure.LOST, _output_record(path, error)
                    break
        if outcome != failure.RETURNED:
            for use in call.invocation.outputs:
                if use.kind == "local":
                    with contextlib.suppress(Exception):  # the task has failed anyway
                        load.left[use.source] = _content(os.path.join(sandbox, use.name), sandbox)
        self._later(lambda: self._complete(call, outcome, body, started, seconds))

    def _complete(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        number = call.invocation.number
        known = self._calls.pop(number, None)
        if known is None:
            return
        _, load = known
        self._limited.discard(number)
        made: tuple[tuple[str, int, int], ...] = ()
        sent: Any = body
        try:
            if outcome == failure.RETURNED:
                sent, made = self._keep(call, load, body)
            elif call.invocation.outputs:
                load.status = 1  # TaskVine must not look for missing outputs
            if isinstance(sent, str) and sent and self._here is None:
                with open(sent, "rb") as file:
                    sent = Body(file.read())
                discard(str(body))
        except OSError as error:
            outcome, load.status = failure.LOST, 1
            sent = failure.lost("disk-full", f"no room for the result: {error.strerror}", path=error.filename or "")
        load.open.discard(number)
        if not load.done:
            load.since = time.monotonic()
        left = self._left(call)
        load.done.append(Completion(number, outcome, sent, self.name, call.dispatched, started, seconds, made, left))
        if call.directory is not None:
            self._in_background(remove, call.directory)

    def _keep(self, call: Call, load: Load, body: Payload) -> tuple[Payload, tuple[tuple[str, int, int], ...]]:
        """Hand temp files, and a large result that other tasks may read, to TaskVine.

        They have no stamp yet, because TaskVine will move them.
        """
        made = []
        for use in call.invocation.outputs:
            staged = load.staged.get(">" + use.source)
            if staged is None:
                continue  # a result that was expected to be small
            path = os.path.join(load.sandbox, staged)
            if use.kind == "value":
                if not isinstance(body, str):
                    open(path, "wb").close()
                    continue
                shutil.move(body, path)
                body = ""
            if use.kind != "local":
                made.append((use.source, seals.seal(path), 0))
                status = os.stat(path)
                load.files[use.source] = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        return body, tuple(made)


def _files(invocation: Invocation) -> bool:
    """Return whether a task reads or writes files other than results."""
    return any(use.kind != "value" for use in (*invocation.inputs, *invocation.outputs))


def _take_out(path: str, target: str, sandbox: str) -> None:
    """Move an output to where TaskVine takes it; pack a directory into an archive."""
    trees.survey(path, sandbox)  # raises if it cannot be staged
    if trees.must_pack(path):
        trees.pack(path, target, sandbox)
    elif os.path.islink(path) or os.stat(path).st_nlink > 1:  # its bytes may have another name, too
        copy(path, target)
    else:
        shutil.move(path, target)


def _content(path: str, sandbox: str) -> bytes:
    """Return the content of an output; of a directory, its archive."""
    trees.survey(path, sandbox)
    if trees.must_pack(path):
        archive = f"{sandbox}.archive"
        trees.pack(path, archive, sandbox)
        path = archive
    with open(path, "rb") as file:
        return file.read()


def _output_record(path: str, error: Exception) -> bytes:
    words, name = staging.words(error), os.path.basename(path)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return failure.lost("disk-full", f"no room for {name}: {words}", path=error.filename or name)
    return failure.lost("output-missing", words, path=name)


def _attempt(use: FileUse, action: Callable[[], Any]) -> bytes | None:
    """Run an action on a file; return the failure record if it fails."""
    try:
        action()
    except Exception as error:
        words = staging.words(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return failure.lost("disk-full", f"no room for {use.name}: {words}", path=error.filename or use.name)
        if isinstance(error, seals.Cut):
            return failure.lost("file-lost", f"{use.name or use.source}: {words}", name=use.source)
        return failure.lost("file-missing", words, path=use.source)
    return None
