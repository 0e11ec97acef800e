"""The core of a node: what becomes of the tasks and files that the manager sends.

:class:`NodeCore` is pure: no sockets, processes, threads or clocks. It decides, and :class:`Actions` do what it decides
and tell it how that went. The embedded engine's nodes run it on real processes and files, the simulator on imagined
ones. :class:`~taskvine_manager.node.pool.Pool`, which is pure too, chooses the slots of function calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from taskvine_manager.node.calls import Call, Ending
from taskvine_manager.node.inputs import Files, Inputs, State, Supply
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import L1


class Actions(NamedTuple):
    """What a node does when its core has decided so.

    Parameters
    ----------
    stage : callable
        Called with a task and its :class:`Supply`. Brings the task's files to its sandbox; calls
        :meth:`NodeCore.fetching` first, then :meth:`NodeCore.came` and :meth:`NodeCore.staged`.
    add : callable
        Queues a function call that needs no staging. The slots start it at the next ``pump``.
    pump : callable
        Starts queued function calls while resources are free.
    run : callable
        Queues a task that has been staged, and starts it when its resources are free. :meth:`NodeCore.ended` follows,
        as after ``add``.
    keep : callable
        Called with a task that has outputs and its :class:`Ending`. Stores them; then calls :meth:`NodeCore.kept`, or
        :meth:`NodeCore.await_room` if they do not fit.
    complete : callable
        Called with a task and its :class:`Ending`. Reports the task to the manager.
    crowded : callable
        Called with a task's number and the bytes of its outputs. Asks the manager to free disk space for them.
    returned : callable
        Called with numbers of tasks that have not begun. Gives them back to the manager, because they cannot run here.
    forget : callable
        Called with a task that is over for this node. Removes what the node has for it alone.
    """

    stage: Callable[[Call, Any], None]
    add: Callable[[Call], None]
    pump: Callable[[], None]
    run: Callable[[Call], None]
    keep: Callable[[Call, Ending], None]
    complete: Callable[[Call, Ending], None]
    crowded: Callable[[int, int], None]
    returned: Callable[[list[int]], None]
    forget: Callable[[Call], None]


class NodeCore:
    """The tasks on a node, from their arrival to their report.

    Parameters
    ----------
    files : Files
        The node's cache.
    calls : mapping of int to Call
        The tasks on the node. Whoever starts them adds them before :meth:`take`; ``Actions.forget`` removes them.
    """

    do: Actions
    """The actions. They need the core too, so the node sets them before the first task comes."""

    def __init__(self, files: Files, calls: Mapping[int, Call]) -> None:
        self._calls = calls
        self._inputs = Inputs(files)
        self._is_draining = False
        self._crowded: dict[int, tuple[Callable[[], None], Callable[[], None]]] = {}  # by task: (retry, give up)
        self.fetching = self._inputs.fetching
        """Record that files are being fetched."""
        self.give_results = self._inputs.give_results
        """Give a staged task the results that it reads; raise OSError if one cannot be read."""

    # --- instructions of the manager ---

    def take(self, call: Call, supply: Supply, broken: bytes | None = None) -> None:
        """Take a new task; ``broken`` is the failure record if no task can run on this node."""
        if call.invocation.outputs:
            self._inputs.expect(call)
        if broken is not None:
            self.ended(call, Ending(failure.LOST, broken, 0.0, 0.0))
        elif not call.invocation.inputs or (state := self._inputs.wait(call, supply)) is State.READY:
            self._start(call, supply)
        elif state is State.MISSING:
            self.give_back([call])

    def cancel(self, numbers: set[int], queued: Iterable[Call]) -> None:
        """Forget tasks that are cancelled before they have begun: ``queued`` ones, and those that wait for inputs."""
        for call in [*queued, *self._inputs.waiting(numbers)]:
            self.give_back(self._clear(call))

    def give_back(self, calls: list[Call]) -> None:
        """Return tasks that have not begun to the manager, with those that wait for their results."""
        numbers = []
        while calls:
            call = calls.pop()
            if call.invocation.number in self._calls:
                numbers.append(call.invocation.number)
                calls += self._clear(call)
        if numbers:
            self.do.returned(sorted(numbers))

    def drain(self, queued: list[Call]) -> None:
        """Give back ``queued`` tasks, and from now on each task that has not begun."""
        self._is_draining = True
        self.give_back(queued)

    def room_came(self) -> None:
        """Store the outputs that may fit now."""
        crowded, self._crowded = self._crowded, {}
        for retry, _ in crowded.values():
            retry()

    def give_up(self, numbers: Iterable[int]) -> None:
        """Fail tasks whose outputs do not fit: the manager will not free space for them."""
        for number in numbers:
            if (waiting := self._crowded.pop(number, None)) is not None:
                waiting[1]()

    # --- how actions went ---

    def came(self, names: Sequence[str]) -> None:
        """Note that transfers have ended or failed; start the tasks that waited for these files."""
        self._go_on(self._inputs.fetched(names))
        self.do.pump()

    def staged(self, call: Call, record: bytes | None) -> None:
        """Run a task that has been staged, unless staging failed with a record."""
        if record is not None:
            self.ended(call, Ending(failure.LOST, record, 0.0, 0.0))
        elif self._is_draining:
            self.give_back([call])
        else:
            self.do.run(call)

    def ended(self, call: Call, ending: Ending) -> None:
        """Store the outputs of a task that has ended, and report it."""
        if call.invocation.outputs:
            self.do.keep(call, ending)
        else:
            self.kept(call, ending)

    def await_room(self, call: Call, size: int, retry: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Ask for space for outputs of ``size`` bytes. Either ``retry`` or ``give_up`` is called later."""
        self._crowded[call.invocation.number] = (retry, give_up)
        self.do.crowded(call.invocation.number, size)

    def kept(self, call: Call, ending: Ending) -> None:
        """Report a task whose outputs are where they belong, and go on with the tasks that waited for them."""
        self.do.complete(call, ending)
        if ending.outcome == failure.RETURNED and call.invocation.outputs:
            self._go_on(self._inputs.made(call, ending.body))
        if followers := self._clear(call):
            self.give_back(followers)

    # --- tasks ---

    def _start(self, call: Call, supply: Supply) -> None:
        """Run a task that waits for no other; stage it first if it needs that."""
        if call.profile.mode == L1 or not self._inputs.give_all(call, supply):
            self.do.stage(call, supply)
        else:
            self.do.add(call)

    def _go_on(self, calls: Iterable[Call]) -> None:
        """Start tasks that have waited, or give them back if they have waited in vain."""
        for call in calls:
            if call.invocation.number not in self._calls:
                continue
            supply, call.supply = call.supply, None
            if self._is_draining or not self._inputs.are_available(call, supply):
                self.give_back([call])
            else:
                self._start(call, supply)

    def _clear(self, call: Call) -> list[Call]:
        """Forget a task; return the tasks that wait for its result in vain."""
        self.do.forget(call)
        return self._inputs.drop(call) if call.behind or call.invocation.outputs else []
