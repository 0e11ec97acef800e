"""Statements about measurements, checked with simulated measurements whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_tune.errors import BadSamples
from taskvine_tune.statistics import Interval, bootstrap_interval, fewest_repetitions, judge, medians


def rounds(medians: list[float], count: int, *, noise: float, drift: float, seed: int) -> dict[str, list[float]]:
    """Make run times of settings in interleaved rounds. Each round slows all settings; each run has its own noise."""
    random = np.random.default_rng(seed)
    slowed = random.lognormal(0, drift, count)
    return {
        f"s{number}": list(median * slowed * random.lognormal(0, noise, count)) for number, median in enumerate(medians)
    }


def test_medians() -> None:
    assert medians({"a": [3, 1, 2], 2: [4.0, 1.0]}) == {"a": 2.0, 2: 2.5}


def test_interval_calculated_by_hand() -> None:
    # Of 3 paired rounds with differences 1, 2 and 6, resampled medians are 1, 2 or 6 with 7/27, 13/27 and 7/27.
    first, second = [11.0, 12.0, 16.0], [10.0, 10.0, 10.0]
    assert bootstrap_interval(first, second, measure="difference", confidence=0.9) == Interval(2.0, 1.0, 6.0, 0.9)
    assert bootstrap_interval(first, second, measure="difference", confidence=0.4) == Interval(2.0, 2.0, 2.0, 0.4)
    assert bootstrap_interval(first, second, measure="ratio", confidence=0.9) == Interval(1.2, 1.1, 1.6, 0.9)


def test_the_same_seed_gives_the_same_interval() -> None:
    samples = rounds([1, 1], 15, noise=0.3, drift=0.1, seed=3)
    one, other = samples.values()
    assert bootstrap_interval(one, other, seed=5) == bootstrap_interval(one, other, seed=5)
    assert bootstrap_interval(one, other, seed=5) != bootstrap_interval(one, other, seed=6)


@given(
    st.lists(st.tuples(st.floats(0.5, 2), st.floats(0.5, 2)), min_size=1, max_size=12),
    st.sampled_from(["ratio", "difference"]),
    st.booleans(),
)
def test_interval_contains_its_estimate(pairs: list[tuple[float, float]], measure: Any, paired: bool) -> None:
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    there = bootstrap_interval(one, other, measure=measure, paired=paired, resamples=500)
    assert there.low <= there.high
    if not paired:
        return
    back = bootstrap_interval(other, one, measure=measure, resamples=500)
    turned = (lambda value: 1 / value) if measure == "ratio" else (lambda value: -value)
    for value, opposite in ((there.low, back.high), (there.high, back.low), (there.estimate, back.estimate)):
        assert value == pytest.approx(turned(opposite), abs=1e-12)
    same = bootstrap_interval(one, one, measure=measure, resamples=500)
    assert same.low == same.high == same.estimate == (1.0 if measure == "ratio" else 0.0)


def test_pairing_removes_common_noise() -> None:
    samples = rounds([1.0, 1.1], 12, noise=0.01, drift=0.5, seed=1)
    one, other = samples.values()
    paired = bootstrap_interval(one, other)
    apart = bootstrap_interval(one, other, paired=False)
    assert 1.0 not in paired
    assert 1.0 in apart
    assert paired.high - paired.low < (apart.high - apart.low) / 5


def rate(sweeps: int, happens: Callable[[int], bool]) -> float:
    return sum(map(happens, range(sweeps))) / sweeps


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("count", [8, 20])
def test_intervals_have_their_confidence(paired: bool, count: int) -> None:
    def holds(seed: int) -> bool:
        samples = rounds([0.8, 1.0], count, noise=0.1, drift=0.1 if paired else 0.0, seed=seed)
        return 0.8 in bootstrap_interval(*samples.values(), paired=paired, resamples=1000, seed=seed)

    # 95 percent is asked for; three standard errors of 400 trials are 3.3 percent.
    assert rate(400, holds) >= 0.95 - 0.035


@pytest.mark.parametrize(
    ("settings", "count", "paired"),
    [(2, 6, True), (2, 15, True), (3, 7, True), (4, 15, True), (6, 8, True), (2, 4, False), (2, 12, False)],
)
def test_equal_settings_have_no_winner(settings: int, count: int, paired: bool) -> None:
    def claims(seed: int) -> bool:
        samples = rounds([1.0] * settings, count, noise=0.1, drift=0.1 if paired else 0.0, seed=seed)
        return judge(samples, paired=paired, resamples=1000, seed=seed).certain

    # At most 5 percent are allowed; three standard errors of 300 trials are 3.8 percent.
    assert rate(300, claims) <= 0.05 + 0.038


@pytest.mark.parametrize(("settings", "count"), [(2, 8), (6, 12)])
def test_clearly_best_setting_is_named(settings: int, count: int) -> None:
    def named(seed: int) -> bool:
        times = [1.0] * settings
        times[1] = 0.8
        verdict = judge(rounds(times, count, noise=0.05, drift=0.3, seed=seed), resamples=1000, seed=seed)
        return verdict.certain and verdict.best == "s1"

    assert rate(200, named) >= 0.9


def test_small_difference_needs_more_repetitions() -> None:
    few = judge(rounds([1.0, 0.98], 8, noise=0.05, drift=0.1, seed=4))
    many = judge(rounds([1.0, 0.98], 400, noise=0.05, drift=0.1, seed=4))
    assert not few.certain
    assert "the difference is noise" in str(few)
    assert many.certain
    assert many.best == "s1"
    assert str(many) == "s1 is best with 0.95 confidence"
    assert 0.98 in many.comparisons[0].interval


def test_only_tied_settings_are_named() -> None:
    verdict = judge(rounds([1.0, 2.0, 1.001, 3.0], 12, noise=0.03, drift=0.2, seed=2))
    assert {verdict.best, *verdict.tied} == {"s0", "s2"}
    assert [each.rival for each in verdict.comparisons][1:] == ["s1", "s3"]
    assert [each.distinct for each in verdict.comparisons] == [False, True, True]
    assert not verdict.certain
    assert verdict.tied[0] in str(verdict)
    assert "s3" not in str(verdict)
    # The allowed error is divided among three comparisons.
    assert verdict.comparisons[0].interval.confidence == pytest.approx(1 - 0.05 / 3)
    assert verdict.confidence == 0.95


def test_too_few_repetitions_prove_nothing() -> None:
    verdict = judge({"a": [1.0] * 5, "b": [100.0] * 5})
    assert 1.0 not in verdict.comparisons[0].interval
    assert not verdict.certain
    assert (verdict.repetitions, verdict.needed) == (5, 6)
    assert str(verdict) == "nothing can be said with 0.95 confidence from 5 repetitions: 6 are needed"
    assert judge({"a": [1.0] * 6, "b": [100.0] * 6}).certain


@pytest.mark.parametrize(
    ("confidence", "paired", "fewest"),
    [
        (0.95, True, 6),
        (0.95, False, 4),
        (0.99, True, 8),
        (0.99, False, 5),
        (0.75, True, 3),
        (0.5, True, 2),
        (1 - 0.05 / 5, True, 8),
    ],
)
def test_minimum_number_of_repetitions(confidence: float, paired: bool, fewest: int) -> None:
    assert fewest_repetitions(confidence, paired=paired) == fewest


def test_larger_may_be_better() -> None:
    rates = {"slow": [1.0] * 8, "fast": [2.0] * 8}
    assert judge(rates, smaller_is_better=False).best == "fast"
    assert judge(rates, smaller_is_better=False).certain
    assert judge(rates).best == "slow"


def test_differences_may_have_any_sign() -> None:
    verdict = judge({"a": [-1.0] * 8, "b": [0.0] * 8}, measure="difference")
    assert verdict.certain
    assert verdict.comparisons[0].interval.estimate == -1.0


def test_single_setting_has_no_rival() -> None:
    verdict = judge({"a": [1.0, 2.0]})
    assert not verdict.certain
    assert verdict.tied == ()
    assert str(verdict) == "a is the only setting"


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        ({}, "there are none"),
        ({"a": [], "b": []}, "no measurements"),
        ({"a": [1.0], "b": [math.nan]}, "not a finite number"),
        ({"a": [1.0], "b": [math.inf]}, "not a finite number"),
        ({"a": [1.0, 2.0], "b": [1.0]}, "paired, but"),
        ({"a": [1.0], "b": [0.0]}, "above 0"),
        ({"a": [[1.0]], "b": [1.0]}, "no measurements"),
    ],
)
def test_incomparable_samples_are_refused(samples: Any, says: str) -> None:
    with pytest.raises(BadSamples, match=says):
        judge(samples)


@pytest.mark.parametrize("confidence", [0, 1, -1, 95])
def test_confidence_is_a_probability(confidence: float) -> None:
    for use in (
        lambda: fewest_repetitions(confidence),
        lambda: bootstrap_interval([1.0], [1.0], confidence=confidence),
        lambda: judge({"a": [1.0], "b": [1.0]}, confidence=confidence),
    ):
        with pytest.raises(ValueError, match="between 0 and 1"):
            use()
    with pytest.raises(ValueError, match="at least 1"):
        bootstrap_interval([1.0], [1.0], resamples=0)
