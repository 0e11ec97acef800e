"""The manager process: one loop between the user's process and an engine.

It watches the process that started it, and ends when that process ends::

    user's process --(socket)--> loop --> engine --> nodes
                   <------------      <--        <--
"""

from __future__ import annotations

import logging
import os
import pickle
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from taskvine_manager import cleanup
from taskvine_manager.engine_api import Engine, NodesFail
from taskvine_manager.parameters.own import AWAKE, RECORD_DETAILS
from taskvine_manager.record import Recorder
from taskvine_manager.record.events import Block, Event
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire import messages
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import Completion

logger = logging.getLogger(__name__)

STOP_SECONDS = 3.0
"""Seconds that nodes have to leave after they are told, before they are killed."""
FLUSH_SECONDS = 1.0
"""Seconds that the user's process has to receive the last messages."""


def main(base: str, listener: int, link: int, parent: int) -> None:
    """Run the manager of the executor whose private directory is ``base``, as long as ``parent`` lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(os.path.join(base, "manager.config"), "rb") as file:
        config: dict[str, Any] = pickle.load(file)
    logging.basicConfig(
        filename=os.path.join(config["log"], "manager.log"),
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
        level=logging.INFO,
    )
    nodes, user = socket.socket(fileno=listener), socket.socket(fileno=link)
    nodes.set_inheritable(False)
    user.set_inheritable(False)
    Manager(base, config, nodes, user, parent).run()


class Manager:
    """The loop, and the messages waiting for the user's process.

    Parameters
    ----------
    base : str
        The run's private directory.
    config : dict
        ``engine`` (an engine's configuration), ``log`` (a directory) and ``record`` (a file, or None).
    listener : socket.socket
        Socket to which nodes connect.
    link : socket.socket
        Socket to the user's process.
    parent : int
        Process id of the user's process; the manager ends with it.
    """

    def __init__(
        self, base: str, config: dict[str, Any], listener: socket.socket, link: socket.socket, parent: int
    ) -> None:
        self._base = base
        self._selector = selectors.DefaultSelector()
        self._link = Channel(link)
        self._had_message = False
        """Whether the last wait ended with a message, so that another may follow soon."""
        self._selector.register(self._link, selectors.EVENT_READ, self._user_speaks)
        self._finished: list[Completion] = []
        self._waiting_said = 0
        self._begun = 0.0
        self._ended = 0.0
        self._stopping = False
        self._orphaned = False
        self._watch_parent(parent)
        self._is_vine = type(config["engine"]).__module__ == "taskvine_manager.vine.manager.config"
        name = "taskvine" if self._is_vine else "embedded"
        tune = config["engine"].tune
        details = bool(RECORD_DETAILS.of(tune))
        known = {"engine": name, "tune_parameters": tune, **config.get("facts", {})}
        self._record = Recorder(config["record"], details=details, **known)
        self._awake: float = AWAKE.of(tune)
        self._engine = self._make_engine(config["engine"], listener)

    def _make_engine(self, config: Any, listener: socket.socket) -> Engine:
        if self._is_vine:
            from taskvine_manager.vine.manager.engine import VineEngine

            return VineEngine(self._base, listener, config, self, self._watch, self._unwatch)
        from taskvine_manager.embedded.engine import EmbeddedEngine

        return EmbeddedEngine(self._base, listener, config, self, self._watch, self._unwatch)

    def _watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def _unwatch(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)

    def _watch_parent(self, parent: int) -> None:
        self._parent = parent
        self._parent_polled = True
        if hasattr(os, "pidfd_open"):
            try:
                self._watch(os.pidfd_open(parent), self._parent_gone)
                self._parent_polled = False
            except ProcessLookupError:
                self._parent_gone()
            except OSError:  # a kernel before 5.3, or a sandbox that forbids it
                pass

    def _parent_gone(self) -> None:
        self._orphaned = self._stopping = True

    # --- the loop ---

    def run(self) -> None:
        """Serve until told to stop, or until the user's process ends."""
        try:
            while not self._stopping:
                self._step(self._engine.tick())
            self._stop()
        except NodesFail as error:
            logger.error("the manager stops: %s", error)
            self._say("nodes-fail", error.reason, error.stderr)
            self._stop()
        except Exception:
            logger.exception("the manager failed and stops")
            self._say("broken", traceback.format_exc(limit=-3))
            self._engine.stop()
            self._engine.kill()
        finally:
            self._record.close()
            if self._orphaned:
                self._link.close()
                self._clean_up()
            else:
                self._link.finish(FLUSH_SECONDS)

    def _step(self, seconds: float | None) -> None:
        self._flush()
        if (due := self._record.flush_due()) is not None:
            seconds = due if seconds is None else min(seconds, due)
        if self._parent_polled:
            seconds = min(1.0, seconds if seconds is not None else 1.0)
            if os.getppid() != self._parent:
                self._parent_gone()
        self._wait(seconds)
        self._flush()

    def _wait(self, seconds: float | None) -> None:
        known = self._selector.get_map()
        ready = self._poll(seconds) if self._had_message and self._engine.tasks <= messages.FEW_TASKS else []
        ready = ready or self._selector.select(seconds)
        self._had_message = bool(ready)
        for key, _ in ready:
            # An earlier callback of this round may have unregistered the descriptor.
            if (now := known.get(key.fd)) is not None and now.data == key.data:
                key.data()

    def _poll(self, seconds: float | None) -> list[Any]:
        """Poll for the next message for a while instead of sleeping. This is for times of few tasks, after a message.

        A wake-up takes 20 to 60 µs, twice for each call, and with cold caches the work after it takes twice as long.
        Polling yields the CPU to other processes that want to run.
        """
        until = time.perf_counter() + (self._awake if seconds is None else min(self._awake, seconds))
        while time.perf_counter() < until:
            if ready := self._selector.select(0):
                return ready
            os.sched_yield()
        return []

    def _flush(self) -> None:
        waiting = self._engine.waiting
        if self._finished:
            finished, self._finished = self._finished, []
            self._say("done", finished, waiting)
        elif waiting != self._waiting_said:
            self._say("waiting", waiting)
        self._waiting_said = waiting

    def _stop(self) -> None:
        self._engine.stop()
        deadline = time.monotonic() + STOP_SECONDS
        while not self._engine.stopped and (left := deadline - time.monotonic()) > 0:
            self._wait(left)
        self._engine.kill()

    def _clean_up(self) -> None:
        # The user's process is gone and cannot do it.
        from taskvine_manager.node.staging import remove_run

        cleanup.kill_strays(self._base)
        remove_run(self._base)
        sys.exit(1)

    # --- the user's process ---

    def _user_speaks(self) -> None:
        self._link.read()
        while (message := self._link.next()) is not None and not self._stopping:
            getattr(self, f"_on_{message[0]}")(*message[1:])
        if self._link.ended:
            self._selector.unregister(self._link)
            self._parent_gone()
        elif self._link.full:
            self._link.push_with(self._selector)

    def _say(self, *message: Any) -> None:
        self._link.queue(*message)
        if not self._link.ended:
            self._link.push_with(self._selector)

    def _on_submit(
        self,
        functions: tuple[tuple[str, Payload], ...],
        profiles: tuple[tuple[Any, ...], ...],
        invocations: tuple[tuple[Any, ...], ...],
    ) -> None:
        new = list(map(messages.profile, profiles))
        came = messages.invocations(invocations)
        if came and not self._begun:
            self._begun = self._ended = time.monotonic()
        self._record.submitted(new, came)
        self._engine.submit(list(functions), new, came)

    def _on_cancel(self, numbers: tuple[int, ...]) -> None:
        self._record.note("cancelled", numbers)
        self._engine.cancel(numbers)

    def _on_forget(self, files: tuple[str, ...]) -> None:
        self._record.note("forgotten", files)
        self._engine.forget(files)

    def _on_retire(self, profiles: tuple[int, ...]) -> None:
        self._engine.retire(profiles)

    def _on_drain(self, block: str) -> None:
        self._engine.drain(block)

    def _on_blocks(self, blocks: tuple[tuple[Any, ...], ...]) -> None:
        self._record.events([Block(*block) for block in blocks])

    def _on_locate(self, request: int, file: str) -> None:
        self._engine.locate(request, file)

    def _on_spoiled(self, node: str, file: str, stamp: int) -> None:
        self._engine.spoiled(node, file, stamp)

    def _on_stats(self, request: int) -> None:
        self._say("stats", request, {**self._engine.stats(), "makespan": self._ended - self._begun})

    def _on_graph(self, request: int) -> None:
        self._record.flush()
        self._say("graph", request, self._engine.snapshot())

    def _on_tune(self, parameters: dict[str, float]) -> None:
        self._record.note("tuned", parameters)
        self._awake = parameters.get(AWAKE.name, self._awake)
        self._engine.tune(parameters)

    def _on_ping(self) -> None:
        self._say("pong")

    def _on_stop(self) -> None:
        self._stopping = True

    # --- reports from the engine ---

    def done(self, completions: list[Completion]) -> None:
        self._ended = time.monotonic()
        self._record.done(completions)
        self._finished.extend(completions)

    def run_again(self, numbers: list[int], reason: str) -> None:
        self._record.note("again", numbers, reason)

    def happened(self, events: list[Event]) -> None:
        self._record.events(events)

    def notice(self, text: str) -> None:
        logger.warning("%s", text)
        self._say("notice", text)

    def radio(self, said: list[bytes]) -> None:
        self._flush()  # tasks that finished before these messages are reported before them
        self._say("radio", said)

    def nodes(self, nodes: list[dict[str, Any]]) -> None:
        self._record.note("nodes", nodes)
        self._say("nodes", nodes)

    def drained(self, block: str) -> None:
        self._say("drained", block)

    def located(self, request: int, answer: Any) -> None:
        self._flush()  # the file's task may have finished after the request: report its end first
        self._say("located", request, answer)
