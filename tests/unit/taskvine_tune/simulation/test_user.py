"""The simulated user: when it submits, forgets and fetches."""

from __future__ import annotations

from collections.abc import Callable

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling.events import Answer, Asked, Event, Finish, Forgotten, Replica, Submitted
from taskvine_manager.wire.messages import Completion
from taskvine_tune.simulation.model import Cluster
from taskvine_tune.simulation.network import Clock
from taskvine_tune.simulation.user import FETCHES, User
from taskvine_tune.simulation.workloads import Job, Result, Workload, generate


class Desk:
    """A manager that notes its requests."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.cluster = Cluster(1, latency=0.0)
        self.events: list[Event] = []
        self.is_there = True
        self.traffic: list[tuple[str, int]] = []

    def handle(self, event: Event) -> None:
        self.events.append(event)

    def bring(self, file: str, replica: Replica, came: Callable[[], None], failed: Callable[[], None]) -> None:
        (came if self.is_there else failed)()

    def fetched(self, source: str, size: int) -> None:
        self.traffic.append((source, size))

    def told(self) -> list[Event]:
        """Return the requests since the last call, until nothing more is due."""
        while self.clock.step():
            pass
        events, self.events = self.events, []
        return events


def numbers(events: list[Event]) -> list[int]:
    return [each.number for event in events if isinstance(event, Submitted) for each in event.invocations]


def ends(*numbers: int, outcome: int = failure.RETURNED) -> Finish:
    return Finish([Completion(number, outcome, b"", "n", 0.0, 0.0, 1.0, ()) for number in numbers])


def user_of(workload: Workload, window: int = 100) -> tuple[User, Desk]:
    desk = Desk()
    user = User(workload, window, desk)
    user.begin()
    return user, desk


def test_tasks_wait_for_the_window_and_come_in_batches() -> None:
    user, desk = user_of(generate("independent", 12), window=8)
    assert numbers(desk.told()) == list(range(8))
    user.finish(ends(0))
    assert numbers(desk.told()) == []  # a quarter of the window must be free
    user.finish(ends(1, 2))
    assert numbers(desk.told()) == [8, 9, 10]


def test_tasks_come_at_their_times() -> None:
    jobs = [Job(1.0, submitted=0.0), Job(1.0, submitted=5.0)]
    _, desk = user_of(Workload("two", 2, lambda: iter(jobs)))
    assert desk.clock.step()
    assert numbers(desk.events) == [0]
    assert numbers(desk.told()) == [0, 1]
    assert desk.clock.now == 5.0


def test_results_are_fetched_a_few_at_a_time_and_then_forgotten() -> None:
    user, desk = user_of(generate("independent", 2 * FETCHES))
    desk.told()
    user.finish(ends(*range(2 * FETCHES)))
    asked = [event for event in desk.told() if isinstance(event, Asked)]
    assert len(asked) == FETCHES
    user.answer(Answer(asked[0].request, "r0", Replica("n", 70_000, 1)))
    told = desk.told()
    assert Forgotten(("r0",)) in told
    assert sum(isinstance(event, Asked) for event in told) == 1
    assert desk.traffic == [("results", 70_000)]


def test_missing_result_is_requested_again() -> None:
    user, desk = user_of(generate("independent", 1))
    desk.told()
    user.finish(ends(0))
    (asked,) = desk.told()
    assert isinstance(asked, Asked)
    desk.is_there = False
    user.answer(Answer(asked.request, "r0", Replica("n", 70_000, 1)))
    (again,) = desk.told()
    assert isinstance(again, Asked)
    assert again.request != asked.request
    assert not user.is_content
    user.answer(Answer(again.request, "r0", None))
    desk.told()
    assert user.is_content
    assert (user.done, user.undelivered) == (1, 1)


def test_a_result_is_forgotten_when_enough_tasks_have_ended() -> None:
    jobs = [Job(1.0, outputs=(Result("r0", 9),)), Job(1.0, ("r0",), forgets=(("r0", 2),))]
    user, desk = user_of(Workload("two", 2, lambda: iter(jobs)))
    desk.told()
    user.finish(ends(0))
    assert desk.told() == []
    user.finish(ends(1, outcome=failure.LOST))
    assert desk.told() == [Forgotten(("r0",))]


def test_unfinished_tasks_have_failed() -> None:
    user, desk = user_of(generate("independent", 9), window=4)
    desk.told()
    user.finish(ends(0))
    user.give_up()
    assert (user.done, user.failed, user.undelivered) == (1, 8, 1)
