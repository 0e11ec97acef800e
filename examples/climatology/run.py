"""A climatology with xarray: the mean temperature of each month on a grid, and the warmest anomalies.

The data are generated in blocks of a year. xarray makes a graph of Dask's, whose tasks run on nodes. The same graph is
computed by Dask's threads, and the results are compared.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
import parsl
import xarray

from taskvine_exec import local_config
from taskvine_exec.clients.dask import DaskScheduler


def year_of_data(year: int, latitudes: int, longitudes: int) -> Any:
    """Return daily temperatures of a year of 360 days: a season, a trend and noise."""
    import numpy as np

    rng = np.random.default_rng(year)
    day = np.arange(360)[:, None, None]
    latitude = np.linspace(-90, 90, latitudes)[None, :, None]
    season = 15 * np.sin(2 * np.pi * day / 360) * np.sign(latitude)
    noise = rng.normal(0, 2, (360, latitudes, longitudes))
    return 30 * np.cos(np.radians(latitude)) + season + 0.05 * year + noise


def make_data(years: int, latitudes: int, longitudes: int) -> xarray.DataArray:
    """Return temperatures of all years, of which nothing is computed yet."""
    make = dask.delayed(year_of_data)
    shape = (360, latitudes, longitudes)
    parts = [
        da.from_delayed(make(year, latitudes, longitudes), shape, dtype=float)  # type: ignore[no-untyped-call]
        for year in range(years)
    ]
    day = np.arange(360 * years)
    coordinates = {"month": ("time", day % 360 // 30 + 1), "year": ("time", day // 360)}
    return xarray.DataArray(da.concatenate(parts), dims=("time", "latitude", "longitude"), coords=coordinates)


def summary(data: xarray.DataArray) -> xarray.Dataset:
    """Return the climatology of the months, and for each year the mean anomaly, computed when it is asked for."""
    climatology = data.groupby("month").mean("time")
    anomaly = data.mean(("latitude", "longitude")).groupby("year").mean("time")
    return xarray.Dataset({"climatology": climatology, "anomaly": anomaly - anomaly.mean()})


class Timed(NamedTuple):
    """A computed data set and how long it took."""

    result: xarray.Dataset
    seconds: float


def timed(data: xarray.DataArray, **options: Any) -> Timed:
    """Compute the summary."""
    begin = time.perf_counter()
    return Timed(summary(data).compute(**options), time.perf_counter() - begin)


def main() -> None:
    """Compute the climatology by both schedulers, and show some of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--years", type=int, default=20, help="years (default: %(default)s)")
    add("--latitudes", type=int, default=36, help="rows of the grid (default: %(default)s)")
    add("--longitudes", type=int, default=72, help="columns of the grid (default: %(default)s)")
    add("--engine", default="embedded", choices=("embedded", "taskvine"))
    options = parser.parse_args()
    data = make_data(options.years, options.latitudes, options.longitudes)
    with (
        tempfile.TemporaryDirectory() as directory,
        parsl.load(local_config(engine=options.engine, run_dir=f"{directory}/runinfo")),
        DaskScheduler(),
    ):
        first, found = timed(data), timed(data)  # nodes import Dask and xarray for the first one
    threads = timed(data, scheduler="threads")
    xarray.testing.assert_allclose(found.result, threads.result)
    seconds = (
        f"{first.seconds:.1f} s and again in {found.seconds:.1f} s on nodes, in {threads.seconds:.1f} s by threads"
    )
    print(f"{data.nbytes / 1e6:.0f} MB in {seconds}")
    north = found.result.climatology.isel(latitude=-1).mean("longitude").values
    print("at the north pole, by month:", " ".join(f"{each:+.0f}" for each in north))
    trend = np.polyfit(np.arange(options.years), found.result.anomaly.values, 1)[0]
    print(f"it gets warmer by {trend:.3f} degrees a year")


if __name__ == "__main__":
    main()
