"""Comparison of settings: which one is best, with what confidence, and which differences are noise.

Pure functions from measurements to conclusions. Settings are compared by their medians, because run times have long
tails. The confidence of a comparison comes from resampling the measurements (the percentile bootstrap: B. Efron and R.
J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

Interleaved repetitions (every setting once, then every setting again) are paired: if the machine is slow for a while,
all settings of that round are slow. Whole rounds are then resampled, so that this common part cancels out.

The bootstrap is wrong for small samples: with three rounds the interval of the median never leaves the three values,
and would miss the true value in a quarter of all cases although it claims 95 percent. Nothing is therefore concluded
from fewer repetitions than :func:`fewest_repetitions`, the bound of the corresponding rank test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from taskvine_tune.errors import BadSamples

__all__ = [
    "Comparison",
    "Interval",
    "Measure",
    "Verdict",
    "bootstrap_interval",
    "fewest_repetitions",
    "judge",
    "medians",
]

Measure = Literal["ratio", "difference"]
K = TypeVar("K", bound=Hashable)

_Array = npt.NDArray[np.float64]

#: Minimum number of resamples beyond each end of an interval.
_BEYOND = 25

#: Resampled values in memory at a time.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Parameters
    ----------
    estimate
        From the measurements themselves.
    low, high
        The ends of the interval.
    confidence
        The share of such experiments in which the interval holds the true value, between 0 and 1.
    """

    estimate: float
    low: float
    high: float
    confidence: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Comparison(Generic[K]):
    """The best setting compared with another one.

    Parameters
    ----------
    rival
        The other setting.
    interval
        Of the best setting's median divided by the rival's, or minus it. The error that is allowed for all comparisons
        together is divided among them.
    distinct
        Whether the rival is certainly worse: the interval does not contain "equally good", and there were enough
        repetitions.
    """

    rival: K
    interval: Interval
    distinct: bool


@dataclass(frozen=True)
class Verdict(Generic[K]):
    """The conclusion from the measurements.

    Parameters
    ----------
    best
        The setting with the best median.
    medians
        The median of each setting.
    comparisons
        The best setting compared with each other one, best rival first.
    confidence
        The confidence of all statements together.
    repetitions
        The smallest number of repetitions of any setting.
    needed
        The number of repetitions that such a conclusion needs.
    measure
        Whether medians were compared by their ratio or their difference.
    """

    best: K
    medians: Mapping[K, float]
    comparisons: tuple[Comparison[K], ...]
    confidence: float
    repetitions: int
    needed: int
    measure: Measure

    @property
    def certain(self) -> bool:
        """Whether the best setting is certainly better than every other one."""
        return bool(self.comparisons) and not self.tied

    @property
    def tied(self) -> tuple[K, ...]:
        """The settings that cannot be distinguished from the best one."""
        return tuple(each.rival for each in self.comparisons if not each.distinct)

    def __str__(self) -> str:
        return self.in_words()

    def in_words(self, name: Callable[[K], str] = str) -> str:
        """Return the conclusion in a sentence; ``name`` returns the name of a setting."""
        best = name(self.best)
        if not self.comparisons:
            return f"{best} is the only setting"
        if self.certain:
            return f"{best} is best with {self.confidence:.4g} confidence"
        if self.repetitions < self.needed:
            return (
                f"nothing can be said with {self.confidence:.4g} confidence from {self.repetitions} repetitions: "
                f"{self.needed} are needed"
            )
        tied = ", ".join(map(name, self.tied))
        return f"the difference is noise: {best} has the best median, but cannot be told from {tied}"


def medians(samples: Mapping[K, Sequence[float]]) -> dict[K, float]:
    """Return the median of each setting's measurements.

    Parameters
    ----------
    samples
        Measurements by setting.

    Returns
    -------
    dict
        Medians by setting.

    Raises
    ------
    BadSamples
        If a setting has no measurement, or one that is not finite.
    """
    return {key: float(np.median(_array(values))) for key, values in samples.items()}


def bootstrap_interval(
    first: Sequence[float],
    second: Sequence[float],
    *,
    measure: Measure = "ratio",
    paired: bool = True,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return a confidence interval for the ratio or the difference of two medians.

    Parameters
    ----------
    first, second
        Measurements of two settings.
    measure
        The median of ``first`` divided by that of ``second``, or minus it.
    paired
        Whether measurements at the same index belong to the same round.
    confidence
        Of the interval, between 0 and 1.
    resamples
        Number of resamples; increased if the confidence needs more.
    seed
        Seed of the resampling: the same measurements and seed give the same interval.

    Returns
    -------
    Interval
        The percentile interval, its ends rounded outwards to resampled values.

    Raises
    ------
    BadSamples
        If there are no measurements or not finite ones, if a ratio is asked for and they are not positive, or if they
        are paired and their numbers differ.
    ValueError
        If the confidence is not between 0 and 1, or there are no resamples.
    """
    _check_confidence(confidence)
    if resamples < 1:
        raise ValueError(f"resamples={resamples!r} is not valid: must be at least 1")
    one, other = _array(first), _array(second)
    if paired and len(one) != len(other):
        raise BadSamples(f"paired, but {len(one)} of one setting and {len(other)} of the other")
    if measure == "ratio" and min(one.min(), other.min()) <= 0:
        raise BadSamples("a ratio needs measurements above 0")
    tail = (1 - confidence) / 2
    resampled = _resampled(one, other, measure, paired, max(resamples, math.ceil(_BEYOND / tail)), seed)
    low = np.quantile(resampled, tail, method="lower")
    high = np.quantile(resampled, 1 - tail, method="higher")
    estimate = _compared(np.asarray(np.median(one)), np.asarray(np.median(other)), measure)
    return Interval(float(estimate), float(low), float(high), confidence)


def _resampled(one: _Array, other: _Array, measure: Measure, paired: bool, resamples: int, seed: int) -> _Array:
    random = np.random.default_rng(seed)
    parts = []
    step = max(1, _CHUNK // max(len(one), len(other)))
    for begin in range(0, resamples, step):
        count = min(step, resamples - begin)
        rounds = random.integers(len(one), size=(count, len(one)))
        others = rounds if paired else random.integers(len(other), size=(count, len(other)))
        parts.append(_compared(np.median(one[rounds], axis=1), np.median(other[others], axis=1), measure))
    return np.concatenate(parts)


def _compared(one: _Array, other: _Array, measure: Measure) -> _Array:
    return np.asarray(one / other if measure == "ratio" else one - other)


def fewest_repetitions(confidence: float, *, paired: bool = True) -> int:
    """Return the smallest number of repetitions that can show a difference with this confidence.

    With *n* pairs, the strongest evidence for a difference is that one setting wins every round. By chance alone this
    has the probability :math:`2^{1-n}` (the two-sided sign test). Without pairs, the strongest evidence is that every
    measurement of one setting is below every one of the other: :math:`2 / \\binom{2n}{n}` (the rank sum test). See W.
    J. Conover, Practical Nonparametric Statistics, 1999, chapters 3 and 5.

    Parameters
    ----------
    confidence
        Between 0 and 1.
    paired
        Whether repetitions are paired.

    Returns
    -------
    int
        The number of repetitions of each setting; 6 for 0.95 with pairs, 4 without.

    Raises
    ------
    ValueError
        If the confidence is not between 0 and 1.
    """
    _check_confidence(confidence)
    allowed = (1 - confidence) * (1 + 1e-9)  # 1 - confidence is not exact
    count = 1
    while (2.0 ** (1 - count) if paired else 2 / math.comb(2 * count, count)) > allowed:
        count += 1
    return count


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} is not valid: must be between 0 and 1")


def judge(
    samples: Mapping[K, Sequence[float]],
    *,
    measure: Measure = "ratio",
    paired: bool = True,
    confidence: float = 0.95,
    smaller_is_better: bool = True,
    resamples: int = 10_000,
    seed: int = 0,
) -> Verdict[K]:
    """Find the best setting, or conclude that the difference is noise.

    The setting with the best median is compared with each other one. Because the best of many is chosen after the
    measurements, the allowed error is divided by the number of comparisons (Bonferroni). With a confidence of 0.95, a
    setting that is not better than all others is called certainly best in at most about 5 of 100 sweeps.

    Parameters
    ----------
    samples
        Measurements by setting; if they are paired, those at the same index are of the same round.
    measure
        Whether medians are compared by their ratio or their difference.
    paired
        Whether repetitions were interleaved.
    confidence
        Of all statements together, between 0 and 1.
    smaller_is_better
        False for rates, for example.
    resamples, seed
        As for :func:`bootstrap_interval`.

    Returns
    -------
    Verdict
        The best setting, and how it compares with the others.

    Raises
    ------
    BadSamples
        If there are no settings, or measurements that cannot be compared.
    ValueError
        If the confidence is not between 0 and 1, or there are no resamples.
    """
    if not samples:
        raise BadSamples("there are none")
    middle = medians(samples)
    ranked = sorted(middle, key=lambda key: middle[key] if smaller_is_better else -middle[key])
    best, rivals = ranked[0], ranked[1:]
    each = 1 - (1 - confidence) / max(1, len(rivals))
    needed = fewest_repetitions(each, paired=paired)
    as_good = 1.0 if measure == "ratio" else 0.0
    comparisons = []
    for rival in rivals:
        interval = bootstrap_interval(
            samples[best],
            samples[rival],
            measure=measure,
            paired=paired,
            confidence=each,
            resamples=resamples,
            seed=seed,
        )
        enough = min(len(samples[best]), len(samples[rival])) >= needed
        comparisons.append(Comparison(rival, interval, enough and as_good not in interval))
    fewest = min(len(values) for values in samples.values())
    return Verdict(best, middle, tuple(comparisons), confidence, fewest, needed, measure)


def _array(values: Sequence[float]) -> _Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise BadSamples("a setting has no measurements")
    if not np.isfinite(array).all():
        raise BadSamples("a measurement is not a finite number")
    return array
