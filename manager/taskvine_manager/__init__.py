"""The manager process, and the code that runs on nodes.

Nothing here uses Parsl's DataFlowKernel or imports parsl: the manager and the nodes must start in less time than that
import takes.
"""

VERSION = "0.1.0"
"""Version of the whole distribution: ``setup.cfg`` and ``taskvine_exec.__version__`` take it from here.

Workers compare it with the user's version. It is here because workers import no other package of this project.
"""
