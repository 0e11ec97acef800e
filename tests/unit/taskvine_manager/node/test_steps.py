"""Steps in the lives of processes, until they are sent."""

from __future__ import annotations

from taskvine_manager.node import steps
from taskvine_manager.node.steps import ENDED, MOST_STEPS, STARTED, Step, Steps


def test_steps_stay_until_they_are_sent() -> None:
    kept = Steps(wanted=True)
    assert kept.first() == ()
    kept.add("slot", "1", STARTED)
    kept.add("slot", "1", ENDED, -9, "killed")
    first = Step("slot", "1", steps.STARTED, None, "")
    assert kept.first(1) == (first,)
    assert kept.first() == (first, Step("slot", "1", steps.ENDED, -9, "killed"))
    kept.sent(1)
    assert [step.step for step in kept.first()] == [ENDED]


def test_unwanted_steps_are_not_kept() -> None:
    kept = Steps(wanted=False)
    kept.add("slot", "1", STARTED)
    assert kept.first() == ()


def test_number_of_kept_steps_is_bounded() -> None:
    kept = Steps(wanted=True)
    for number in range(MOST_STEPS + 1):
        kept.add("slot", str(number), STARTED)
    assert len(kept.first(2 * MOST_STEPS)) == MOST_STEPS
