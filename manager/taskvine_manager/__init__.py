"""The manager process, and the code that runs on nodes.

Nothing here uses Parsl's DataFlowKernel or imports parsl: the manager and the nodes must start in less time than that
import takes.
"""

VERSION = "0.1.0"
"""Version of the whole package, equal to ``taskvine_exec.__version__``. Workers compare it with the user's version."""
