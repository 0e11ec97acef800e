"""The TaskVine engine.

:mod:`~taskvine_manager.vine.manager` runs in the manager process, :mod:`~taskvine_manager.vine.worker` on TaskVine's
workers. :mod:`~taskvine_manager.vine.parcels` describes the messages between them.
"""
