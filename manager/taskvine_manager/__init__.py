"""The manager process and what runs on nodes.

Nothing here knows Parsl's DataFlowKernel, and nothing here imports parsl: the manager and the nodes must be up
before a process that imports it could be.
"""

VERSION = "0.1.0"
"""Of the package that this is a part of, as ``taskvine_exec.__version__``: machines compare theirs."""
