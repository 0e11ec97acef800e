"""Comparison of all installed executors: ``make bench``, or ``python -m benchmarks.suite --help``.

Modules:

============== ======================================================================================================
``work``       the functions that tasks run; imported by workers, with few imports
``contenders`` the table of executors
``cases``      the table of measurements
``measure``    one measurement, in a separate process
``processes``  processor time and memory of a measurement's processes
``results``    pure: samples, medians, ratios
``targets``    pure: targets for the results
``report``     tables and figures
============== ======================================================================================================
"""
