"""The part of the TaskVine engine that runs on TaskVine's workers.

A provider runs :mod:`~taskvine_manager.vine.worker.worker` to start a worker, and TaskVine runs
:mod:`~taskvine_manager.vine.worker.supervisor` on it.
"""
