"""When the state of a core is checked, and the stories of tasks."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator

import pytest

from taskvine_manager.scheduling import checking
from taskvine_manager.scheduling.checking import PROBLEMS, SMALL, STORY, Checker, InvariantBroken, Story, check
from taskvine_manager.scheduling.tasks import IllegalTransition, State
from tests.unit.taskvine_manager.scheduling.world import World


def counts_agree(parts: list[int]) -> Iterator[str]:
    """No number is above 0."""
    return (f"found {number}" for number in parts if number > 0)


@pytest.mark.parametrize(("value", "wanted"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)])
def test_environment_switches_checks_on(value: str | None, wanted: bool) -> None:
    assert checking.is_wanted({} if value is None else {checking.VARIABLE: value}) is wanted


def test_broken_invariant_is_an_error_with_some_problems() -> None:
    check([counts_agree], [0, 0])
    with pytest.raises(InvariantBroken) as caught:
        check([counts_agree], list(range(100)), "event 7 (Completed)")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.invariant, len(error.problems)) == ("counts_agree", PROBLEMS)
    assert str(error).startswith("counts_agree, after event 7 (Completed): found 1; found 2; ")


@pytest.mark.parametrize(("size", "events"), [(0, range(1, 11)), (SMALL - 1, range(1, 11)), (3 * SMALL, (1, 5, 9))])
def test_large_states_are_checked_less_often(size: int, events: Iterable[int]) -> None:
    checker, seen = Checker(), []

    def count(parts: None) -> Iterator[str]:
        seen.append(str(checker))
        return iter(())

    for _ in range(10):
        checker.begin(0)
        checker.end([count], None, size)
    assert seen == [f"event {number} (int)" for number in events]


def test_error_names_the_events_since_the_last_check() -> None:
    checker = Checker()
    for numbers in ([0], [1], [1], [1]):
        checker.begin(0)
        checker.end([counts_agree], numbers, 3 * SMALL)
    checker.begin("last")
    with pytest.raises(InvariantBroken, match=r", after event 5 \(str\), not checked since event 1: found 1"):
        checker.end([counts_agree], [1], 3 * SMALL)


def test_a_story_keeps_the_last_moves() -> None:
    checker = Checker()
    story = Story(checker)
    assert str(story).endswith("its last moves: none")
    for _ in range(3 * STORY):
        checker.begin(0)
        story.add(State.WAITING, State.READY, None)
    assert len(story) == STORY
    lines = str(story).splitlines()[1:]
    assert lines == [f"  event {number} (int): WAITING -> READY" for number in range(2 * STORY + 1, 3 * STORY + 1)]


def test_an_illegal_transition_tells_the_story_of_its_task() -> None:
    world = World()
    world.join("a")
    world.call()
    task = world.core.parts.tables.tasks[0]
    world.leave("a")
    world.join("b")
    world.cancel(0)
    with pytest.raises(IllegalTransition) as caught:
        task.move(State.READY)
    assert str(caught.value).splitlines() == [
        "task 0 (name): DONE -> READY, node None, attempt 1, in event 6 (Cancelled); its last moves:",
        "  event 3 (Submitted): WAITING -> READY",
        "  event 3 (Submitted): READY -> ASSIGNED, node a",
        "  event 4 (NodeLeft): ASSIGNED -> READY",
        "  event 5 (NodeJoined): READY -> ASSIGNED, node b",
        "  event 6 (Cancelled): ASSIGNED -> DONE",
    ]


def test_recreating_task_has_a_story() -> None:
    world = World()
    world.join("a")
    world.make("x")
    world.leave("a")
    world.join("b")
    world.ask("x")
    assert "event 7 (Asked): READY -> ASSIGNED, node b" in str(world.core.parts.tables.tasks[-1].story)


def test_illegal_transition_tells_how_to_get_the_story() -> None:
    world = World(check=False)
    world.call()
    task = world.core.parts.tables.tasks[0]
    assert task.story is None
    with pytest.raises(IllegalTransition, match=r"READY -> READY, .*set TASKVINE_EXEC_CHECK=1 to get the task's story"):
        task.move(State.READY)
