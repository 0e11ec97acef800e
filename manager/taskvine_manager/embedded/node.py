"""A node of the embedded engine: a process with a cache, cores, memory and gpus of its own.

The node's loop waits for sockets and signals and calls what belongs to them; it runs no user code. Files are moved by
two threads, so that a large copy does not hold up short calls. When the manager goes, the node kills what it runs,
removes its directory, and goes too.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import pickle
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taskvine_manager import messages, sweep
from taskvine_manager.embedded import environment, hardware, memory, staging
from taskvine_manager.embedded.cache import Cache
from taskvine_manager.embedded.oneshots import OneShots
from taskvine_manager.embedded.slots import Call, Resources, SlotPool, with_init
from taskvine_manager.messages import L1, Completion, Invocation, NodeInfo, Profile
from taskvine_manager.runtime import failure
from taskvine_manager.runtime.payload import Payload, discard

HOLD_SECONDS = 0.001
"""Results of short calls wait this long for others, if more are under way, so that they travel together."""


def main(arguments: list[str]) -> None:
    """Parse a node's command line and run it until it is let go."""
    parser = argparse.ArgumentParser(
        prog="taskvine-node", description="A node of a TaskVineExecutor's embedded engine."
    )
    parser.add_argument(sweep.CONNECT, required=True, metavar="DIRECTORY", help="the executor's directory (it logs it)")
    parser.add_argument("--block", default="", help="block that the node belongs to")
    parser.add_argument("--cores", type=float, help="cores to offer (default: what this process may use)")
    parser.add_argument("--memory", type=float, metavar="MB", help="memory to offer (default: the machine's)")
    parser.add_argument("--disk", type=float, metavar="MB", help="space for its cache (default: what is free)")
    parser.add_argument("--gpus", type=int, help="gpus to offer (default: those that it may use)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="ask to leave after so long without work")
    options = parser.parse_args(arguments)
    try:
        with open(os.path.join(options.connect, "node.config"), "rb") as file:
            config = pickle.load(file)
    except OSError as error:
        sys.exit(f"taskvine-node: no executor at {options.connect}: {error.strerror}")
    Node(options, config).run()


class Node:
    """See the module's docstring.

    Parameters
    ----------
    options : argparse.Namespace
        What the command line says of the node itself.
    config : dict
        What the executor says to all its nodes: see :func:`taskvine_exec.startup.write_configs`.
    """

    def __init__(self, options: argparse.Namespace, config: dict[str, Any]) -> None:
        self._options = options
        self._config = config
        self._base = options.connect
        block = f"b{options.block}-" if options.block else ""
        self.name = f"{block}{os.getpid()}"
        self._directory = os.path.join(self._base, "nodes", self.name)
        self._selector = selectors.DefaultSelector()
        self._decoder = messages.Decoder()
        self._outgoing = bytearray()
        self._profiles: dict[int, Profile] = {}
        self._completions: list[Completion] = []
        self._held_since = 0.0
        self._stager = ThreadPoolExecutor(2, thread_name_prefix="staging")
        self._staged: deque[Callable[[], None]] = deque()
        self._calls: dict[int, Call] = {}
        self._limited: set[int] = set()
        self._staging: set[int] = set()
        self._sandboxes = itertools.count()
        self._leaving = False
        self._draining = False
        self._idle_since = time.monotonic()

    # --- beginning and end ---

    def run(self) -> None:
        """Serve the manager until it lets the node go, or is gone itself."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.environ[sweep.TOKEN] = self._base
        os.environ[sweep.TOKEN + "_NODE"] = self.name
        if self._options.block:
            os.environ["PARSL_WORKER_BLOCK_ID"] = self._options.block
        try:
            self._set_up()
            self._loop()
            self._take_leave()
        finally:
            self._tear_down()

    def _set_up(self) -> None:
        config = self._config
        for name in ("cache", "sandboxes", "scratch", "environments"):
            os.makedirs(os.path.join(self._directory, name), mode=0o700)
        log = os.path.join(config["log"], f"node-{self.name}")
        os.makedirs(log, exist_ok=True)
        options = self._options
        gpus = hardware.gpus()
        if options.gpus is not None:
            gpus = (gpus + [str(number) for number in range(options.gpus) if str(number) not in gpus])[: options.gpus]
        cores = options.cores or float(hardware.cores())
        megabytes = options.memory or hardware.memory()
        disk = options.disk or hardware.disk(self._directory)
        self._info = NodeInfo(
            self.name, cores, megabytes, disk, len(gpus), config["slots"], options.block, os.getpid(), self._directory
        )
        self._cache = Cache(os.path.join(self._directory, "cache"), disk * 2**20)
        self._resources = Resources(cores, megabytes, gpus)
        self._open_wakeup()
        self._open_radio()
        self._start_runtime(log, bool(gpus))
        self._connect()

    def _start_runtime(self, log: str, has_gpus: bool) -> None:
        config, info = self._config, self._info
        slot_cores = info.cores / config["slots"] if config["slots"] else min(1.0, info.cores)
        base = {**os.environ, "TASKVINE_EXEC_RADIO": self._radio_path}
        if config["env_pack"] is None:  # an installed source root is a site-packages, and would go before a pack's own
            base["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), config["source_root"]]))
        self._broken: bytes | None = None
        python = sys.executable
        try:
            python = environment.interpreter(config["env_pack"], os.path.join(self._directory, "environments"))
        except environment.EnvironmentBroken as error:
            self._broken = failure.lost("environment", str(error))
        base = environment.activated(config["env_pack"], python, base)
        command = [python, config["program"]]
        runtime = {
            "log": log,
            "spool": os.path.join(self._base, "spool"),
            "inline_limit": config["inline_limit"],
            "scratch": os.path.join(self._directory, "scratch"),
            "sys_path": config["sys_path"],
            "context": config["context"],
            "context_scope": config["context_scope"],
            "has_gpus": has_gpus,
            "slot_cores": slot_cores,
            "env_vars": config["env_vars"],
        }
        slots_environment = {**base, **hardware.thread_limits(slot_cores), **config["env_vars"]}
        self._slots = SlotPool(
            with_init(config["init_command"], [*command, "library"]),
            slots_environment,
            runtime,
            self._resources,
            self._report,
            self._watch,
            self._unwatch,
        )
        self._oneshots = OneShots(
            [*command, "task"],
            config["init_command"],
            {**base, **config["env_vars"]},
            runtime,
            self._resources,
            self._report,
        )
        if config["serverless"] and self._broken is None:
            self._slots.start()

    def _open_wakeup(self) -> None:
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_leaving", True))
        self._watch(self._wake, self._woken)

    def _open_radio(self) -> None:
        self._radio_path = os.path.join(self._directory, "radio")
        self._radio = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._radio.bind(self._radio_path)
        self._radio.setblocking(False)
        self._watch(self._radio, self._relay)

    def _connect(self) -> None:
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._manager.connect(os.path.join(self._base, "manager.sock"))
        self._manager.setblocking(False)
        self._watch(self._manager, self._manager_speaks)
        self._send("hello", self._info)

    def _take_leave(self) -> None:
        if self._completions:
            self._send("done", self._completions)
        self._send("leaving")

    def _tear_down(self) -> None:
        for part in ("_slots", "_oneshots"):
            if hasattr(self, part):
                getattr(self, part).stop()
        self._stager.shutdown(wait=True, cancel_futures=True)
        staging.remove(self._directory)
        if hasattr(self, "_manager"):
            self._manager.close()

    # --- the loop ---

    def _loop(self) -> None:
        while not self._leaving:
            for key, _ in self._selector.select(self._timeout()):
                key.data()
            self._tick()
            self._flush()

    def _timeout(self) -> float | None:
        waits = []
        if self._completions:
            waits.append(max(0.0, HOLD_SECONDS - (time.monotonic() - self._held_since)))
        if self._watch_slots:
            waits.append(0.010)
        if self._limited:
            waits.append(memory.INTERVAL)
        if self._options.timeout:
            waits.append(1.0)
        return min(waits, default=None)

    _watch_slots = False
    _memory_looked = 0.0

    def _tick(self) -> None:
        self._watch_slots = self._slots.rebalance()
        self._oneshots.pump()  # slots may have given back what it waits for
        now = time.monotonic()
        if self._limited and now - self._memory_looked >= memory.INTERVAL:
            self._memory_looked = now
            memory.enforce([*self._slots.running(), *self._oneshots.running()])
        if self._options.timeout and not self._calls and now - self._idle_since > self._options.timeout:
            self._idle_since = now
            self._send("idle")

    def _watch(self, channel: socket.socket, callback: Callable[[], None]) -> None:
        self._selector.register(channel, selectors.EVENT_READ, callback)

    def _unwatch(self, channel: socket.socket) -> None:
        self._selector.unregister(channel)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
        while self._staged:
            self._staged.popleft()()
        self._oneshots.reap()

    def _later(self, action: Callable[[], None]) -> None:
        """Have the loop do something; callable from the staging threads."""
        self._staged.append(action)
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"s")

    # --- the manager ---

    def _manager_speaks(self) -> None:
        try:
            data = self._manager.recv(1 << 20)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._leaving = True
            return
        for message in self._decoder.feed(data):
            getattr(self, f"_on_{message[0]}")(*message[1:])

    def _send(self, *message: Any) -> None:
        self._outgoing += messages.encode(*message)
        self._push()

    def _push(self) -> None:
        try:
            while self._outgoing:
                sent = self._manager.send(self._outgoing)
                del self._outgoing[:sent]
            events = selectors.EVENT_READ
        except BlockingIOError:
            events = selectors.EVENT_READ | selectors.EVENT_WRITE
        except (BrokenPipeError, ConnectionResetError):
            self._leaving = True
            return
        if self._selector.get_key(self._manager).events != events:
            callback = self._manager_speaks if events == selectors.EVENT_READ else self._manager_ready
            self._selector.modify(self._manager, events, callback)

    def _manager_ready(self) -> None:
        self._manager_speaks()
        if not self._leaving:
            self._push()

    def _on_run(
        self,
        functions: tuple[tuple[str, Payload], ...],
        profiles: tuple[tuple[Any, ...], ...],
        invocations: tuple[tuple[Any, ...], ...],
        sources: dict[str, str],
        values: dict[str, bytes],
    ) -> None:
        for key, encoded in functions:
            self._slots.add_function(key, encoded)
            self._oneshots.add_function(key, encoded)
        for item in profiles:
            profile = Profile(*item)
            self._profiles[profile.number] = profile
        for invocation in messages.invocations(invocations):
            profile = self._profiles[invocation.profile]
            call = Call(invocation, profile, self._need(profile))
            self._calls[invocation.number] = call
            if profile.memory is not None:
                self._limited.add(invocation.number)
            if self._broken is not None:
                self._report(call, failure.LOST, self._broken, 0.0, 0.0)
            elif profile.mode == L1 or not self._has_values(call, values):
                self._stage(call, sources, values)
            else:
                self._slots.add(call)
        self._slots.pump()

    def _need(self, profile: Profile) -> tuple[float, float, int]:
        cores = profile.cores
        if cores is None:
            slots = self._config["slots"] if profile.mode != L1 else None
            cores = self._info.cores / slots if slots else min(1.0, self._info.cores)
        return (cores, profile.memory or 0.0, profile.gpus or 0)

    def _on_fetch(self, file: str, source: str) -> None:
        def fetch() -> None:
            try:
                size, problem = self._cache.fetch(file, source), None
            except OSError as error:
                size, problem = 0, str(error)
            self._later(lambda: self._send("cached", file, size, problem))

        self._stager.submit(fetch)

    def _on_drop(self, files: tuple[str, ...]) -> None:
        for file in files:
            self._cache.drop(file)

    def _on_cancel(self, numbers: tuple[int, ...]) -> None:
        record = failure.lost("cancelled", "cancelled while it ran")
        wanted = set(numbers)
        for call in [*self._slots.cancel(wanted, record), *self._oneshots.cancel(wanted, record)]:
            self._clear(call)
        for number in wanted & self._staging:
            self._calls[number].kill_record = record

    def _on_drain(self) -> None:
        self._draining = True
        given = [*self._slots.hand_back(), *self._oneshots.hand_back()]
        for call in given:
            self._clear(call)
        self._send("returned", [call.invocation.number for call in given])

    def _on_exit(self) -> None:
        self._leaving = True

    # --- files ---

    def _has_values(self, call: Call, values: dict[str, bytes]) -> bool:
        """Whether a call needs no staging: it has to do with results only, and those that it reads are here."""
        invocation = call.invocation
        if not invocation.inputs:
            return all(use.kind == "value" for use in invocation.outputs)
        if any(use.kind != "value" for use in (*invocation.inputs, *invocation.outputs)):
            return False
        if any(use.source not in values and use.source not in self._cache for use in invocation.inputs):
            return False
        self._give_values(call, values)
        return True

    def _give_values(self, call: Call, values: dict[str, bytes]) -> None:
        for use in call.invocation.inputs:
            if use.kind == "value":
                inline = values.get(use.source)
                call.values[use.source] = self._cache.path(use.source) if inline is None else inline

    def _stage(self, call: Call, sources: dict[str, str], values: dict[str, bytes]) -> None:
        number = call.invocation.number
        self._staging.add(number)
        # Of its own each time: one that was given back may return while what it left is still being removed.
        call.directory = os.path.join(self._directory, "sandboxes", f"t{number}-{next(self._sandboxes)}")
        if not call.invocation.inputs and not call.invocation.outputs:
            self._make_sandbox(call)  # cheap enough to do here
            self._staged_in(call, None)
            return

        def stage() -> None:
            record = None
            try:
                self._make_sandbox(call)
                sandbox = os.path.join(str(call.directory), "sandbox")
                invocation = call.invocation
                files = [use for use in invocation.inputs if use.source not in values]
                try:
                    staging.bring_in(files, invocation.outputs, sandbox, self._cache, sources)
                finally:  # some may have come when another could not be had
                    self._later(lambda: self._say_fetched(invocation, sources))
                self._give_values(call, values)
            except staging.StagingFailed as error:
                record = error.record
            except OSError as error:
                record = failure.lost("disk-full", f"no sandbox can be made: {error}", path=str(call.directory))
            self._later(lambda: self._staged_in(call, record))

        self._stager.submit(stage)

    def _say_fetched(self, invocation: Invocation, sources: dict[str, str]) -> None:
        """What was fetched for a task is a replica like any other."""
        for use in invocation.inputs:
            if use.kind != "local" and use.source in sources and use.source in self._cache:
                self._send("cached", use.source, os.path.getsize(self._cache.path(use.source)), None)

    def _make_sandbox(self, call: Call) -> None:
        os.makedirs(os.path.join(str(call.directory), "sandbox"), mode=0o700)

    def _staged_in(self, call: Call, record: bytes | None) -> None:
        self._staging.discard(call.invocation.number)
        record = record or call.kill_record
        if record is not None:
            self._report(call, failure.LOST, record, 0.0, 0.0)
        elif self._draining:
            self._clear(call)
            self._send("returned", [call.invocation.number])
        elif call.profile.mode == L1:
            self._oneshots.pending.append(call)
            self._oneshots.pump()
        else:
            self._slots.add(call)
            self._slots.pump()

    # --- results ---

    def _report(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        if self._leaving and outcome == failure.LOST:
            return  # told to go by a signal, and so were the processes of its group: another node may try these
        made: tuple[tuple[str, int], ...] = ()
        if outcome == failure.RETURNED and isinstance(body, str) and call.invocation.outputs:
            outcome, body, made = self._keep(call, body)
        if call.directory is not None and any(use.kind != "value" for use in call.invocation.outputs):
            self._stager.submit(self._bring_out, call, outcome, body, started, seconds, made)
        else:
            self._complete(call, outcome, body, started, seconds, made)

    def _keep(self, call: Call, path: str) -> tuple[int, Payload, tuple[tuple[str, int], ...]]:
        """Keep a large result that others may read in the cache."""
        kept = path
        made = []
        for use in call.invocation.outputs:
            if use.kind == "value":
                try:
                    made.append((use.source, self._cache.adopt(use.source, path)))
                except OSError as error:
                    discard(path)
                    reason = f"no room for the result: {error.strerror or error}"
                    return failure.LOST, failure.lost("disk-full", reason, path=error.filename or path), ()
                kept = self._cache.path(use.source)
        return failure.RETURNED, kept, tuple(made)

    def _bring_out(
        self,
        call: Call,
        outcome: int,
        body: Payload,
        started: float,
        seconds: float,
        kept: tuple[tuple[str, int], ...],
    ) -> None:
        sandbox = os.path.join(str(call.directory), "sandbox")
        required = outcome == failure.RETURNED
        made, record = staging.bring_out(call.invocation.outputs, sandbox, self._cache, required=required)
        if record is not None and required:
            for file, _ in kept:  # nor may anybody read its result
                self._cache.drop(file)
            outcome, body, kept = failure.LOST, record, ()
        self._later(lambda: self._complete(call, outcome, body, started, seconds, (*kept, *made)))

    def _complete(
        self,
        call: Call,
        outcome: int,
        body: Payload,
        started: float,
        seconds: float,
        made: tuple[tuple[str, int], ...],
    ) -> None:
        self._relay()  # what a task said on the radio arrives before its result
        if not self._completions:
            self._held_since = time.monotonic()
        number = call.invocation.number
        self._completions.append(Completion(number, outcome, body, self.name, call.dispatched, started, seconds, made))
        self._clear(call)

    def _clear(self, call: Call) -> None:
        self._calls.pop(call.invocation.number, None)
        self._limited.discard(call.invocation.number)
        if call.directory is not None:
            self._stager.submit(staging.remove, call.directory)
        if not self._calls:
            self._idle_since = time.monotonic()

    def _flush(self) -> None:
        if not self._completions:
            return
        if len(self._calls) > 2 and len(self._completions) < 64 and time.monotonic() - self._held_since < HOLD_SECONDS:
            return
        completions, self._completions = self._completions, []
        self._send("done", completions)

    def _relay(self) -> None:
        said = []
        with contextlib.suppress(BlockingIOError):
            while True:
                said.append(self._radio.recv(1 << 20))
        if said:
            self._send("radio", said)


__all__ = ["Node", "main"]
