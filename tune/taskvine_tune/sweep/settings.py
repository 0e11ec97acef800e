"""The settings of a sweep: combinations or random samples of values, perhaps with losses of nodes."""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskvine_manager.parameters import Flag, Parameter, Value, Whole, find, shown
from taskvine_manager.parameters.own import LOSS_INTERVAL
from taskvine_manager.parameters.taskvine import ENFORCE_WORKER_EVICTION_INTERVAL
from taskvine_tune import formats
from taskvine_tune.errors import GivenTwice, WrongType
from taskvine_tune.tuning import Source, TuneParameters, flat

__all__ = ["LOSSES", "grid", "label", "sample", "with_losses"]

#: The parameters that make a run lose nodes on purpose.
LOSSES = (LOSS_INTERVAL, ENFORCE_WORKER_EVICTION_INTERVAL)


def grid(space: Source) -> list[TuneParameters]:
    """Return every combination of the values in a space.

    Parameters
    ----------
    space
        Values by name, or the path of a file: a list of values for a parameter that varies, one value for a fixed one.

    Returns
    -------
    list of TuneParameters
        The combinations, the last name varying fastest.

    Raises
    ------
    TuningError
        If a name or a combination is not valid.
    """
    choices = _choices(space)
    for name, choice in choices.items():
        if isinstance(choice, _Range):
            raise WrongType(name, choice.given, "a list of values: a range is for random samples")
    values: list[Sequence[Any]] = [choice for choice in choices.values() if not isinstance(choice, _Range)]
    return [TuneParameters(dict(zip(choices, each, strict=True))) for each in itertools.product(*values)]


def sample(space: Source, count: int, seed: int = 0) -> list[TuneParameters]:
    """Draw random settings from a space, no two of them equal.

    Parameters
    ----------
    space
        As for :func:`grid`; also ranges such as ``{"min": 1, "max": 16, "log": True}``. They are uniform, or uniform in
        their logarithms with ``log``. Parameters that are whole numbers get whole numbers.
    count
        Maximum number of settings; a small space has fewer.
    seed
        The same space, count and seed give the same settings.

    Returns
    -------
    list of TuneParameters
        The settings.

    Raises
    ------
    TuningError
        If a name, a bound or a combination is not valid.
    """
    choices = _choices(space)
    source = random.Random(seed)
    drawn: dict[TuneParameters, None] = {}
    for _ in range(100 * count):  # finds most of a small space, and then ends
        if len(drawn) == count:
            break
        drawn[TuneParameters({name: _drawn(choice, source) for name, choice in choices.items()})] = None
    return list(drawn)


@dataclass(frozen=True)
class _Range:
    given: Mapping[str, Any]
    low: Value
    high: Value
    whole: bool
    log: bool

    def draw(self, source: random.Random) -> Value:
        if not self.log:
            return source.randint(int(self.low), int(self.high)) if self.whole else source.uniform(self.low, self.high)
        # Extend both ends by half, so that rounding does not halve the probability of the ends.
        margin = 0.5 if self.whole else 0.0
        value = math.exp(source.uniform(math.log(self.low - margin), math.log(self.high + margin)))
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value


def _choices(space: Source) -> dict[str, Sequence[Any] | _Range]:
    values = space if isinstance(space, Mapping) else formats.read(os.fspath(space))
    choices: dict[str, Sequence[Any] | _Range] = {}
    for name, value in flat(values):
        parameter = find(name)
        if parameter.name in choices:
            raise GivenTwice(parameter.name)
        if isinstance(value, Mapping):
            choices[parameter.name] = _range(parameter, value)
        elif isinstance(value, (list, tuple)):
            if not value:
                raise WrongType(parameter.name, value, "at least one value")
            choices[parameter.name] = tuple(dict.fromkeys(parameter.read(each) for each in value))
        else:
            choices[parameter.name] = (parameter.read(value),)
    return choices


def _range(parameter: Parameter, given: Mapping[str, Any]) -> _Range:
    if isinstance(parameter, Flag) or not {"min", "max"} <= given.keys() <= {"min", "max", "log"}:
        expected = "a value, a list of values, or for numbers a range with min, max and perhaps log"
        raise WrongType(parameter.name, dict(given), expected)
    low, high = parameter.read(given["min"]), parameter.read(given["max"])
    log = given.get("log", False)
    if low > high or not isinstance(log, bool) or (log and low <= 0):
        raise WrongType(parameter.name, dict(given), "a range whose min is at most its max, and above 0 for log")
    return _Range(given, low, high, isinstance(parameter, Whole), log)


def _drawn(choice: Sequence[Any] | _Range, source: random.Random) -> Any:
    return choice.draw(source) if isinstance(choice, _Range) else source.choice(choice)


def with_losses(settings: Sequence[TuneParameters], interval: float) -> list[TuneParameters]:
    """Kill nodes on purpose in every run of some settings.

    Parameters
    ----------
    settings
        The settings. Settings with their own losses of nodes stay as they are.
    interval
        Mean seconds between two losses; only time in which there is work counts.

    Returns
    -------
    list of TuneParameters
        The settings with ``executor.loss-interval``.

    Raises
    ------
    TuningError
        If the interval is out of range.
    """
    losses = TuneParameters({LOSS_INTERVAL.name: interval})
    return [setting if any(each.name in setting for each in LOSSES) else setting | losses for setting in settings]


def label(setting: TuneParameters, settings: Sequence[TuneParameters] = ()) -> str:
    """Return a name for a setting: its parameters that differ from other settings, or all if none does."""
    varied = [name for name in setting if any(other.get(name) != setting[name] for other in settings)]
    return ", ".join(f"{name}={shown(setting[name], digits=6)}" for name in varied or setting) or "defaults"
