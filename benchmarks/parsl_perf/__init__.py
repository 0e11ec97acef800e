"""Parsl's own parsl-perf with several executors: ``make bench-perf``, or ``python -m benchmarks.parsl_perf --help``.

``taskvine.py`` and ``htex.py`` are configuration files for ``parsl-perf --config FILE``.
"""
