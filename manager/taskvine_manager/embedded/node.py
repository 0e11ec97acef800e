"""A node of the embedded engine: a process that offers a cache, cores, memory and gpus.

The node's loop waits for sockets and signals, and calls their handlers; it runs no user code. Two threads move files,
so that a large copy does not delay short tasks. When the manager ends, the node kills its tasks, removes its directory,
and ends too.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import pickle
import signal
import socket
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from taskvine_manager import cleanup
from taskvine_manager.node import hardware, staging, trees
from taskvine_manager.node.cache import Cache, Peer, QuotaExceeded, Source, Spoiled, is_lost, release
from taskvine_manager.node.config import NodeConfig
from taskvine_manager.node.runner import Runner
from taskvine_manager.node.slots import Call
from taskvine_manager.runtime import failure, keeper
from taskvine_manager.runtime.payload import Payload, discard
from taskvine_manager.runtime.removal import remove
from taskvine_manager.wire import messages
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import L1, Completion, Invocation, NodeInfo, Profile

HOLD_SECONDS = 0.001
"""Seconds that results wait so that several travel in one message, while more tasks are running. If these are many,
results wait up to :data:`HOLD_MOST` times as long."""
HOLD_MOST = 5
USER_SECONDS = 0.5
"""Seconds that a node whose manager was killed waits for the user's process, which may be ending too."""
RECENT = 256
"""Small results that are kept. The manager sends tasks behind those that make their inputs, and some arrive only after
these have ended."""


def main(arguments: list[str]) -> None:
    """Parse a node's command line, and run the node until it ends."""
    parser = argparse.ArgumentParser(
        prog="taskvine-node",
        description="A node of a TaskVineExecutor's embedded engine.",
        # Without a width, argparse imports shutil to find the terminal's.
        formatter_class=partial(argparse.HelpFormatter, width=100),
    )
    parser.add_argument(
        cleanup.CONNECT, required=True, metavar="DIRECTORY", help="the executor's directory (see its log)"
    )
    parser.add_argument("--block", default="", help="block that the node belongs to")
    parser.add_argument("--cores", type=_some, help="cores to offer (default: those that it may use)")
    parser.add_argument("--memory", type=_some, metavar="MB", help="memory to offer (default: what it may use)")
    parser.add_argument("--disk", type=_some, metavar="MB", help="space for its cache (default: what is free)")
    parser.add_argument("--gpus", type=_count, help="gpus to offer (default: those that it may use)")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="ask to leave after this time without work")
    options = parser.parse_args(arguments)
    options.connect = os.path.abspath(options.connect)
    try:
        with open(os.path.join(options.connect, "node.config"), "rb") as file:
            config: NodeConfig = pickle.load(file)
    except OSError as error:
        sys.exit(f"taskvine-node: no executor at {options.connect}: {error.strerror}")
    Node(options, config).run()


def _some(text: str) -> float:
    """Parse an amount; argparse adds the name of the option to errors."""
    amount = float(text)
    if not (math.isfinite(amount) and amount > 0):
        raise argparse.ArgumentTypeError(f"{text}: must be a number above 0")
    return amount


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise argparse.ArgumentTypeError(f"{text}: must be a number of at least 0")
    return seconds


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least 0")
    return count


class Supply(NamedTuple):
    """Sources of tasks' inputs: replicas of temp files, small results, and other nodes' copies of users' files."""

    sources: dict[str, Source]
    values: dict[str, bytes]
    peers: dict[str, Peer]


class Ending(NamedTuple):
    """The end of a task, as in a Completion."""

    outcome: int
    body: Payload
    started: float
    seconds: float
    made: list[tuple[str, int, int]]


class Node(Runner):
    """The loop of a node, its files, and its connection to the manager.

    Parameters
    ----------
    options : argparse.Namespace
        Options of the command line.
    config : NodeConfig
        The executor's configuration for all its nodes.
    """

    def __init__(self, options: argparse.Namespace, config: NodeConfig) -> None:
        self._options = options
        self._base = options.connect
        block = f"b{options.block}-" if options.block else ""
        self.name = f"{block}{os.getpid()}"
        super().__init__(config, os.path.join(self._base, "nodes", self.name))
        self._completions: list[Completion] = []
        self._held_since = 0.0
        self._calls: dict[int, Call] = {}
        self._staging: set[int] = set()
        self._sandboxes = itertools.count()
        self._making: dict[str, int] = {}  # results that tasks here will make
        self._coming: Counter[str] = Counter()  # files that are being fetched
        self._following: dict[str, list[Call]] = {}  # tasks that wait for either
        self._recent: OrderedDict[str, bytes] = OrderedDict()  # small results, for tasks that come late
        self._crowded: list[tuple[Callable[[], None], Callable[[], None]]] = []  # (retry, give up) if the cache is full
        self._told: set[tuple[str, tuple[int, ...]]] = set()  # users' files here that the manager knows of
        self._abandoned = False
        self._draining = False
        self._idle_since = time.monotonic()

    # --- beginning and end ---

    def run(self) -> None:
        """Serve the manager until it tells the node to leave, or ends."""
        keeper.disregard(signal.SIGINT)
        os.environ[cleanup.TOKEN] = self._base
        os.environ[cleanup.TOKEN + "_NODE"] = self.name
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
        log = os.path.join(config.log, f"node-{self.name}")
        os.makedirs(log, exist_ok=True)
        options = self._options
        gpus = hardware.gpus()
        if options.gpus is not None:
            gpus = (gpus + [str(number) for number in range(options.gpus) if str(number) not in gpus])[: options.gpus]
        cores = options.cores or float(hardware.cores())
        megabytes = options.memory or hardware.memory()
        disk = options.disk or hardware.disk(self._directory)
        self._info = NodeInfo(
            self.name, cores, megabytes, disk, len(gpus), config.slots, options.block, os.getpid(), self._directory
        )
        spool = os.path.join(self._base, "spool")
        self._cache = Cache(os.path.join(self._directory, "cache"), disk * 2**20, spool)
        self._open_wakeup()
        self._open_radio(self._directory)
        self._start_runtime(
            self._info,
            gpus,
            log=log,
            spool=spool,
            program=config.program,
            root=config.source_root,
            pack=config.env_pack,
            environments=os.path.join(self._directory, "environments"),
        )
        self._connect()

    def _connect(self) -> None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.connect(os.path.join(self._base, "manager.sock"))
        except ConnectionRefusedError:
            self._abandoned = True
            raise
        self._manager = Channel(end)
        self._watch(self._manager, self._manager_speaks)
        self._send("hello", self._info)

    def _take_leave(self) -> None:
        self._send_done()
        self._send("leaving")

    def _tear_down(self) -> None:
        self._stop_runtime()
        release(os.path.join(self._directory, "cache"), staging.memory_of(self._base))
        remove(self._directory)
        if hasattr(self, "_manager"):
            while self._manager.read():
                pass
            # The manager may have been killed after it told this node to leave.
            self._abandoned = self._abandoned or self._manager.ended
            self._manager.close()
        if self._abandoned and cleanup.ends(self._config.user, USER_SECONDS):  # no other process will do it
            staging.remove_run(self._base)

    # --- the loop ---

    def _loop(self) -> None:
        while not self._leaving:
            for key, _ in self._selector.select(self._timeout()):
                key.data()
            self._tick()
            self._flush()

    def _timeout(self) -> float | None:
        waits = self._waits()
        if self._completions:
            waits.append(max(0.0, self._hold - (time.monotonic() - self._held_since)))
        if self._options.timeout:
            waits.append(1.0)
        return min(waits, default=None)

    def _tick(self) -> None:
        self._look_after()
        if self._options.timeout and not self._calls:
            now = time.monotonic()
            if now - self._idle_since > self._options.timeout:
                self._idle_since = now
                self._send("idle")

    # --- the manager ---

    def _manager_speaks(self) -> None:
        self._manager.read()
        while (message := self._manager.next()) is not None:
            getattr(self, f"_on_{message[0]}")(*message[1:])
        if self._manager.ended:
            self._leaving = self._abandoned = True
        elif self._manager.full:
            self._manager.push_with(self._selector)

    def _send(self, *message: Any) -> None:
        self._manager.queue(*message)
        self._manager.push_with(self._selector)

    def _on_run(
        self,
        functions: tuple[tuple[str, Payload], ...],
        profiles: tuple[tuple[Any, ...], ...],
        invocations: tuple[tuple[Any, ...], ...],
        sources: dict[str, tuple[str, int, int, str]],
        values: dict[str, bytes],
        copies: dict[str, tuple[str, str, tuple[int, ...]]],
    ) -> None:
        for key, encoded in functions:
            self._retired.discard(key)
            self._slots.add_function(key, encoded)
            self._oneshots.add_function(key, encoded)
        for item in profiles:
            profile = Profile(*item)
            self._profiles[profile.number] = profile
        supply = Supply(
            {file: Source(*source) for file, source in sources.items()},
            values,
            {path: Peer(*copy) for path, copy in copies.items()},
        )
        for invocation in messages.invocations(invocations):
            self._take(invocation, supply)
        self._slots.pump()

    def _take(self, invocation: Invocation, supply: Supply) -> None:
        number = invocation.number
        profile = self._profiles[invocation.profile]
        call = Call(invocation, profile, self._need(profile))
        self._calls[number] = call
        if profile.memory is not None:
            self._limited.add(number)
        for use in invocation.outputs:
            if use.kind == "value":
                self._making[use.source] = number
        if self._broken is not None:
            self._report(call, failure.LOST, self._broken, 0.0, 0.0)
        elif self._follows(call, supply):
            pass
        elif profile.mode == L1 or not self._has_values(call, supply):
            self._stage(call, supply)
        else:
            self._slots.add(call)

    def _on_retire(self, functions: tuple[str, ...], profiles: tuple[int, ...]) -> None:
        self._retire(functions, profiles)

    def _live(self) -> Iterable[Call]:
        return self._calls.values()

    def _on_fetch(self, file: str, source: tuple[str, int, int, str]) -> None:
        def fetch() -> None:
            clock = time.perf_counter()
            size, stamp, problem, spoiled = 0, 0, None, False
            try:
                self._cache.fetch(file, Source(*source))
                size, stamp = self._cache.stamp(file)
            except Exception as error:
                problem, spoiled = str(error) or type(error).__name__, is_lost(error, source[0])
            seconds = time.perf_counter() - clock
            self._later(lambda: self._send("cached", file, size, problem, stamp, seconds, spoiled, source[3]))
            self._later(lambda: self._came([file]))

        self._coming[file] += 1
        self._in_background(fetch)

    def _on_drop(self, files: tuple[str, ...]) -> None:
        for file in files:
            self._cache.drop(file)
        crowded, self._crowded = self._crowded, []
        for retry, _ in crowded:
            retry()

    def _on_full(self) -> None:
        crowded, self._crowded = self._crowded, []
        for _, give_up in crowded:
            give_up()

    def _on_cancel(self, numbers: tuple[int, ...]) -> None:
        record = failure.lost("cancelled", "cancelled while it ran")
        wanted = set(numbers)
        following = [call for calls in self._following.values() for call in calls if call.invocation.number in wanted]
        for call in [*self._slots.cancel(wanted, record), *self._oneshots.cancel(wanted, record), *following]:
            self._clear(call)
        for number in wanted & self._staging:
            self._calls[number].kill_record = record

    def _on_drain(self) -> None:
        self._draining = True
        self._give_back([*self._slots.hand_back(), *self._oneshots.hand_back()])

    def _give_back(self, calls: list[Call]) -> None:
        """Return tasks that have not begun to the manager, with those that wait for their results."""
        numbers = []
        while calls:
            call = calls.pop()
            if call.invocation.number in self._calls:
                numbers.append(call.invocation.number)
                calls += self._clear(call, give_back=False)
        if numbers:
            self._send_done()  # first, since these tasks may have waited for it
            self._send("returned", sorted(numbers))

    def _on_ping(self) -> None:
        self._send("pong")

    def _notice(self, text: str) -> None:
        self._send("notice", text)

    def _on_tune(self, parameters: dict[str, float]) -> None:
        self._patience.tune(parameters)
        self._slots.tune(parameters)
        self._oneshots.tune(parameters)

    def _on_exit(self) -> None:
        self._leaving = True

    # --- tasks that wait for others ---

    def _follows(self, call: Call, supply: Supply) -> bool:
        """Let a task wait for inputs that are being made or fetched here, or give it back if one is missing.

        Return whether either was done; if not, the task can start.
        """
        behind = set()
        for use in call.invocation.inputs:
            name = use.source
            if use.kind == "local" or name in supply.values or name in supply.sources or name in self._cache:
                continue
            if name in self._coming:
                behind.add(name)
            elif use.kind != "value":
                continue  # staging will report that it is missing
            elif name in self._recent:
                call.values[name] = self._recent[name]
            elif name in self._making:
                behind.add(name)
            else:
                # The task that makes it has failed, or ended long ago. The manager knows that, or soon will.
                self._give_back([call])
                return True
        if not behind:
            return False
        call.behind = behind
        call.supply = supply
        for name in behind:
            self._following.setdefault(name, []).append(call)
        return True

    def _result_made(self, name: str, body: Payload) -> None:
        """Start the tasks that waited for a result, and keep it if it is small."""
        if isinstance(body, bytes):
            self._recent[name] = body
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)
            for call in self._following.get(name, ()):
                call.values[name] = body
        self._go_on(name)

    def _came(self, names: list[str]) -> None:
        """Start the tasks that waited for files whose transfers have ended, or give them back if that failed."""
        self._coming.subtract(names)
        for name in names:
            if not self._coming[name]:
                del self._coming[name]
                self._go_on(name)
        self._slots.pump()

    def _go_on(self, name: str) -> None:
        for call in self._following.pop(name, ()):
            call.behind.discard(name)
            if call.behind or call.invocation.number not in self._calls:
                continue
            supply, call.supply = call.supply, None
            if self._draining or not self._can_have_all(call, supply):
                self._give_back([call])
            elif call.profile.mode == L1 or not self._has_values(call, supply):
                self._stage(call, supply)
            else:
                self._slots.add(call)

    def _can_have_all(self, call: Call, supply: Supply) -> bool:
        return all(
            any(use.source in known for known in (call.values, supply.values, supply.sources, self._cache))
            for use in call.invocation.inputs
            if use.kind != "local"
        )

    # --- files ---

    def _has_values(self, call: Call, supply: Supply) -> bool:
        """Return whether a task needs no staging: it uses no files, and its input results are here. Provide these."""
        invocation = call.invocation
        if not invocation.inputs:
            return all(use.kind == "value" for use in invocation.outputs)
        if any(use.kind != "value" for use in (*invocation.inputs, *invocation.outputs)):
            return False
        for use in invocation.inputs:
            name = use.source
            if name not in call.values and name not in supply.values and name not in self._cache:
                return False
        try:
            self._give_values(call, supply.values)
        except OSError:
            return False  # staging will report this error
        return True

    def _give_values(self, call: Call, values: dict[str, bytes]) -> None:
        for use in call.invocation.inputs:
            if use.kind == "value" and use.source not in call.values:
                inline = values.get(use.source)
                call.values[use.source] = self._cache.checked(use.source) if inline is None else inline

    def _stage(self, call: Call, supply: Supply) -> None:
        number = call.invocation.number
        self._staging.add(number)
        # A new directory each time: a task that was given back may return before its old directory is removed.
        call.directory = os.path.join(self._directory, "sandboxes", f"t{number}-{next(self._sandboxes)}")
        if not call.invocation.inputs and not call.invocation.outputs:
            record = None
            try:
                self._make_sandbox(call)  # cheap enough to do here
            except OSError as error:
                record = _no_sandbox(call, error)
            self._staged_in(call, record)
            return

        fetched = [use.source for use in call.invocation.inputs if use.source in supply.sources]
        self._coming.update(fetched)

        def stage() -> None:
            record = None
            clock = time.perf_counter()
            try:
                self._make_sandbox(call)
                sandbox = os.path.join(str(call.directory), "sandbox")
                invocation = call.invocation
                inputs = [use for use in invocation.inputs if use.source not in {*supply.values, *call.values}]
                try:
                    staging.bring_in(inputs, invocation.outputs, sandbox, self._cache, supply.sources, supply.peers)
                finally:  # some may be here although another failed
                    seconds = time.perf_counter() - clock
                    self._later(lambda: self._say_fetched(invocation, supply, seconds))
                self._give_values(call, supply.values)
            except staging.StagingFailed as error:
                record = error.record
            except Spoiled as error:
                paths = {self._cache.path(use.source): use.source for use in inputs}
                spoiled = paths.get(error.filename, error.filename)
                record = failure.lost("file-lost", f"{error.strerror}: {error.filename}", name=spoiled)
            except Exception as error:
                record = _no_sandbox(call, error)
            self._later(lambda: self._came(fetched))
            self._later(lambda: self._staged_in(call, record))

        self._in_background(stage)

    def _say_fetched(self, invocation: Invocation, supply: Supply, seconds: float) -> None:
        """Tell the manager which files were fetched for a task: they are replicas like any other."""
        for use in invocation.inputs:
            if use.kind == "local":
                self._say_input(use.source)
            elif use.source in supply.sources and use.source in self._cache:
                size, stamp = self._cache.stamp(use.source)
                source = supply.sources[use.source].node
                self._send("cached", use.source, size, None, stamp, seconds, False, source)

    def _say_input(self, path: str) -> None:
        size, name, stamp = self._cache.known(path) or (0, "", ())
        if not name or (path, stamp) not in self._told:
            self._told.add((path, stamp))
            self._send("input", path, size, name, stamp)

    def _make_sandbox(self, call: Call) -> None:
        os.makedirs(os.path.join(str(call.directory), "sandbox"), mode=0o700)

    def _staged_in(self, call: Call, record: bytes | None) -> None:
        self._staging.discard(call.invocation.number)
        record = record or call.kill_record
        if record is not None:
            self._report(call, failure.LOST, record, 0.0, 0.0)
        elif self._draining:
            self._give_back([call])
        elif call.profile.mode == L1:
            self._oneshots.pending.append(call)
            self._oneshots.pump()
        else:
            self._slots.add(call)
            self._slots.pump()

    # --- results ---

    def _report(self, call: Call, outcome: int, body: Payload, started: float, seconds: float) -> None:
        if self._leaving and outcome == failure.LOST:
            return  # a signal may have ended the tasks with the node: another node can run them
        made: list[tuple[str, int, int]] = []
        ending = Ending(outcome, body, started, seconds, made)
        if outcome == failure.RETURNED and isinstance(body, str) and call.invocation.outputs:
            try:
                ending = self._keep(call, ending)
            except QuotaExceeded as error:
                self._wait_for_room(call, ending, error)
                return
        self._after_result(call, ending)

    def _wait_for_room(self, call: Call, ending: Ending, error: QuotaExceeded) -> None:
        """Ask the manager to free space for a result, which stays where it is meanwhile."""
        body = str(ending.body)

        def give_up() -> None:
            discard(body)
            reason = f"no room for the result: {error.strerror}"
            record = failure.lost("disk-full", reason, path=error.filename or body)
            self._after_result(call, ending._replace(outcome=failure.LOST, body=record))

        retry = partial(self._report, call, ending.outcome, body, ending.started, ending.seconds)
        self._crowded.append((retry, give_up))
        self._send("crowded", call.invocation.number, os.path.getsize(body))

    def _keep(self, call: Call, ending: Ending) -> Ending:
        """Move a large result that other tasks may read into the cache."""
        path = kept = str(ending.body)
        made = []
        for use in call.invocation.outputs:
            if use.kind == "value":
                try:
                    self._cache.adopt(use.source, path)
                except QuotaExceeded:
                    raise
                except OSError as error:
                    discard(path)
                    reason = f"no room for the result: {error.strerror or error}"
                    record = failure.lost("disk-full", reason, path=error.filename or path)
                    return ending._replace(outcome=failure.LOST, body=record)
                made.append((use.source, *self._cache.stamp(use.source)))
                kept = self._cache.path(use.source)
        return ending._replace(body=kept, made=made)

    def _after_result(self, call: Call, ending: Ending) -> None:
        if call.directory is not None and any(use.kind != "value" for use in call.invocation.outputs):
            self._in_background(self._bring_out, call, ending)
        else:
            self._complete(call, ending)

    def _bring_out(self, call: Call, ending: Ending) -> None:
        sandbox = os.path.join(str(call.directory), "sandbox")
        required = ending.outcome == failure.RETURNED
        try:
            made, record = staging.bring_out(call.invocation.outputs, sandbox, self._cache, required=required)
        except QuotaExceeded as error:
            self._later(partial(self._wait_to_bring_out, call, ending, error))
            return
        self._later(partial(self._brought_out, call, ending, made, record if required else None))

    def _wait_to_bring_out(self, call: Call, ending: Ending, error: QuotaExceeded) -> None:
        record = failure.lost("disk-full", f"no room for an output: {error.strerror}", path=error.filename)
        retry = partial(self._in_background, self._bring_out, call, ending)
        self._crowded.append((retry, partial(self._brought_out, call, ending, [], record)))
        outputs = [use for use in call.invocation.outputs if use.kind == "temp"]
        paths = [os.path.join(str(call.directory), "sandbox", use.name) for use in outputs]
        number = call.invocation.number
        self._send("crowded", number, sum(trees.survey(path).size for path in paths if os.path.exists(path)))

    def _brought_out(self, call: Call, ending: Ending, made: list[tuple[str, int, int]], record: bytes | None) -> None:
        if record is not None:
            for file, _, _ in ending.made:  # its result must not be read either
                self._cache.drop(file)
            ending = ending._replace(outcome=failure.LOST, body=record, made=[])
        self._complete(call, ending._replace(made=[*ending.made, *made]))

    def _complete(self, call: Call, ending: Ending) -> None:
        self._radio_speaks()  # a task's radio messages go before its result
        if not self._completions:
            self._held_since = time.monotonic()
        number = call.invocation.number
        outcome, body, started, seconds, made = ending
        self._completions.append(
            Completion(
                number, outcome, body, self.name, call.dispatched, started, seconds, tuple(made), self._left(call)
            )
        )
        if outcome == failure.RETURNED:
            for use in call.invocation.outputs:
                if use.kind == "value" and self._making.pop(use.source, None) is not None:
                    self._result_made(use.source, body)
        self._give_back(self._clear(call, give_back=False))

    def _clear(self, call: Call, *, give_back: bool = True) -> list[Call]:
        """Forget a task; return the tasks that wait for its result in vain. With ``give_back``, also send them back."""
        self._calls.pop(call.invocation.number, None)
        self._limited.discard(call.invocation.number)
        for name in call.behind:
            if call in self._following.get(name, ()):
                self._following[name].remove(call)
        followers: list[Call] = []
        for use in call.invocation.outputs:
            if use.kind == "value" and self._making.get(use.source) == call.invocation.number:
                del self._making[use.source]
                followers += self._following.pop(use.source, ())
        if call.directory is not None:
            self._in_background(remove, call.directory)
        if not self._calls:
            self._idle_since = time.monotonic()
        if give_back and followers:
            self._give_back(followers)
        return followers

    def _flush(self) -> None:
        if not self._completions:
            return
        if len(self._calls) > 2 and len(self._completions) < 64 and time.monotonic() - self._held_since < self._hold:
            return
        self._send_done()

    @property
    def _hold(self) -> float:
        # Where many nodes share the processors, this one would send its results one by one without this factor.
        return HOLD_SECONDS * min(HOLD_MOST, max(1, len(self._calls) // 16))

    def _send_done(self) -> None:
        if self._completions:
            completions, self._completions = self._completions, []
            self._send("done", completions)

    def _radio_speaks(self) -> None:
        if said := self._overheard():
            self._send("radio", said)


def _no_sandbox(call: Call, error: Exception) -> bytes:
    reason = f"no sandbox can be made: {failure.describe(error)}"
    return failure.lost("disk-full", reason, path=str(call.directory))


__all__ = ["Node", "main"]
