"""The smallest tasks that pay, by pattern of dependencies.

``make bench-metg``, or ``python -m benchmarks.metg --help``.

The patterns and the measure, METG, are those of Task Bench: E. Slaughter et al., "Task Bench: A Parameterized Benchmark
for Evaluating Parallel Runtime Performance", SC20, https://github.com/StanfordLegion/task-bench.

============ ========================================================================================================
``patterns`` pure: which tasks a graph has, and which tasks of the step before each task reads
``search``   pure: efficiency, and the search for the smallest duration
``work``     the function that tasks run; imported by workers, with few imports
``measure``  one measurement, in a separate process
``table``    tables of a run
============ ========================================================================================================
"""
