"""The user's end of the link to the manager: one thread that sends batches and receives results.

Whoever submits only appends to a queue; this thread packs what has gathered into one message. It completes futures
with no lock held, and sends what their callbacks have submitted between one handful and the next.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import zmq

from taskvine_manager import messages
from taskvine_manager.messages import Invocation, Profile
from taskvine_manager.runtime.payload import Payload

logger = logging.getLogger(__name__)

HANDFUL = 32
"""Futures completed before what has been submitted meanwhile is sent."""


class ManagerLink:
    """The link of one executor.

    Parameters
    ----------
    address : str
        ZeroMQ endpoint to bind.
    process : subprocess.Popen
        The manager.
    on_message : callable
        Called in the link's thread with the parts of each message from the manager that nothing here waits for.
        It may return an iterator: it is advanced by handfuls, and the queue is sent in between.
    on_death : callable
        Called in the link's thread, with the manager's exit status, when it ends without having been told to.
    """

    def __init__(
        self,
        address: str,
        process: subprocess.Popen[bytes],
        on_message: Callable[..., Any],
        on_death: Callable[[int], None],
    ) -> None:
        self._process = process
        self._on_message = on_message
        self._on_death = on_death
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.linger = 0
        self._socket.bind(address)
        self._functions: deque[tuple[str, Payload]] = deque()
        self._profiles: deque[Profile] = deque()
        self._invocations: deque[Invocation] = deque()
        self._words: deque[tuple[Any, ...]] = deque()
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._awake = False
        self._pipe_lock = threading.Lock()
        self._pipe_closed = False
        self._closing = False
        self._requests: dict[int, Future[Any]] = {}
        self._numbers = itertools.count()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="TaskVine-Link", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    # --- any thread ---

    def define(self, functions: list[tuple[str, Payload]], profiles: list[Profile]) -> None:
        """Send functions and profiles with, or before, the next invocation."""
        self._functions.extend(functions)
        self._profiles.extend(profiles)

    def submit(self, invocation: Invocation) -> None:
        """Send an invocation."""
        self._invocations.append(invocation)
        if not self._awake:
            self._nudge()

    def say(self, *message: Any) -> None:
        """Send any other message."""
        self._words.append(message)
        self._nudge()

    def ask(self, kind: str, *rest: Any) -> Future[Any]:
        """Send a request; the future gets its answer."""
        number = next(self._numbers)
        future: Future[Any] = Future()
        self._requests[number] = future
        self.say(kind, number, *rest)
        return future

    def _nudge(self) -> None:
        with self._pipe_lock:
            self._awake = True
            if not self._pipe_closed:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._waker, b"w")

    def stop(self, seconds: float) -> bool:
        """Tell the manager to stop and wait for its end; say whether it came in time. Closes the link."""
        self._stopping = True
        self.say("stop")
        try:
            self._process.wait(seconds)
            ended = True
        except subprocess.TimeoutExpired:
            ended = False
        self.close()
        return ended

    def close(self) -> None:
        """End the thread; requests that are open get an error."""
        self._stopping = True
        self._closing = True
        self._nudge()
        if self._thread is not threading.current_thread():
            self._thread.join()
        for future in self._requests.values():
            if not future.done():
                future.set_exception(ConnectionError("the manager is gone"))

    # --- the link's thread ---

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        death = self._death_descriptor()
        if death is not None:
            poller.register(death, zmq.POLLIN)
        told = False
        try:
            while not self._closing:
                events = dict(poller.poll(None if death is not None else 500))
                if self._wake in events:
                    os.read(self._wake, 4096)
                    self._flush()
                if self._socket in events:
                    self._receive()
                if not told and self._process.poll() is not None:
                    told = True
                    if death is not None:
                        poller.unregister(death)
                    self._receive()  # its last words
                    if not self._stopping:
                        self._on_death(self._process.returncode)
        except Exception:
            logger.exception("the link to the manager broke")
            if not self._stopping:
                self._on_death(-1)
        finally:
            if death is not None:
                os.close(death)
            with self._pipe_lock:  # a descriptor's number is given out again: nobody may write to it now
                self._pipe_closed = True
                os.close(self._wake)
                os.close(self._waker)
            self._socket.close()
            self._context.term()

    def _death_descriptor(self) -> int | None:
        if hasattr(os, "pidfd_open"):
            try:
                return os.pidfd_open(self._process.pid)
            except OSError:
                pass
        return None

    def _flush(self) -> None:
        # Lowered before the queues are read: who appends after that writes to the pipe again.
        self._awake = False
        while self._invocations:
            count = len(self._invocations)
            batch = [self._invocations.popleft() for _ in range(min(count, 4096))]
            functions = [self._functions.popleft() for _ in range(len(self._functions))]
            profiles = [self._profiles.popleft() for _ in range(len(self._profiles))]
            self._socket.send(messages.encode("submit", functions, profiles, batch))
        while self._words:
            self._socket.send(messages.encode(*self._words.popleft()))

    def _receive(self) -> None:
        while True:
            try:
                message = messages.decode(self._socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            if message[0] in ("located", "stats"):
                future = self._requests.pop(message[1], None)
                if future is not None:
                    future.set_result(message[2])
                continue
            steps = self._on_message(*message)
            if steps is not None:
                for done, _ in enumerate(steps):
                    if done % HANDFUL == HANDFUL - 1 and self._awake:
                        self._flush()
