"""WfFormat, the JSON format in which WfCommons describes workflows and their runs.

- :mod:`~taskvine_tune.wfformat.instances`: reading, in versions 1.0 to 1.5 of the format;
- :mod:`~taskvine_tune.wfformat.runs`: writing recorded runs, in version 1.5.
"""
