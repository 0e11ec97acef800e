"""The user's end of the link to the manager: one thread that sends batches of tasks and receives results.

Submitting a task only appends it to a queue. The link's thread packs the queued tasks into one message. It completes
futures without holding a lock. After each handful of futures, it sends the tasks that their callbacks have submitted.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import InitVar, dataclass, field
from typing import Any

from taskvine_manager import cleanup
from taskvine_manager.patience import Limits, Silence, Verdict
from taskvine_manager.runtime import release
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire import messages
from taskvine_manager.wire.channel import Channel
from taskvine_manager.wire.messages import Invocation, Profile

logger = logging.getLogger(__name__)

MESSAGE_BYTES, MESSAGE_CALLS = 1 << 18, 1024
"""Limits of one message to the manager: bytes of functions, and number of tasks."""
HANDFUL = 32
"""Number of futures to complete before sending the tasks that were submitted meanwhile."""


@dataclass(eq=False, repr=False)
class ManagerLink:
    """The link of one executor.

    Parameters
    ----------
    end : socket.socket
        Socket connected to the manager. The link closes it.
    process : subprocess.Popen
        The manager.
    on_message : callable
        Called in the link's thread with the parts of each message from the manager that is not the answer to a request.
        It may return an iterator. The link advances it in handfuls and sends the queue in between.
    on_death : callable
        Called in the link's thread, with the manager's exit status, when the manager ends without having been told to.
    awaits : callable
        Returns whether a message from the manager is expected. A silent manager is pinged only then, while it is
        stopping, and while a request is open.
    on_turn : callable
        Called in each turn of the link's loop. It may return the seconds after which there must be another turn.
    responsive : bool
        Whether the manager always answers soon. TaskVine's manager may be busy with one large transfer for long, and
        counts as lost only if its process is stopped.
    """

    end: InitVar[socket.socket]
    process: subprocess.Popen[bytes]
    on_message: Callable[..., Any]
    on_death: Callable[[int], None]
    awaits: Callable[[], bool] = bool
    on_turn: Callable[[], float | None] = lambda: None
    responsive: bool = field(default=True, kw_only=True)

    def __post_init__(self, end: socket.socket) -> None:
        self.patience = Limits()
        """How long the manager may be silent. Can be tuned at any time."""
        self._silence = Silence(self.patience)
        self.silent = ""
        """Why the manager was killed, if it was killed because it did not answer."""
        self._channel = Channel(end)
        self._sending = threading.Lock()
        self._main = threading.main_thread().ident
        self._functions: deque[tuple[str, Payload]] = deque()
        self._profiles: deque[Profile] = deque()
        self._invocations: deque[Invocation] = deque()
        self._words: deque[bytes] = deque()
        self._kept: deque[tuple[Any, ...]] = deque()
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._awake = False
        self._memory = release.Memory()
        # Reentrant: any allocation while it is held may collect a value, which then sends a message.
        self._pipe_lock = threading.RLock()
        self._pipe_closed = False
        self._closing = False
        self._requests: dict[int, Future[Any]] = {}
        self._numbers = itertools.count()
        self._stopping = False
        self._dead = False
        self._thread = threading.Thread(target=self._run, name="TaskVine-Link", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    # --- any thread ---

    def define(self, functions: list[tuple[str, Payload]], profiles: list[Profile]) -> None:
        """Send functions and profiles with the next task, or before it."""
        self._functions.extend(functions)
        self._profiles.extend(profiles)

    def submit(self, invocation: Invocation, *, at_once: bool = False) -> None:
        """Send a task, together with others that are queued meanwhile.

        With ``at_once``, send it from this thread if possible. The main thread never sends directly: Ctrl-C could leave
        half a message on the socket.
        """
        self._invocations.append(invocation)
        if self._awake:
            return
        if at_once and threading.get_ident() != self._main and self._sending.acquire(blocking=False):
            try:
                self._send_all()
            except Exception:  # the unsent messages are lost; the link's thread notices the end of the manager
                logger.exception("the link to the manager broke")
                self.process.kill()
            finally:
                self._sending.release()
            if not self._channel.full:
                return
        self._nudge()

    def say(self, *message: Any) -> None:
        """Send any other message.

        Raises
        ------
        Exception
            If it cannot be encoded. It is encoded here because an error in the link's thread would end the run.
        """
        self._words.append(messages.encode(*message))
        self._nudge()

    def retire(self, profiles: list[int], size: int) -> None:
        """Tell the manager that a function will not be called again; ``size`` bytes of its memory are free."""
        self._memory.freed(size)
        self.say("retire", profiles)

    def ask(self, kind: str, *rest: Any, timeout: float | None = None) -> Future[Any]:
        """Send a request; the future gets the answer, or ConnectionError if the manager ends first.

        In the link's own thread, wait for the answer, for at most ``timeout`` seconds.
        """
        number = next(self._numbers)
        future: Future[Any] = Future()
        message = messages.encode(kind, number, *rest)
        self._requests[number] = future
        self._words.append(message)
        self._nudge()
        if self._dead:
            self._fail_requests()
        elif self._thread is threading.current_thread():
            self._await(future, timeout)
        return future

    def _gone(self, status: int) -> None:
        self._dead = True
        if not self._stopping:
            self.on_death(status)
        self._fail_requests()

    @property
    def open_requests(self) -> int:
        """Number of requests that the manager has not answered yet."""
        return len(self._requests)

    def _fail_requests(self) -> None:
        for number in list(self._requests):
            future = self._requests.pop(number, None)
            if future is not None:
                future.set_exception(ConnectionError("the manager is gone"))

    def _nudge(self) -> None:
        with self._pipe_lock:
            self._awake = True
            if not self._pipe_closed:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._waker, b"w")

    def stop(self, seconds: float) -> bool:
        """Tell the manager to stop, and wait up to ``seconds`` for its end; return whether it ended in time."""
        self._stopping = True
        self.say("stop")
        if self._thread is threading.current_thread() and not self._dead:
            self._flush()  # a future's callback shuts the executor down
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """End the thread and fail open requests."""
        self._stopping = True
        self._closing = True
        self._nudge()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._dead = True
        self._fail_requests()

    # --- the link's thread ---

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        link = self._channel.fileno()
        death = self._death_descriptor()
        if death is not None:
            poller.register(death, select.POLLIN)
        try:
            while not self._closing:
                if not self._channel.ended:
                    poller.register(link, select.POLLIN | (select.POLLOUT if self._channel.full else 0))
                seconds = [wait for wait in (self._memory.wait, self.on_turn()) if wait is not None]
                if death is None:
                    seconds.append(0.5)
                if self._is_awaited():
                    seconds.append(self.patience.pause)
                events = dict(poller.poll(1000 * min(seconds) if seconds else None))
                self._memory.tidy()
                if self._wake in events:
                    os.read(self._wake, 4096)
                    self._flush()
                if events.get(link, 0) & select.POLLOUT:
                    self._flush()
                if events.get(link, 0) & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    self._receive()
                    if self._channel.ended:
                        poller.unregister(link)
                if self._is_awaited():
                    self._listen()
                if (death is None or death in events) and not self._dead and self.process.poll() is not None:
                    if death is not None:
                        poller.unregister(death)
                    while self._receive():
                        pass  # the messages that it sent before its end
                    self._gone(self.process.returncode)
        except BaseException:
            logger.exception("the link to the manager broke")
            self.process.kill()
            self._gone(-signal.SIGKILL)
        finally:
            if death is not None:
                os.close(death)
            with self._pipe_lock:  # no thread may write now: the descriptor's number may be reused
                self._pipe_closed = True
                os.close(self._wake)
                os.close(self._waker)
            with self._sending:
                self._channel.close()

    def _is_awaited(self) -> bool:
        if self._dead or self._channel.ended or not self.patience.interval:
            return False
        return self._stopping or bool(self._requests) or self.awaits()

    def _listen(self) -> None:
        """Ping a silent manager, and kill it if it does not answer."""
        verdict = self._silence.look(time.monotonic())
        if verdict is Verdict.ASK:
            self.say("ping")
        elif verdict is Verdict.LOST:
            is_stopped = cleanup.is_stopped(self.process.pid)
            silent = f"it did not answer for {self.patience.timeout:g} s"
            if is_stopped or self.responsive:
                self.silent = f"{silent}{', because its process was stopped (SIGSTOP)' if is_stopped else ''}"
                self.process.kill()
            else:
                logger.warning("the manager is silent: %s; it may be busy with a large file", silent)
                self._silence.heard()

    def _death_descriptor(self) -> int | None:
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                return os.pidfd_open(self.process.pid)
        return None

    def _flush(self) -> None:
        with self._sending:
            # Cleared before the queues are read: a thread that appends later writes to the pipe again.
            self._awake = False
            self._send_all()

    def _send_all(self) -> None:
        """Send queued messages until the socket is full. The caller must hold ``_sending``.

        The rest stays in the queues, where it needs no second copy.
        """
        self._channel.push()
        while (self._invocations or self._words) and not self._channel.full:
            words = len(self._words)  # these may be about tasks submitted before them, so tasks are sent first
            if self._invocations or self._profiles:
                self._send_some()
            else:
                for _ in range(words):
                    self._channel.queue_encoded(self._words.popleft())
            self._channel.push()

    def _send_some(self) -> None:
        count = len(self._invocations)
        functions, size = [], 0
        while self._functions and size < MESSAGE_BYTES:
            functions.append(self._functions.popleft())
            size += len(functions[-1][1])
        if self._functions:  # tasks are sent after all functions that they call
            self._channel.queue("submit", functions, [], [])
            return
        profiles = [self._profiles.popleft() for _ in range(len(self._profiles))]
        batch = [self._invocations.popleft() for _ in range(min(count, MESSAGE_CALLS))]
        self._channel.queue("submit", functions, profiles, batch)

    def _await(self, answer: Future[Any], timeout: float | None) -> None:
        """Receive the answer to a request of a future's callback, and keep other messages for later."""
        poller = select.poll()
        until = None if timeout is None else time.monotonic() + timeout
        while not answer.done() and (until is None or time.monotonic() < until):
            self._flush()
            poller.register(self._channel.fileno(), select.POLLIN | (select.POLLOUT if self._channel.full else 0))
            if poller.poll(100):
                if self._channel.read():
                    self._silence.heard()
                while (message := self._channel.next()) is not None:
                    if not self._is_answer(message):
                        self._kept.append(message)
            if self._is_awaited():
                self._listen()
            if self._channel.ended or self.process.poll() is not None:
                self._fail_requests()

    def _is_answer(self, message: tuple[Any, ...]) -> bool:
        if message[0] == "pong":
            return True
        if message[0] not in ("located", "stats", "graph"):
            return False
        future = self._requests.pop(message[1], None)
        if future is not None:
            future.set_result(message[2])
        return True

    def _receive(self) -> bool:
        """Read once and handle all complete messages; return whether anything was read."""
        came = self._channel.read()
        if came:
            self._silence.heard()
        while (message := self._kept.popleft() if self._kept else self._channel.next()) is not None:
            if self._is_answer(message):
                continue
            steps = self.on_message(*message)
            if steps is not None:
                for done, _ in enumerate(steps):
                    if done % HANDFUL == HANDFUL - 1 and self._awake:
                        self._flush()
        return came
