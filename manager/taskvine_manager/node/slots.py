"""The function slots of a node, and the library that forks them.

:class:`Slots` sends tasks to the slots that :class:`~taskvine_manager.node.pool.Pool` chooses, and tells the pool what
their processes do. The node's loop calls it when a socket is readable; it never blocks.
"""

from __future__ import annotations

import itertools
import os
import pickle
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from taskvine_manager.node import accelerators, pinning
from taskvine_manager.node.calls import Call, Shared
from taskvine_manager.node.deaths import died, not_started
from taskvine_manager.node.hardware import thread_limits
from taskvine_manager.node.library import Library
from taskvine_manager.node.pool import CHUNK_CALLS, Fork, Pool, Refusal
from taskvine_manager.node.slot_directories import SlotDirectories
from taskvine_manager.node.slot_process import SlotProcess
from taskvine_manager.node.steps import ENDED, STARTED
from taskvine_manager.node_parameters import BATCH, MAX_LIBRARY_RETRIES
from taskvine_manager.runtime import failure, keeper
from taskvine_manager.runtime.payload import encode

IDLE_EXIT_SECONDS = 0.5
"""Seconds for idle slots to run their exit handlers when the node ends."""


class Slots:
    """Function slots under one library.

    Parameters
    ----------
    library : Library
        Forks the slots.
    shared : Shared
        What they share with L1 tasks.
    watch, unwatch : callable
        Register and unregister a socket with the node's loop: ``watch(socket, callback)``.
    numbers : iterator of int, optional
        Numbers of new slots, if slots of several libraries must have different ones.
    """

    def __init__(
        self,
        library: Library,
        shared: Shared,
        watch: Callable[[socket.socket, Callable[[], None]], None],
        unwatch: Callable[[socket.socket], None],
        numbers: Iterator[int] | None = None,
    ) -> None:
        self._config, self._functions, self._resources, self._report, self._kills = shared
        self._directories = SlotDirectories(self._config)
        self._watch = watch
        self._unwatch = unwatch
        self._numbers = itertools.count() if numbers is None else numbers
        self._pool: Pool[SlotProcess] = Pool(self._resources)
        self._library = library

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Apply tuning parameters; this class uses ``executor.batch`` and ``max-library-retries``."""
        if BATCH in parameters:
            self._pool.most_calls = int(parameters[BATCH]) or CHUNK_CALLS
        self._library.retries = int(parameters.get(MAX_LIBRARY_RETRIES, self._library.retries))

    # --- the library ---

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start the library, without waiting for it; ``environment`` are further variables for its process."""
        channel = self._library.start(environment)
        self._watch(channel, lambda: self._library_speaks(channel))

    def _library_speaks(self, channel: socket.socket) -> None:
        kind, *rest = self._library.receive() or ("nothing",)
        if kind == "gone":
            self._unwatch(channel)
            self._library_gone()
        elif kind == "warm":
            self.pump()
        elif kind == "exited":
            number, status = rest
            self._library.steps.add("slot", str(number), ENDED, os.waitstatus_to_exitcode(status))
            self._slot_gone(number, status)
        elif kind == "forked":
            self._library.steps.add("slot", str(rest[0]), STARTED)
            slot = self._pool.slots.get(rest[0])
            if slot is None:
                return
            slot.pid = rest[1]
            if slot.calls and slot.calls[0].kill_record is not None:
                slot.end()  # cancelled meanwhile

    def _library_gone(self) -> None:
        """Clean up after a library that has ended, and start it again if tasks are pending."""
        record, may_start = self._library.bury()
        for slot in list(self._pool.slots.values()):
            slot.end()
            self._read_last(slot)
            lost = self._pool.library_died(slot)
            self._close(slot)
            self._directories.clear(slot.number)
            for call in lost:
                self._report(call, failure.LOST, call.kill_record or record, 0.0, 0.0)
        if not may_start:
            self._fail_pending(record)
        if self._pool.pending and self._library.channel is None:  # a report may have brought a task that started it
            self.start()

    def _fail_pending(self, record: bytes) -> None:
        for call in self._pool.withdraw():
            self._report(call, failure.LOST, record, 0.0, 0.0)

    # --- tasks ---

    def forget_functions(self, keys: set[str]) -> None:
        """Tell slots to forget functions that no task here needs."""
        for slot in self._pool.forget(keys):
            slot.tidy()

    def add(self, call: Call) -> None:
        """Queue a task, which :meth:`pump` sends to a slot, and start the library if it is not running."""
        self._pool.add(call)
        if self._library.channel is None:
            self.start()

    def pump(self) -> None:
        """Send pending tasks to slots while resources are free."""
        if not self._library.is_warm:
            return
        pool = self._pool
        while pool.pending:
            now = time.monotonic()
            choice = pool.choose(now)
            if choice is None:
                return
            if isinstance(choice, SlotProcess):
                if not self._send_first(choice, now):
                    return  # its socket is full: its next answer calls this again
            elif isinstance(choice, Refusal):
                self._refuse(choice)
            elif not self._fork(choice):
                return

    def _send_first(self, slot: SlotProcess, now: float) -> bool:
        """Send the first pending tasks to a slot; return False if it can take none now."""
        calls = self._pool.occupy(slot, now)
        goes_on = True
        if all(self._encode_inputs(call) for call in calls if call.values):
            dispatched = time.time()
            count = slot.give(calls, self._functions)
            self._pool.handed(slot, count, dispatched)
            goes_on = count > 0
        self._free_or_end(slot)
        return goes_on

    def _encode_inputs(self, call: Call) -> bool:
        """Encode the small results that a task reads as one payload, since there may be thousands.

        If that fails, fail the task and return False.
        """
        if call.given is None or (isinstance(call.given, str) and not os.path.exists(call.given)):  # a slot used it up
            spool = self._config["spool"]
            try:
                call.given = encode(call.values, spool, pickle.dumps)
            except OSError as error:
                self._pool.withdraw({call.invocation.number})
                self._report(call, failure.LOST, not_started(call, error, spool), 0.0, 0.0)
                return False
        return True

    def _refuse(self, refusal: Refusal) -> None:
        """Fail a task whose memory limit is lower than the memory that a slot needs to load its function."""
        call = refusal.call
        reason = f"ask for more memory to run {call.profile.name}"
        record = failure.lost("memory", reason, limit_mb=call.need.memory, slot_mb=refusal.held)
        self._report(call, failure.LOST, record, 0.0, 0.0)

    def _fork(self, fork: Fork) -> bool:
        """Fork a slot; return whether the library could be told to."""
        for idle in self._pool.displaced_by(fork):
            self._end_idle(idle)
        config, number = self._config, next(self._numbers)
        cores, memory, _ = fork.need
        environment = thread_limits(cores, config["env_vars"]) if cores != config["slot_cores"] else {}
        environment.update(accelerators.variables(config["gpu_kind"], self._resources.visible(fork.grant), os.environ))
        cpus = self._resources.cpus(fork.grant)
        environment.update(pinning.variables(cpus, config["env_vars"]))
        environment.update(self._directories.make(number))
        slot = SlotProcess(number, fork.need, fork.grant)
        if not self._library.fork(number, environment, memory, cpus, slot.other_end):
            slot.close()
            return False
        self._pool.admit(slot)
        self._watch(slot.socket, lambda: self._slot_speaks(slot))
        return True

    # --- what slots say ---

    def _slot_speaks(self, slot: SlotProcess) -> None:
        for _ in range(max(self._pool.most_calls, CHUNK_CALLS)):
            if not self._read(slot) or not slot.calls:
                break
        if slot.number in self._pool.slots:
            self._free_or_end(slot)
        self.pump()

    def _read(self, slot: SlotProcess) -> bool:
        """Read one packet of a slot, if there is one, and act on it."""
        try:
            packet = slot.receive()
        except Exception as error:
            self._give_up(slot, error)
            return False
        if packet is None:
            return False
        kind = packet[0]
        if kind == "r":
            _, _, outcome, body, started, seconds, left = packet
            call = self._pool.ended(slot, outcome == failure.RETURNED, seconds)
            call.left = left
            self._report(call, outcome, body, started, seconds)
        elif kind == "l":
            slot.loaded.add(packet[1])
        elif kind == "u":
            self._pool.function_missing(slot)
        else:
            self._on_last_packet(slot, *packet[1:])
        return True

    def _give_up(self, slot: SlotProcess, error: Exception) -> None:
        """End a slot that sent a malformed packet, probably because a function wrote to the slot's descriptors."""
        slot.is_ending = True
        reason = f"its process sent a malformed packet ({failure.describe(error)}). Does it write to file descriptors "
        reason += "that it has not opened?"
        if slot.calls and slot.calls[0].kill_record is None:
            name = slot.calls[0].profile.name
            slot.calls[0].kill_record = failure.lost("slot-died", f"while it ran {name}: {reason}")
        slot.end()

    def _on_last_packet(self, slot: SlotProcess, number: int | None, held: float, is_fresh: bool) -> None:
        """Handle the last packet of a slot: it cannot be restored, or holds more than the next task's memory limit."""
        slot.is_ending = True
        self._take_back(slot)
        if number is not None and (call := self._pool.outgrown(slot, held, is_fresh)) is not None:
            assert call.kill_record is not None
            self._report(call, failure.LOST, call.kill_record, 0.0, 0.0)

    def _free_or_end(self, slot: SlotProcess) -> None:
        """Free the resources of a slot that has no tasks left, and end it if it begins no more tasks."""
        if slot.calls:
            return
        if slot.is_ending:
            self._end_idle(slot)
        elif self._pool.free(slot):
            slot.tidy()

    # --- taking back, and ends ---

    def _take_back(self, slot: SlotProcess) -> list[Call]:
        """Take back the tasks that a slot has not begun, and queue and return them."""
        return self._pool.taken_back(slot, slot.take_back())

    def rebalance(self) -> bool:
        """Take tasks back from slots that are busy with a long one; return whether any slot has several tasks."""
        stuck, any_queued = self._pool.stuck(time.monotonic())
        for slot in stuck:
            self._take_back(slot)
            self._free_or_end(slot)
        self.pump()
        return any_queued

    def _read_last(self, slot: SlotProcess) -> list[Call]:
        """Read the last packets of a dead slot, and take back the tasks that it had not begun."""
        while self._read(slot):
            pass
        return self._take_back(slot)

    def _slot_gone(self, number: int, status: int) -> None:
        self._directories.clear(number)
        slot = self._pool.slots.get(number)
        if slot is None:
            return  # it was idle and has been ended
        untouched = self._read_last(slot)
        context_failed = None if slot.calls else self._directories.context_failure(slot)
        lost = self._pool.slot_died(slot, [] if context_failed else untouched)
        self._close(slot)
        if context_failed:
            self._fail_pending(context_failed)
        elif lost is not None:
            log = self._directories.log(number)
            record = lost.kill_record or died(lost, os.waitstatus_to_exitcode(status), log, self._kills)
            self._report(lost, failure.LOST, record, 0.0, 0.0)
        self.pump()

    def _close(self, slot: SlotProcess) -> None:
        self._unwatch(slot.socket)
        slot.close()

    def _end_idle(self, slot: SlotProcess) -> None:
        """End an idle slot by closing its socket. Nothing waits for the end of its process."""
        self._pool.remove(slot)
        self._close(slot)

    # --- what the node asks for ---

    def running(self) -> Iterable[tuple[int, Call]]:
        """Return the process id of each busy slot's keeper, and its task.

        A task with a memory limit is listed only once its slot has loaded the function. Until then, the slot itself
        compares its memory with the limit.
        """
        return [
            (slot.pid, slot.calls[0])
            for slot in self._pool.slots.values()
            if slot.calls
            and slot.pid is not None
            and (not slot.need.memory or slot.calls[0].profile.function in slot.loaded)
        ]

    def first(self) -> Call | None:
        """Return the first pending task, if there is one."""
        return self._pool.pending[0] if self._pool.pending else None

    def hand_back(self) -> list[Call]:
        """Remove all tasks that have not begun, and return them."""
        for slot in self._pool.slots.values():
            self._take_back(slot)
        return self._pool.withdraw()

    def surplus(self, categories: set[str]) -> list[Call]:
        """Remove most tasks of some categories that have not begun, and return them: one for each slot stays."""
        crowded = [
            slot
            for slot in self._pool.slots.values()
            if any(call.profile.category in categories for call in itertools.islice(slot.calls, 1, None))
        ]
        for slot in crowded:
            self._take_back(slot)
        gone = self._pool.surplus(categories)
        for slot in crowded:
            self._free_or_end(slot)
        self.pump()
        return gone

    def cancel(self, numbers: set[int], record: bytes) -> list[Call]:
        """Cancel tasks: remove and return those not begun; kill the slots of those that run, which are reported.

        Uninterrupted tasks that run are left alone.
        """
        for slot in list(self._pool.slots.values()):
            if not any(call.invocation.number in numbers for call in slot.calls):
                continue
            self._take_back(slot)
            while len(slot.calls) > 1 and self._read(slot):
                pass  # results of tasks before the one that it runs now
            first = slot.calls[0] if slot.calls else None
            if first is not None and first.invocation.number in numbers and not first.profile.uninterrupted:
                first.kill_record = record
                slot.end()
            self._free_or_end(slot)
        gone = self._pool.withdraw(numbers)
        self.pump()
        return gone

    def stop(self) -> None:
        """End every slot and the library. Keepers of busy slots may still be ending their processes afterwards."""
        idle = []
        for slot in self._pool.slots.values():
            if slot.calls:
                slot.end()
            elif slot.pid is not None:
                idle.append(slot.pid)
            slot.close()
        self._pool.slots.clear()
        deadline = time.monotonic() + IDLE_EXIT_SECONDS
        while any(map(keeper.is_keeper, idle)) and time.monotonic() < deadline:
            time.sleep(0.002)
        self._library.stop()
