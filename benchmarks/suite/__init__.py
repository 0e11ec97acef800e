"""Every executor that is installed, side by side: ``make bench``, or ``python -m benchmarks.suite --help``.

What runs where:

============== ======================================================================================================
``work``       the functions that are called; imported by workers, and light
``contenders`` who is measured, as a table
``cases``      what is measured, as a table
``measure``    one measurement, in a process of its own
``processes``  processor time and memory of a measurement's processes
``results``    pure: samples, medians, ratios
``targets``    pure: what is hoped for
``report``     tables and figures
============== ======================================================================================================
"""
