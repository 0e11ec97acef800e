"""Histograms of a large data set, summed in a tree: the mass of muon pairs in generated events of a collider.

Each file has columns as NanoAOD has them: the number of muons of each event, and their momenta and directions. One task
for each file finds pairs of muons and fills a histogram. Histograms are summed in a tree, and stay on nodes meanwhile.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import parsl
from parsl.data_provider.files import File

from taskvine_exec import local_config

MASS, WIDTH = 91.2, 2.5
"""Of the particle that decays into two muons, in GeV."""


@parsl.python_app
def generate(events: int, seed: int, mass: float, width: float, outputs: Any = ()) -> None:
    """Write a file of events: a third of them have a pair of muons from one decay, the others random muons."""
    import numpy as np

    rng = np.random.default_rng(seed)
    counts = rng.poisson(1.5, events)
    is_signal = rng.random(events) < 1 / 3
    counts[is_signal] = 2
    total = int(counts.sum())
    pt, eta, phi = rng.exponential(25, total) + 5, rng.normal(0, 1.2, total), rng.uniform(-np.pi, np.pi, total)
    charge = rng.choice([-1, 1], total)
    first = (np.cumsum(counts) - counts)[is_signal]
    second = first + 1
    # Two muons back to back have this mass if their momenta are equal.
    phi[second] = (phi[first] + 2 * np.pi) % (2 * np.pi) - np.pi
    masses = rng.normal(mass, width, len(first))
    pt[first] = pt[second] = masses / np.sqrt(2 * (np.cosh(eta[first] - eta[second]) + 1))
    charge[second] = -charge[first]
    with open(outputs[0], "wb") as file:
        np.savez(file, nMuon=counts, Muon_pt=pt, Muon_eta=eta, Muon_phi=phi, Muon_charge=charge)


@parsl.python_app
def fill(bins: int, inputs: Any = ()) -> Any:
    """Return the histogram of the masses of pairs of muons with opposite charges, of events that have exactly two."""
    import numpy as np

    with np.load(inputs[0]) as file:
        counts = file["nMuon"]
        first = (np.cumsum(counts) - counts)[counts == 2]
        muons = {name: file[f"Muon_{name}"] for name in ("pt", "eta", "phi", "charge")}
    a, b = ({name: values[place] for name, values in muons.items()} for place in (first, first + 1))
    mass = np.sqrt(2 * a["pt"] * b["pt"] * (np.cosh(a["eta"] - b["eta"]) - np.cos(a["phi"] - b["phi"])))
    return np.histogram(mass[a["charge"] != b["charge"]], bins=bins, range=(0, 200))[0]


@parsl.python_app
def add(*histograms: Any) -> Any:
    """Return the sum of histograms."""
    return sum(histograms)


def reduce(parts: list[Any], fan: int) -> Any:
    """Sum histograms in a tree; each task sums at most ``fan`` of them."""
    while len(parts) > 1:
        parts = [add(*parts[place : place + fan]) for place in range(0, len(parts), fan)]
    return parts[0]


def main() -> None:
    """Generate the events, fill the histogram, and say where its peak is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    argument = parser.add_argument
    argument("--files", type=int, default=64, help="files (default: %(default)s)")
    argument("--events", type=int, default=50_000, help="events in each (default: %(default)s)")
    argument("--bins", type=int, default=200, help="bins of the histogram (default: %(default)s)")
    argument("--fan", type=int, default=4, help="histograms that a task sums (default: %(default)s)")
    argument("--engine", default="embedded", choices=("embedded", "taskvine"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory, f"events{number}.npz") for number in range(options.files)]
        with parsl.load(local_config(engine=options.engine, run_dir=f"{directory}/runinfo")):
            files = [
                generate(options.events, number, MASS, WIDTH, outputs=[File(str(path))]).outputs[0]
                for number, path in enumerate(paths)
            ]
            for file in files:
                file.result()
            size = sum(path.stat().st_size for path in paths)
            begin = time.perf_counter()
            histogram = reduce([fill(options.bins, inputs=[file]) for file in files], options.fan).result()
            seconds = time.perf_counter() - begin
    peak = (int(np.argmax(histogram)) + 0.5) * 200 / options.bins
    events = options.files * options.events
    print(f"{int(histogram.sum()):,} pairs in {events:,} events ({size / 1e6:.0f} MB) in {seconds:.2f} s")
    print(f"the peak is at {peak:.1f} GeV")


if __name__ == "__main__":
    main()
