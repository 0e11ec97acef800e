"""The engine on the real TaskVine.

:mod:`~taskvine_manager.vine.manager` runs in the manager process, :mod:`~taskvine_manager.vine.worker` on TaskVine's
workers. :mod:`~taskvine_manager.vine.parcels` describes what travels between them.
"""
