"""The simulated user, who submits tasks, forgets results, and fetches those that are wanted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Protocol

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.events import Answer, Asked, Event, Finish, Forgotten, Replica, Submitted
from taskvine_manager.wire.messages import FileUse, Invocation, Profile
from taskvine_tune.simulation.model import Cluster
from taskvine_tune.simulation.network import Clock
from taskvine_tune.simulation.nodes import pack
from taskvine_tune.simulation.workloads import Job, Workload

__all__ = ["Manager", "User"]

BATCH = 512
"""Most tasks that are submitted together."""
FETCHES = 8
"""Results that are brought to the user at a time."""


class Manager(Protocol):
    """The manager, as the user sees it."""

    clock: Clock
    cluster: Cluster

    def handle(self, event: Event) -> None:
        """Take an event at once."""

    def bring(self, file: str, replica: Replica, came: Callable[[], None], failed: Callable[[], None]) -> None:
        """Copy a file from a replica; call ``failed`` if it is not there any more."""

    def fetched(self, source: str, size: int) -> None:
        """Count bytes that were fetched from a source."""


class User:
    """The user of a simulated run.

    Parameters
    ----------
    workload
        The tasks.
    window
        Most tasks at the manager at a time.
    manager
        The manager.
    """

    def __init__(self, workload: Workload, window: int, manager: Manager) -> None:
        self.done = 0
        self.failed = 0
        self.undelivered = 0
        """Results that could not be brought to the user."""
        self._manager = manager
        self._kinds = workload.kinds
        self._jobs = workload.jobs()
        self._next: Job | None = next(self._jobs, None)
        self._window = window
        self._submitted = 0
        self._live: dict[int, tuple[str, ...]] = {}  # results to fetch, by unfinished task
        self._held: list[tuple[int, str]] = []  # heap of results to forget, by the number of ended tasks
        self._timer = False
        self._ready: deque[str] = deque()
        self._fetching: dict[int, str] = {}
        self._requests = 0

    @property
    def is_content(self) -> bool:
        """Whether all tasks have ended, and the user has their results."""
        return self._next is None and not (self._live or self._ready or self._fetching)

    def give_up(self) -> None:
        """Count what has not ended as failed, and what has not come as undelivered."""
        self.failed += len(self._live)
        while self._next is not None:
            self.failed += 1
            self._next = next(self._jobs, None)
        self.undelivered += len(self._ready) + len(self._fetching)

    # --- tasks ---

    def begin(self) -> None:
        """Submit the kinds of tasks, and then the tasks."""
        profiles = tuple(
            Profile(place, "", *kind[:-1], gpu_memory=kind.gpu_memory) for place, kind in enumerate(self._kinds)
        )
        self._manager.handle(Submitted(profiles, []))
        self._manager.clock.after(0.0, self._feed)

    def _feed(self) -> None:
        """Submit the tasks that are due, as far as the window allows."""
        now = self._manager.clock.now
        while self._next is not None and self._next.submitted <= now:
            room = min(BATCH, self._window - len(self._live))
            # Wait for a larger batch, instead of submitting tasks one by one as they end.
            if room < min(BATCH, self._window // 4 + 1) and self._live:
                break
            batch: list[Invocation] = []
            forgets: list[tuple[str, int]] = []
            while self._next is not None and len(batch) < room and self._next.submitted <= now:
                batch.append(self._invocation(self._next))
                forgets += self._next.forgets
                self._next = next(self._jobs, None)
            self._manager.handle(Submitted((), batch))
            self._forget(forgets)
        if self._next is not None and self._next.submitted > now and not self._timer:
            self._timer = True
            self._manager.clock.after(self._next.submitted - now, self._feed_on)

    def _feed_on(self) -> None:
        self._timer = False
        self._feed()

    def _invocation(self, job: Job) -> Invocation:
        number = self._submitted
        self._submitted += 1
        self._live[number] = tuple(each.name for each in job.outputs) if job.is_final else ()
        inputs = [FileUse("value", "", name) for name in job.inputs]
        if job.temps or job.reads:
            inputs += [FileUse("temp", name, name) for name in job.temps]
            inputs += [FileUse("local", path, path) for path in job.reads]
        outputs = tuple(FileUse(each.kind, "", each.name, each.replicas) for each in job.outputs)
        sizes = tuple(each.size for each in job.outputs)
        return Invocation(number, job.kind, pack(job.seconds, sizes), tuple(inputs), outputs)

    def _forget(self, files: list[tuple[str, int]]) -> None:
        ended = self.done + self.failed
        now = tuple(name for name, count in files if count <= ended)
        for name, count in files:
            if count > ended:
                heappush(self._held, (count, name))
        if now:
            self._manager.handle(Forgotten(now))

    def finish(self, order: Finish) -> None:
        """Take the ends of tasks."""
        for completion in order.completions:
            results = self._live.pop(completion.number)
            if completion.outcome == failure.RETURNED:
                self.done += 1
                self._ready.extend(results)
            else:
                self.failed += 1
                self.undelivered += len(results)
        self._manager.clock.after(0.0, self._go_on)  # the scheduler's other instructions come first

    def _go_on(self) -> None:
        ended = self.done + self.failed
        forgotten = []
        while self._held and self._held[0][0] <= ended:
            forgotten.append(heappop(self._held)[1])
        if forgotten:
            self._manager.handle(Forgotten(tuple(forgotten)))
        self._fetch_more()
        if self._next is not None:
            self._feed()

    # --- results ---

    def _fetch_more(self) -> None:
        while self._ready and len(self._fetching) < FETCHES:
            self._ask(self._ready.popleft())

    def _ask(self, file: str) -> None:
        self._requests += 1
        self._fetching[self._requests] = file
        self._manager.handle(Asked(self._requests, file))

    def answer(self, answer: Answer) -> None:
        """Take the answer to a request for a result: its value, where it is, or that it is lost."""
        request, where = answer.request, answer.where
        if isinstance(where, bytes):
            self._manager.clock.after(0.0, self._delivered, request, 0)
        elif where is None:
            self.undelivered += 1
            self._manager.clock.after(0.0, self._delivered, request, None)
        else:
            self._manager.clock.after(self._manager.cluster.latency, self._collect, request, where)

    def _collect(self, request: int, where: Replica) -> None:
        def again() -> None:
            file = self._fetching.pop(request)
            # The manager learns of the loss after the same latency.
            self._manager.clock.after(self._manager.cluster.latency, self._ask, file)

        self._manager.bring(self._fetching[request], where, lambda: self._delivered(request, where.size), again)

    def _delivered(self, request: int, size: int | None) -> None:
        file = self._fetching.pop(request)
        if size:
            self._manager.fetched("results", size)
        self._manager.handle(Forgotten((file,)))
        self._fetch_more()
