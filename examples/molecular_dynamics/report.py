"""Tables and figures of the example; independent of Parsl."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import matplotlib

# Before pyplot is imported: figures are written to files, and there may be no display.
matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from ase import units
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from physics import BULK_DENSITY, RDF_EDGES, Analysis, FloatArray
from rich.table import Table

Mode = Literal["L1", "L2"]

LINDEMANN_THRESHOLD = 0.1
"""Index above which a cluster is usually called molten; see reference 3 of :mod:`physics`."""

# Distinguishable with every kind of colour vision: M. Okabe, K. Ito, Color Universal Design (2008).
COLOURS: dict[Mode, str] = {"L1": "#D55E00", "L2": "#0072B2"}
MODE_NAMES: dict[Mode, str] = {"L1": "L1 (fresh process)", "L2": "L2 (warm library)"}


@dataclass(frozen=True)
class TaskTimes:
    """Times of the stages of one task (s, on the clock of ``time.time``).

    Attributes
    ----------
    submitted : float
        When it was handed to the executor.
    dispatched : float
        When its node began to launch it.
    started : float
        When the user's function was entered.
    finished : float
        When the user's function had returned.
    node : str
        Name of the node.
    """

    submitted: float
    dispatched: float
    started: float
    finished: float
    node: str

    @property
    def overhead(self) -> float:
        """Start-up overhead (s): from launch to the entry of the user's function."""
        return self.started - self.dispatched

    @property
    def duration(self) -> float:
        """Time for which the task occupied its function slot (s), including the start-up overhead."""
        return self.finished - self.dispatched


@dataclass(frozen=True)
class ModeRun:
    """One run of the workflow in one mode.

    Attributes
    ----------
    mode : {"L1", "L2"}
        How the tasks were run.
    wall_time : float
        From the first submission to the last result (s).
    times : tuple of TaskTimes
        One entry per task.
    bytes_between_nodes : int
        Bytes of files copied from one node to another.
    analyses : tuple of Analysis
        One entry per replica.
    """

    mode: Mode
    wall_time: float
    times: tuple[TaskTimes, ...]
    bytes_between_nodes: int
    analyses: tuple[Analysis, ...]


def disagreements(one: ModeRun, other: ModeRun) -> list[int]:
    """Return the replicas whose numbers differ between two runs, if only in the last bit."""
    pairs = zip(one.analyses, other.analyses, strict=True)
    return [replica for replica, (left, right) in enumerate(pairs) if not left.identical(right)]


def write_numbers(analyses: Sequence[Analysis], path: Path) -> None:
    """Write all numbers to a file, so precisely that reading them gives the same bits."""
    numbers = [{field.name: getattr(each, field.name).tolist() for field in fields(each)} for each in analyses]
    path.write_text(json.dumps(numbers, indent=1) + "\n")


def standard_error(segment_means: FloatArray) -> float:
    """Estimate the error of a mean from the scatter of its segments' means; 0 for a single segment."""
    if len(segment_means) < 2:
        return 0.0
    return float(np.std(segment_means, ddof=1) / np.sqrt(len(segment_means)))


def modes_table(runs: Sequence[ModeRun]) -> Table:
    """Make a table of each mode's performance."""
    table = Table(title="Modes: L1 is a fresh process per task, L2 a warm library")
    table.add_column("mode")
    for heading in (
        "tasks",
        "wall time\n(s)",
        "tasks/s",
        "start-up, median\n(ms)",
        "start-up, p95\n(ms)",
        "between nodes\n(MB)",
    ):
        table.add_column(heading, justify="right")
    for run in runs:
        median, high = np.percentile([1e3 * t.overhead for t in run.times], [50, 95])
        table.add_row(
            run.mode,
            f"{len(run.times)}",
            f"{run.wall_time:.1f}",
            f"{len(run.times) / run.wall_time:.2f}",
            f"{median:.2f}",
            f"{high:.2f}",
            f"{run.bytes_between_nodes / 1e6:.2f}",
        )
    return table


def physics_table(analyses: Sequence[Analysis]) -> Table:
    """Make a table of the nanoparticle's properties."""
    table = Table(title="Gold nanoparticle")
    for heading in (
        "T, thermostat\n(K)",
        "T, measured\n(K)",
        "potential energy\n(eV/atom)",
        "heat capacity\n(k_B/atom)",
        "Lindemann\nindex",
    ):
        table.add_column(heading, justify="right")
    for replica in analyses:
        energy = f"{np.mean(replica.segment_potential):.4f}"
        if len(replica.segment_potential) > 1:
            energy += f" ± {standard_error(replica.segment_potential):.4f}"
        table.add_row(
            f"{replica.temperature:.0f}",
            f"{replica.measured_temperature:.0f}",
            energy,
            f"{replica.heat_capacity:.2f}",
            f"{replica.lindemann:.3f}",
        )
    return table


def physics_figure(analyses: Sequence[Analysis], path: Path) -> None:
    """Draw caloric curve, heat capacity, Lindemann index and g(r).

    Parameters
    ----------
    analyses : sequence of Analysis
        One entry per replica, in order of temperature.
    path : Path
        PNG file to write.
    """
    temperatures = np.array([a.temperature for a in analyses])
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    _draw_caloric_curve(axes[0, 0], temperatures, analyses)

    heat = axes[0, 1]
    heat.plot(temperatures, [a.heat_capacity for a in analyses], "o-", color="#009E73")
    heat.axhline(3, color="grey", linestyle="--", label="harmonic solid (Dulong-Petit)")
    heat.set_ylim(0, 1.15 * max(3.0, *(float(a.heat_capacity) for a in analyses)))
    heat.set(xlabel="temperature (K)", ylabel="heat capacity per atom ($k_\\mathrm{B}$)")
    heat.set_title("Heat capacity, from energy fluctuations")
    heat.legend(loc="lower right")

    lindemann = axes[1, 0]
    lindemann.plot(temperatures, [a.lindemann for a in analyses], "o-", color="#CC79A7")
    lindemann.axhline(LINDEMANN_THRESHOLD, color="grey", linestyle="--", label="usual threshold of melting")
    lindemann.set_ylim(bottom=0)
    lindemann.set(xlabel="temperature (K)", ylabel="Lindemann index $\\delta$")
    lindemann.set_title("Bond-length fluctuation over all pairs")
    lindemann.legend(loc="upper left")

    _draw_rdf(axes[1, 1], temperatures, analyses)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_caloric_curve(axes: Axes, temperatures: FloatArray, analyses: Sequence[Analysis]) -> None:
    """Draw potential and total energy against temperature, with the slope of a harmonic solid for comparison."""
    for name, colour, means in (
        ("total", "#000000", [a.segment_total for a in analyses]),
        ("potential", "#E69F00", [a.segment_potential for a in analyses]),
    ):
        axes.errorbar(
            temperatures,
            [np.mean(m) for m in means],
            yerr=[standard_error(m) for m in means],
            fmt="o-",
            capsize=3,
            color=colour,
            label=name,
        )
    start = np.mean(analyses[0].segment_potential)
    axes.plot(
        temperatures,
        start + 1.5 * units.kB * (temperatures - temperatures[0]),
        "--",
        color="grey",
        label="potential of a harmonic solid",
    )
    axes.set(xlabel="temperature (K)", ylabel="energy per atom above bulk fcc (eV)")
    axes.set_title("Caloric curve")
    axes.legend(loc="upper left")


def _draw_rdf(axes: Axes, temperatures: FloatArray, analyses: Sequence[Analysis]) -> None:
    """Draw one g(r) per replica, coloured by temperature."""
    centres = (RDF_EDGES[1:] + RDF_EDGES[:-1]) / 2
    norm = matplotlib.colors.Normalize(temperatures.min() - 1, temperatures.max() + 1)
    # The far end of inferno is too pale on white.
    inferno = matplotlib.colormaps["inferno"](np.linspace(0, 0.85, 64))
    colours = matplotlib.colors.LinearSegmentedColormap.from_list("temperature", inferno)
    for replica in analyses:
        axes.plot(centres, replica.rdf, color=colours(norm(replica.temperature)), linewidth=1.1)
    # Inside the panel, where g(r) is low: outside, the colour bar would make the panel narrower.
    bar = axes.inset_axes((0.45, 0.86, 0.5, 0.05))
    mappable = matplotlib.cm.ScalarMappable(norm, colours)
    axes.figure.colorbar(mappable, cax=bar, orientation="horizontal", label="temperature (K)")
    axes.set_xlim(2, 13)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="distance $r$ (Å)", ylabel=f"$g(r)$, relative to {BULK_DENSITY:.4f} atoms/Å³")
    axes.set_title("Radial distribution function")


def modes_figure(runs: Sequence[ModeRun], path: Path) -> None:
    """Draw a comparison of the modes: task times, start-up overhead, running tasks over time.

    Parameters
    ----------
    runs : sequence of ModeRun
        One or two runs.
    path : Path
        PNG file to write.
    """
    figure = plt.figure(figsize=(14, 4.6), layout="constrained")
    grid = figure.add_gridspec(len(runs), 3)
    durations = figure.add_subplot(grid[:, 0])
    overheads = figure.add_subplot(grid[:, 1])
    # One above the other: in one panel, two lines that jump with every task cannot be told apart.
    activity = [figure.add_subplot(grid[row, 2]) for row in range(len(runs))]

    bins = np.linspace(0, 1.02 * max(t.duration for run in runs for t in run.times), 41).tolist()
    for run, active in zip(runs, activity, strict=True):
        colour = COLOURS[run.mode]
        seconds = [t.duration for t in run.times]
        durations.hist(seconds, bins=bins, histtype="stepfilled", alpha=0.35, color=colour)
        durations.hist(seconds, bins=bins, histtype="step", linewidth=1.5, color=colour, label=MODE_NAMES[run.mode])
        # Two readings of a coarse clock may differ by 0, which a logarithmic axis cannot show.
        milliseconds = np.sort([max(1e3 * t.overhead, 1e-2) for t in run.times])
        fraction = np.arange(1, len(milliseconds) + 1) / len(milliseconds)
        overheads.step(milliseconds, fraction, where="post", linewidth=1.8, color=colour)
        moments, running = running_tasks(run.times)
        active.fill_between(moments, running, step="post", alpha=0.35, color=colour, linewidth=0)
        active.step(moments, running, where="post", linewidth=0.8, color=colour)

    durations.set(xlabel="time of a task, start-up included (s)", ylabel="tasks", title="Task times")
    overheads.set(xlabel="start-up overhead of a task (ms)", ylabel="fraction of tasks", title="Start-up overhead")
    overheads.set_xscale("log")
    overheads.set_ylim(0, 1.02)
    overheads.grid(which="major", alpha=0.3)
    activity[0].set_title("Running tasks over time")
    activity[-1].set_xlabel("time since the first submission (s)")
    end = max(t.finished - run.times[0].submitted for run in runs for t in run.times)
    most = max(running_tasks(run.times)[1].max() for run in runs)
    for run, active in zip(runs, activity, strict=True):
        active.set_ylabel(f"tasks, {run.mode}")
        active.set_xlim(0, 1.02 * end)
        active.set_ylim(0, 1.15 * most)
        active.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    figure.legend(*durations.get_legend_handles_labels(), loc="outside lower center", ncols=len(runs))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def running_tasks(times: Sequence[TaskTimes]) -> tuple[FloatArray, FloatArray]:
    """Count the running tasks over time.

    Parameters
    ----------
    times : sequence of TaskTimes
        At least one task.

    Returns
    -------
    moments : ndarray
        Times at which the count changes (s since the first submission), rising from 0.
    running : ndarray
        The count from each of these times on.
    """
    origin = min(t.submitted for t in times)
    changes = sorted([(t.dispatched - origin, 1) for t in times] + [(t.finished - origin, -1) for t in times])
    moments = np.array([0.0] + [moment for moment, _ in changes])
    return moments, np.cumsum([0] + [change for _, change in changes]).astype(np.float64)
