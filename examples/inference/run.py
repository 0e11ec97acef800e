"""Inference in batches with a model that takes long to load: loaded by each task, or once by the library.

The model is a network of random weights. Its file has 28 MB, and it is compiled (here: its layers are orthogonalised)
after it was loaded, as real ones are. With a context, the library does this once, and all slots share the model.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import parsl

from taskvine_exec import load_variable_from_library, local_config

LAYERS, WIDTH = 6, 768


def make_model(path: Path) -> None:
    """Write the weights of a model."""
    rng = np.random.default_rng(1)
    np.save(path, rng.normal(size=(LAYERS, WIDTH, WIDTH)).astype(np.float64))


def load_model(path: str) -> dict[str, Any]:
    """Load and prepare the model. As a context, this runs once in each library."""
    import numpy as np

    return {"model": [np.linalg.qr(layer)[0] for layer in np.load(path)]}


def predict(layers: Any, batch: int, size: int) -> list[int]:
    """Return the class of each input of a batch."""
    import numpy as np

    values = np.random.default_rng(batch).normal(size=(size, len(layers[0])))
    for layer in layers:
        values = np.maximum(values @ layer, 0)
    classes: list[int] = values[:, :10].argmax(axis=1).tolist()
    return classes


@parsl.python_app
def with_context(predict: Any, batch: int, size: int) -> Any:
    """Use the model of the library."""
    return predict(load_variable_from_library("model"), batch, size)


@parsl.python_app
def without_context(load_model: Any, predict: Any, path: str, batch: int, size: int) -> Any:
    """Load the model in each call."""
    return predict(load_model(path)["model"], batch, size)


def main() -> None:
    """Infer all batches in both ways, compare the results, and say how long each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--batches", type=int, default=40, help="batches (default: %(default)s)")
    add("--size", type=int, default=16, help="inputs of each (default: %(default)s)")
    add("--engine", default="embedded", choices=("embedded", "taskvine"))
    options = parser.parse_args()
    results, seconds = {}, {}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.npy")
        make_model(path)
        for way in ("each task loads the model", "the library loads the model"):
            library = {"context": load_model, "context_args": (str(path),)} if way.startswith("the library") else {}
            config = local_config(engine=options.engine, library_config=library, run_dir=f"{directory}/runinfo")
            begin = time.perf_counter()
            with parsl.load(config):
                if library:
                    futures = [with_context(predict, batch, options.size) for batch in range(options.batches)]
                else:
                    futures = [
                        without_context(load_model, predict, str(path), batch, options.size)
                        for batch in range(options.batches)
                    ]
                results[way] = [future.result() for future in futures]
                seconds[way] = time.perf_counter() - begin
    first, second = results.values()
    assert first == second
    for way, time_taken in seconds.items():
        print(f"{way}: {options.batches} batches of {options.size} in {time_taken:.1f} s")


if __name__ == "__main__":
    main()
