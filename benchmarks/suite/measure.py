"""One measurement, in a separate process: ``python -m benchmarks.suite.measure CASE CONTENDER JSON``.

The JSON holds a plan. The output is a list of ``[metric, point, value]``.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings

from benchmarks.suite.cases import CASES, Plan
from benchmarks.suite.contenders import CONTENDERS


def main() -> None:
    """Measure, and print the samples."""
    # dask warns about large arguments, which are measured here.
    warnings.filterwarnings("ignore", message="Sending large graph")
    key, name, options = sys.argv[1:]
    contender = CONTENDERS[name]
    for module in contender.modules:
        importlib.import_module(module)
    print("\n" + json.dumps(list(CASES[key].measure(contender, Plan(**json.loads(options))))))


if __name__ == "__main__":
    main()
