"""What parsl-perf prints."""

from __future__ import annotations

from benchmarks.parsl_perf.__main__ import rates


def test_rates_are_read_from_what_parsl_perf_says() -> None:
    said = (
        "==== Iteration 1 ====\nWill run 10 tasks\nTasks per second: 55.250\nWill run 900 tasks\nTasks per second: 71\n"
    )
    assert rates(said) == [(10, 55.25), (900, 71.0)]
