"""The processes of an executor, started by command: ``python .../taskvine_manager ROLE ...``.

No activated environment or installed package is needed: the interpreter of the user's process runs this file by its
path, and the file adds its source root to ``sys.path``.
"""

from __future__ import annotations

import os
import sys


def main(arguments: list[str]) -> None:
    """Run the role that the first argument names: the manager, a node, a library, an L1 task or a part of the TaskVine
    engine."""
    role, *rest = arguments
    if role == "library":
        from taskvine_manager.runtime.library import main as library

        library(int(rest[0]), int(rest[1]))
    elif role == "task":
        from taskvine_manager.runtime.oneshot import main as task

        task(rest[0], int(rest[1]))
    elif role == "node":
        node(rest)
    elif role == "supervise":
        from taskvine_manager.vine.worker.supervisor import main as supervise

        supervise(rest)
    elif role == "worker":
        from taskvine_manager.vine.worker.worker import main as worker

        worker(rest)
    elif role == "admit":
        from taskvine_manager.vine.manager.admission import main as admit

        admit(int(rest[0]))
    elif role == "manager":
        from taskvine_manager.loop import main as manager

        manager(rest[0], int(rest[1]), int(rest[2]), int(rest[3]))
    else:
        sys.exit(f"unknown role {role!r}: one of manager, node, library, task, supervise, worker, admit")


def node(arguments: list[str] | None = None) -> None:
    """Start a node by hand: ``taskvine-node --connect DIRECTORY`` (see ``taskvine-node --help``)."""
    from taskvine_manager.embedded.node import main as node_main

    node_main(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    # When run by path, Python puts this folder first on sys.path, where its modules could shadow others.
    _root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    _here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _here]
    if _root not in sys.path:
        sys.path.append(_root)
    main(sys.argv[1:])
