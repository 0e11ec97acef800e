"""The runs of a sweep: which program runs when, with what setting and losses, and what it reported.

Settings are interleaved: every round runs each of them once, in a new random order, so that changes in the machine over
time affect all of them alike.

Nodes can be lost on purpose: with ``executor.loss-interval``, an executor kills nodes of its run at random times. The
times are new for each round, and the same for all settings of a round.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from taskvine_manager.node.deaths import tail
from taskvine_manager.parameters import Value
from taskvine_manager.parameters.own import LOSS_SEED
from taskvine_tune.environment import PARAMETERS_VARIABLE, REPORT_VARIABLE, Quantity, RunReport, read_reports
from taskvine_tune.errors import BadFile, BadSamples
from taskvine_tune.statistics import Verdict, judge
from taskvine_tune.sweep.settings import LOSSES
from taskvine_tune.tuning import TuneParameters

__all__ = ["Results", "Run", "sweep"]

#: Bytes of a failed run's output that are kept.
_TAIL = 2000

#: Seconds that a run has to end after SIGTERM.
_GRACE = 5.0

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

    def comparable(self, quantity: Quantity) -> dict[TuneParameters, list[float]]:
        """Return :meth:`samples`, or raise :class:`BadSamples` if no setting has any."""
        samples = self.samples(quantity)
        if not samples:
            raise BadSamples(f"no setting has {quantity} in every run")
        return samples

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
        samples = self.comparable(quantity)
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
    if any(each.of(setting) for each in LOSSES):
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
        return Run(setting, number, place, code, seconds, told, "" if code == 0 else tail(output, _TAIL).strip())


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
