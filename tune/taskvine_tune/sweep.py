"""Sweeps: run a program with many settings of tuning parameters, and find the best one.

The program must give its executor the parameters in the environment variable ``TASKVINE_TUNE`` (see
:mod:`taskvine_tune.environment`). Settings are interleaved: every round runs each of them once, in a new random order,
so that changes in the machine over time affect all of them alike.

Nodes can be lost on purpose: with ``executor.loss-interval``, an executor kills nodes of its run at random times. The
times are new for each round, and the same for all settings of a round.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from taskvine_manager.parameters import Flag, Parameter, Value, Whole, find, shown
from taskvine_manager.parameters.own import LOSS_INTERVAL, LOSS_SEED
from taskvine_manager.parameters.taskvine import ENFORCE_WORKER_EVICTION_INTERVAL
from taskvine_tune import formats
from taskvine_tune.environment import PARAMETERS_VARIABLE, REPORT_VARIABLE, RunReport, read_reports
from taskvine_tune.errors import BadFile, BadSamples, GivenTwice, LibraryMissing, WrongType
from taskvine_tune.statistics import Verdict, judge, medians
from taskvine_tune.tuning import Source, TuneParameters, flat

__all__ = [
    "QUANTITIES",
    "Quantity",
    "Results",
    "Run",
    "draw_figure",
    "grid",
    "label",
    "sample",
    "summary",
    "sweep",
    "with_losses",
    "write_csv",
]

Quantity = Literal["wall_seconds", "makespan_seconds", "bytes_moved", "storage_peak_bytes", "reexecutions", "losses"]

#: Values recorded for each run.
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

_LOSSES = (LOSS_INTERVAL, ENFORCE_WORKER_EVICTION_INTERVAL)

#: Bytes of a failed run's output that are kept.
_TAIL = 2000

#: Seconds that a run has to end after SIGTERM.
_GRACE = 5.0


# ---- Settings


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
    return [setting if any(each.name in setting for each in _LOSSES) else setting | losses for setting in settings]


def label(setting: TuneParameters, settings: Sequence[TuneParameters] = ()) -> str:
    """Return a name for a setting: its parameters that differ from other settings, or all if none does."""
    varied = [name for name in setting if any(other.get(name) != setting[name] for other in settings)]
    return ", ".join(f"{name}={shown(setting[name], digits=6)}" for name in varied or setting) or "defaults"


# ---- Runs


_SILENT = RunReport()


@dataclass(frozen=True)
class Run:
    """One run of the program.

    Parameters
    ----------
    setting
        The parameters that it was given.
    round
        The round that it belongs to, from 0.
    place
        Its place within the round, from 0.
    exit_code
        Of the program; negative for a signal, None if it took too long and was ended.
    wall_seconds
        From its start to its end, measured by the sweep.
    report
        The reports of its executors.
    output
        The end of its output, if it failed.
    """

    setting: TuneParameters
    round: int
    place: int
    exit_code: int | None
    wall_seconds: float
    report: RunReport = _SILENT
    output: str = ""

    @property
    def failed(self) -> bool:
        """Whether the run failed, which makes its measurements invalid."""
        return self.exit_code != 0

    def value(self, quantity: Quantity) -> float | None:
        """Return the measured value; None if no executor has reported it."""
        value: float | None = self.wall_seconds if quantity == "wall_seconds" else getattr(self.report, quantity)
        return value


@dataclass(frozen=True)
class Results:
    """All runs of a sweep.

    Parameters
    ----------
    settings
        The settings that were tried.
    runs
        The runs, in their order.
    """

    settings: tuple[TuneParameters, ...]
    runs: tuple[Run, ...]

    def samples(self, quantity: Quantity = "wall_seconds") -> dict[TuneParameters, list[float]]:
        """Return measurements by setting; those of one round have the same index.

        Settings with a failed run, or a run without a report of the quantity, are left out: the rest is not a fair
        sample.
        """
        by_setting: dict[TuneParameters, list[float | None]] = {setting: [] for setting in self.settings}
        for run in sorted(self.runs, key=lambda run: run.round):
            by_setting[run.setting].append(None if run.failed else run.value(quantity))
        return {
            setting: [value for value in values if value is not None]
            for setting, values in by_setting.items()
            if values and None not in values
        }

    @property
    def failed(self) -> tuple[Run, ...]:
        """The runs that failed."""
        return tuple(run for run in self.runs if run.failed)

    def verdict(
        self, quantity: Quantity = "wall_seconds", *, confidence: float = 0.95, seed: int = 0
    ) -> Verdict[TuneParameters]:
        """Find the setting with the least of a quantity, and the confidence of this.

        Raises
        ------
        BadSamples
            If no setting has a measurement in every round.
        """
        samples = self.samples(quantity)
        if not samples:
            raise BadSamples(f"no setting has {quantity} in every run")
        # Compare times by their ratio, and the other quantities, which are often 0, by their difference.
        measure: Literal["ratio", "difference"] = "ratio" if quantity.endswith("_seconds") else "difference"
        return judge(samples, measure=measure, confidence=confidence, seed=seed)


def sweep(
    command: Sequence[str],
    settings: Sequence[TuneParameters],
    *,
    repetitions: int,
    seed: int = 0,
    timeout: float | None = None,
    on_run: Callable[[Run], None] | None = None,
) -> Results:
    """Run a program with every setting, several times, interleaved.

    Parameters
    ----------
    command
        The program and its arguments. A program that ends with ``.py`` is run by this Python.
    settings
        The settings, no two of them equal.
    repetitions
        The number of rounds.
    seed
        Seed of the order within the rounds, and of the losses in each round, unless a setting has a seed for these.
    timeout
        Seconds after which a run is ended, and counts as failed.
    on_run
        Called with each run when it has ended.

    Returns
    -------
    Results
        All runs, including failed ones.

    Raises
    ------
    BadSamples
        If there are no settings, equal ones, or no rounds.
    OSError
        If the program cannot be started.
    """
    if not settings or len(set(settings)) < len(settings) or repetitions < 1:
        raise BadSamples("a sweep needs settings, no two of them equal, and at least one repetition")
    words = [sys.executable, *command] if command[0].endswith(".py") else list(command)
    source = random.Random(seed)
    drawn = random.Random(f"losses {seed}")  # separate: the order is the same with and without losses
    loss_seeds = [drawn.randrange(2**31) for _ in range(repetitions)]
    runs = []
    for number in range(repetitions):
        for place, setting in enumerate(source.sample(list(settings), len(settings))):
            runs.append(_run(words, setting, number, place, timeout, loss_seeds[number]))
            if on_run is not None:
                on_run(runs[-1])
    return Results(tuple(settings), tuple(runs))


def _run(
    words: Sequence[str], setting: TuneParameters, number: int, place: int, timeout: float | None, loss_seed: int
) -> Run:
    told_to_use: Mapping[str, Value] = setting
    if any(each.of(setting) for each in _LOSSES):
        told_to_use = {LOSS_SEED.name: loss_seed, **setting}
    with tempfile.TemporaryDirectory(prefix="taskvine-tune-") as directory:
        report, output = os.path.join(directory, "report"), os.path.join(directory, "output")
        environment = {
            **os.environ,
            PARAMETERS_VARIABLE: json.dumps(dict(told_to_use)),
            REPORT_VARIABLE: report,
        }
        with open(output, "wb") as file:
            begin = time.perf_counter()
            process = subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code: int | None = process.wait(timeout)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                seconds = time.perf_counter() - begin
                _end(process)
        try:
            told = read_reports(report)
        except BadFile:
            told = _SILENT
        return Run(setting, number, place, code, seconds, told, "" if code == 0 else _tail(output))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a run that took too long or was interrupted. Its executors notice that the program ended, and end too."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _TAIL))
        return file.read().decode(errors="replace").strip()


# ---- Output


def write_csv(results: Results, path: str | os.PathLike[str]) -> None:
    """Write one line for each run: round, place, parameters that were set, measurements, and exit code."""
    names = list(dict.fromkeys(name for setting in results.settings for name in setting))
    with open(path, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["round", "place", *names, *QUANTITIES, "exit_code"])
        for run in results.runs:
            measured = (run.value(quantity) for quantity in QUANTITIES)
            cells = (*(run.setting.get(name) for name in names), *measured, run.exit_code)
            lines.writerow([run.round, run.place, *("" if cell is None else cell for cell in cells)])


def draw_figure(results: Results, path: str | os.PathLike[str], quantity: Quantity = "wall_seconds") -> None:
    """Draw every measurement of a quantity by setting, with the medians, best first.

    Parameters
    ----------
    results
        The runs.
    path
        The file; its suffix selects the format.
    quantity
        The quantity to draw.

    Raises
    ------
    LibraryMissing
        If matplotlib is not installed.
    BadSamples
        If no setting has the quantity in every run.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise LibraryMissing("a figure", "matplotlib") from None
    samples = results.samples(quantity)
    if not samples:
        raise BadSamples(f"no setting has {quantity} in every run")
    middle = medians(samples)
    ranked = sorted(middle, key=lambda setting: -middle[setting])  # the best one on top
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(ranked)), layout="constrained")
    axes = figure.subplots()
    for row, setting in enumerate(ranked):
        values = samples[setting]
        axes.plot(values, [row] * len(values), "o", color="tab:blue", alpha=0.5, markersize=5, markeredgewidth=0)
        axes.plot(middle[setting], row, "|", color="black", markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(ranked)), [label(setting, ranked) for setting in ranked])
    axes.set_xlabel(_AXES[quantity])
    axes.set_xlim(left=0)
    axes.set_ylim(-0.5, len(ranked) - 0.5)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path)


_AXES: Mapping[Quantity, str] = {
    "wall_seconds": "wall time (s)",
    "makespan_seconds": "time from the first submission to the last end (s)",
    "bytes_moved": "moved between nodes (bytes)",
    "storage_peak_bytes": "peak of storage (bytes)",
    "reexecutions": "re-executions",
    "losses": "nodes killed",
}


def summary(results: Results) -> Iterator[tuple[TuneParameters, dict[Quantity, float | None], int]]:
    """Yield each setting, its median of each quantity (None if a run has none), and its number of failed runs."""
    middle = {quantity: medians(results.samples(quantity)) for quantity in QUANTITIES}
    for setting in results.settings:
        failed = sum(run.setting == setting for run in results.failed)
        yield setting, {quantity: middle[quantity].get(setting) for quantity in QUANTITIES}, failed
