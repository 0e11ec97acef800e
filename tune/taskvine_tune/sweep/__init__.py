"""Sweeps: run a program with many settings of tuning parameters, and find the best one.

The program must give its executor the parameters in the environment variable ``TASKVINE_TUNE`` (see
:mod:`taskvine_tune.environment`).
"""

from __future__ import annotations

from taskvine_tune.environment import QUANTITIES, Quantity
from taskvine_tune.sweep.output import draw_figure, summary, write_csv
from taskvine_tune.sweep.runs import Results, Run, sweep
from taskvine_tune.sweep.settings import grid, label, sample, with_losses

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
