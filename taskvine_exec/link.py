"""The user's end of the link to the manager: one thread that sends batches and receives results.

Whoever submits only appends to a queue; this thread packs what has gathered into one message. It completes futures
with no lock held, and sends what their callbacks have submitted between one handful and the next.
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
"""Functions, by their size, and invocations, by their number, that go into one message to the manager."""
HANDFUL = 32
"""Futures completed before what has been submitted meanwhile is sent."""


class ManagerLink:
    """The link of one executor.

    Parameters
    ----------
    end : socket.socket
        Connected to the manager; the link's own from now on.
    process : subprocess.Popen
        The manager.
    on_message : callable
        Called in the link's thread with the parts of each message from the manager that nothing here waits for.
        It may return an iterator: it is advanced by handfuls, and the queue is sent in between.
    on_death : callable
        Called in the link's thread, with the manager's exit status, when it ends without having been told to.
    awaits : callable
        Says whether anything is expected of the manager now: only then it is asked, after long silence, whether it
        lives.
    responsive : bool
        Whether the manager always answers soon. TaskVine's may be busy for long with one large transfer: then it counts
        as lost only if its process is stopped.
    """

    def __init__(
        self,
        end: socket.socket,
        process: subprocess.Popen[bytes],
        on_message: Callable[..., Any],
        on_death: Callable[[int], None],
        awaits: Callable[[], bool] = bool,
        *,
        responsive: bool = True,
    ) -> None:
        self._process = process
        self._on_message = on_message
        self._on_death = on_death
        self._awaits = awaits
        self._responsive = responsive
        self.patience = Limits()
        """How long the manager may be silent; may be tuned at any time."""
        self._silence = Silence(self.patience)
        self.silent = ""
        """What is to be said of a manager that was killed because it did not answer."""
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
        # Reentrant: a value may be collected, and its end announced, at any allocation under it.
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
        """Send functions and profiles with, or before, the next invocation."""
        self._functions.extend(functions)
        self._profiles.extend(profiles)

    def submit(self, invocation: Invocation, *, at_once: bool = False) -> None:
        """Send an invocation: with others that gather meanwhile, or ``at_once`` and from this thread if it may be.

        It is not the main thread that may: Ctrl-C could end its sending with a part of a message sent.
        """
        self._invocations.append(invocation)
        if self._awake:
            return
        if at_once and threading.get_ident() != self._main and self._sending.acquire(blocking=False):
            try:
                self._send_all()
            except Exception:  # what was to be sent is gone: as in the link's thread, which hears of the manager's end
                logger.exception("the link to the manager broke")
                self._process.kill()
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
            If it cannot be encoded: that is found here, since in the link's thread it would end the run.
        """
        self._words.append(messages.encode(*message))
        self._nudge()

    def retire(self, profiles: list[int], size: int) -> None:
        """Say that no more invocations of a function come, of whose memory so many bytes are free."""
        self._memory.freed(size)
        self.say("retire", profiles)

    def ask(self, kind: str, *rest: Any, timeout: float | None = None) -> Future[Any]:
        """Send a request; the future gets its answer, or ConnectionError if the manager goes before.

        In the link's own thread this waits for the answer, for ``timeout`` seconds at most.
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
            self._on_death(status)
        self._fail_requests()

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
        """Tell the manager to stop and wait for its end; say whether it came in time."""
        self._stopping = True
        self.say("stop")
        if self._thread is threading.current_thread() and not self._dead:
            self._flush()  # a future's callback ends the executor
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """End the thread; requests that are open get an error."""
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
                wait = self._memory.wait
                seconds = [0.5] if death is None else []
                seconds += [wait] if wait is not None else []
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
                if (death is None or death in events) and not self._dead and self._process.poll() is not None:
                    if death is not None:
                        poller.unregister(death)
                    while self._receive():
                        pass  # its last words
                    self._gone(self._process.returncode)
        except BaseException:
            logger.exception("the link to the manager broke")
            self._process.kill()
            self._gone(-signal.SIGKILL)
        finally:
            if death is not None:
                os.close(death)
            with self._pipe_lock:  # a descriptor's number is given out again: nobody may write to it now
                self._pipe_closed = True
                os.close(self._wake)
                os.close(self._waker)
            with self._sending:
                self._channel.close()

    def _is_awaited(self) -> bool:
        if self._dead or self._channel.ended or not self.patience.interval:
            return False
        return self._stopping or bool(self._requests) or self._awaits()

    def _listen(self) -> None:
        """Ask a manager that is silent whether it lives, and kill one that does not answer."""
        verdict = self._silence.look(time.monotonic())
        if verdict is Verdict.ASK:
            self.say("ping")
        elif verdict is Verdict.LOST:
            is_stopped = cleanup.is_stopped(self._process.pid)
            silent = f"it did not answer for {self.patience.timeout:g} s"
            if is_stopped or self._responsive:
                self.silent = f"{silent}{', because its process was stopped (SIGSTOP)' if is_stopped else ''}"
                self._process.kill()
            else:
                logger.warning("of the manager: %s; it may be busy with a large file", silent)
                self._silence.heard()

    def _death_descriptor(self) -> int | None:
        if hasattr(os, "pidfd_open"):
            try:
                return os.pidfd_open(self._process.pid)
            except OSError:
                pass
        return None

    def _flush(self) -> None:
        with self._sending:
            # Lowered before the queues are read: who appends after that writes to the pipe again.
            self._awake = False
            self._send_all()

    def _send_all(self) -> None:
        """Send what has gathered as far as the socket takes it; only with ``_sending`` held.

        What it does not take yet stays in the queues, where it needs no second copy.
        """
        self._channel.push()
        while (self._invocations or self._words) and not self._channel.full:
            words = len(self._words)  # they may be about what was submitted before they were said: that goes first
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
        if self._functions:  # invocations follow all functions that they call
            self._channel.queue("submit", functions, [], [])
            return
        profiles = [self._profiles.popleft() for _ in range(len(self._profiles))]
        batch = [self._invocations.popleft() for _ in range(min(count, MESSAGE_CALLS))]
        self._channel.queue("submit", functions, profiles, batch)

    def _await(self, answer: Future[Any], timeout: float | None) -> None:
        """A future's callback asks: get the answer here and now, and keep for later what else comes meanwhile."""
        poller = select.poll()
        self._flush()
        until = None if timeout is None else time.monotonic() + timeout
        while not answer.done() and (until is None or time.monotonic() < until):
            poller.register(self._channel.fileno(), select.POLLIN | (select.POLLOUT if self._channel.full else 0))
            if poller.poll(100):
                self._flush()
                self._channel.read()
                while (message := self._channel.next()) is not None:
                    if not self._is_answer(message):
                        self._kept.append(message)
            if self._is_awaited():
                self._listen()
            if self._channel.ended or self._process.poll() is not None:
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
        """Read once and act on it; say whether anything was there."""
        came = self._channel.read()
        if came:
            self._silence.heard()
        while (message := self._kept.popleft() if self._kept else self._channel.next()) is not None:
            if self._is_answer(message):
                continue
            steps = self._on_message(*message)
            if steps is not None:
                for done, _ in enumerate(steps):
                    if done % HANDFUL == HANDFUL - 1 and self._awake:
                        self._flush()
        return came
