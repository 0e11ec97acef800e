"""The results of a sweep as a file, a figure and a summary."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping

from taskvine_tune.environment import QUANTITIES, Quantity
from taskvine_tune.errors import LibraryMissing
from taskvine_tune.statistics import medians
from taskvine_tune.sweep.runs import Results
from taskvine_tune.sweep.settings import label
from taskvine_tune.tuning import TuneParameters

__all__ = ["draw_figure", "summary", "write_csv"]


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
    samples = results.comparable(quantity)
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
