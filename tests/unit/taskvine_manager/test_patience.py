"""Silence and stops count only while the observer itself runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_manager.patience import Limits, Silence, Stopped, Verdict


def looks(silence: Silence, limits: Limits, begin: float, seconds: float) -> list[tuple[float, Verdict]]:
    count = int(seconds / limits.pause)
    return [(begin + n * limits.pause, silence.look(begin + n * limits.pause)) for n in range(count + 1)]


def test_silent_process_is_asked_and_then_lost() -> None:
    limits = Limits(8.0, 4.0)
    verdicts = [
        (when, verdict) for when, verdict in looks(Silence(limits), limits, 100.0, 13.0) if verdict.value != "wait"
    ]
    assert verdicts[0] == (108.0, Verdict.ASK)
    assert verdicts[1] == (112.0, Verdict.LOST)


def test_answer_in_time_keeps_a_process() -> None:
    limits = Limits(8.0, 4.0)
    silence = Silence(limits)
    looks(silence, limits, 0.0, 11.0)
    silence.heard()
    assert [verdict for _, verdict in looks(silence, limits, 11.0, 7.0)] == [Verdict.WAIT] * 8


def test_patience_can_be_switched_off() -> None:
    limits = Limits(0.0, 1.0)
    silence = Silence(limits)
    assert {silence.look(float(now)) for now in range(1000)} == {Verdict.WAIT}


@given(st.floats(0.5, 100.0), st.floats(0.5, 100.0), st.lists(st.floats(10.0, 1e6), min_size=1, max_size=20))
def test_late_observer_does_not_count_silence(interval: float, timeout: float, pauses: list[float]) -> None:
    limits = Limits(interval, timeout)
    silence, now = Silence(limits), 0.0
    silence.look(now)
    for pause in pauses:
        now += limits.pause + 1.0 + pause
        assert silence.look(now) == Verdict.WAIT


@given(st.floats(0.5, 100.0), st.floats(0.5, 100.0), st.integers(0, 300))
def test_silence_is_limited(interval: float, timeout: float, heard: int) -> None:
    limits = Limits(interval, timeout)
    silence, now = Silence(limits), 0.0
    for _ in range(heard):
        silence.look(now)
        silence.heard()
        now += limits.pause
    begun = now
    while silence.look(now) != Verdict.LOST:
        now += limits.pause
        assert now - begun <= interval + timeout + 3 * limits.pause
    assert now - begun >= timeout


@pytest.mark.parametrize("gap", [0.0, 50.0])
def test_processes_stopped_for_too_long_are_lost(gap: float) -> None:
    limits = Limits(4.0, 4.0)
    stopped = Stopped(limits)
    assert stopped.due(10.0)
    assert stopped.look([1, 2], 10.0) == set()
    assert not stopped.due(10.5)
    for now in (11.0, 12.0, 13.0):
        assert stopped.look([1], now) == set()
    assert stopped.look([1, 2], 14.0 + gap) == (set() if gap else {1})
    assert stopped.look([1, 2], 15.0 + gap) == {1}
    assert stopped.look([], 16.0 + gap) == set()
