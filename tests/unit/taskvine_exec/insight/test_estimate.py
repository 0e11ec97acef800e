"""How long a run will still take."""

from __future__ import annotations

import pytest

from taskvine_exec.insight.estimate import estimate
from tests.unit.taskvine_exec.insight.stories import Story


def measured(seconds: float, *, cores: float = 2.0) -> Story:
    """A run in which one task took some seconds."""
    story = Story().node(cores=cores)
    story.runs(story.task(), seconds=seconds)
    return story


def seconds(story: Story, now: float | None = None) -> float:
    known = estimate(story.state, now)
    assert known is not None
    return known.seconds


def test_work_is_shared_by_the_cores_of_all_nodes() -> None:
    story = measured(10.0).node("n2")
    for _ in range(8):
        story.task()
    assert seconds(story) == pytest.approx(20.0)


def test_nothing_is_faster_than_the_longest_chain() -> None:
    story = measured(10.0, cores=100.0)
    number = story.task()
    for _ in range(4):
        number = story.task(number)
    assert seconds(story) == pytest.approx(50.0)


def test_task_that_runs_counts_with_what_is_left() -> None:
    story = measured(10.0)
    story.placed(story.task())
    assert seconds(story, story.now + 4) == pytest.approx(6.0)
    assert seconds(story, story.now + 40) == 0.0


def test_category_that_was_not_measured_counts_with_the_mean() -> None:
    story = measured(10.0, cores=1.0)
    story.task(name="other")
    known = estimate(story.state)
    assert known is not None
    assert (known.seconds, known.unmeasured) == (10.0, 1)


def test_nothing_is_known_at_first() -> None:
    story = Story().node()
    story.task()
    assert estimate(story.state) is None


def test_nothing_is_left_or_no_node_is_there() -> None:
    story = measured(1.0)
    assert estimate(story.state) is None
    story.task()
    assert estimate(story.node_ends().state) is None


def test_circle_in_a_damaged_record_ends() -> None:
    story = measured(1.0)
    story.task(2)
    story.task(1)
    assert seconds(story) == pytest.approx(1.0)
