"""The figure: time and storage against replication degree and loss rate, measured points over simulated curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from model import Curve, Measured, grouped, median

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
LABELS = {"seconds": "time (s)", "storage": "peak of storage (MB)"}


def draw(measured: Sequence[Measured], curves: Sequence[Curve], path: Path) -> None:
    """Draw the figure.

    Parameters
    ----------
    measured
        The runs: a dot for each run, and a bar for the median of each setting.
    curves
        The simulations: the mean, and a band from the 10th to the 90th percentile.
    path
        The file; its suffix determines the format.
    """
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for row, quantity in enumerate(LABELS):
        _against_rate(axes[row][0], measured, curves, quantity)
        _against_degree(axes[row][1], measured, curves, quantity)
        axes[row][0].set_ylabel(LABELS[quantity])
        axes[row][0].set_ylim(bottom=0)
        for each in axes[row]:
            each.grid(alpha=0.3)
    axes[1][0].set_xlabel("losses of nodes (1/s)")
    axes[1][1].set_xlabel("replication degree")
    axes[1][1].xaxis.set_major_locator(MaxNLocator(integer=True))
    kinds = [
        Line2D([], [], marker="o", linestyle="", color="grey", alpha=0.6, label="a run, measured"),
        Line2D([], [], marker="_", linestyle="", color="grey", markersize=12, markeredgewidth=2, label="their median"),
        Line2D([], [], color="grey", label="simulated: mean, 10 to 90 percent"),
    ]
    figure.legend(handles=kinds, loc="outside lower center", ncols=len(kinds))
    figure.savefig(path, dpi=150)


def _against_rate(axes: Axes, measured: Sequence[Measured], curves: Sequence[Curve], quantity: str) -> None:
    width = 0.012 * max((each.rate for each in measured), default=1.0)
    for place, curve in enumerate(curves):
        colour = COLOURS[place % len(COLOURS)]
        samples = getattr(curve, quantity)
        _band(axes, curve.rates, samples, colour)
        shift = width * (place - (len(curves) - 1) / 2)
        own = [each for each in measured if each.degree == curve.degree]
        for rate, group in grouped(own, lambda each: each.rate).items():
            _points(axes, rate + shift, [getattr(each, quantity) for each in group], colour)
        axes.plot([], [], color=colour, label=f"degree {curve.degree}")
    axes.legend()


def _against_degree(axes: Axes, measured: Sequence[Measured], curves: Sequence[Curve], quantity: str) -> None:
    by_rate = grouped(measured, lambda each: each.rate)
    for place, (rate, runs) in enumerate(by_rate.items()):
        colour = COLOURS[(place + 3) % len(COLOURS)]
        degrees = [curve.degree for curve in curves]
        # Curves are simulated at more rates than were measured.
        samples = [_at(curve, quantity, rate) for curve in curves]
        _band(axes, degrees, samples, colour)
        shift = 0.03 * (place - (len(by_rate) - 1) / 2)
        for degree, group in grouped(runs, lambda each: each.degree).items():
            _points(axes, degree + shift, [getattr(each, quantity) for each in group], colour)
        axes.plot([], [], color=colour, label=f"{rate:.2g} losses a second")
    axes.legend()


def _at(curve: Curve, quantity: str, rate: float) -> tuple[float, ...]:
    nearest = int(np.argmin([abs(each - rate) for each in curve.rates]))
    found: tuple[float, ...] = getattr(curve, quantity)[nearest]
    return found


def _band(axes: Axes, places: Sequence[float], samples: Sequence[Sequence[float]], colour: str) -> None:
    axes.plot(places, [float(np.mean(each)) for each in samples], color=colour, linewidth=1.5)
    low, high = ([float(np.percentile(each, at)) for each in samples] for at in (10, 90))
    axes.fill_between(places, low, high, color=colour, alpha=0.12, linewidth=0)


def _points(axes: Axes, place: float, values: Sequence[float], colour: str) -> None:
    axes.plot([place] * len(values), values, "o", color=colour, alpha=0.6, markersize=5, markeredgewidth=0)
    axes.plot(place, median(values), "_", color=colour, markersize=12, markeredgewidth=2)
