"""The engine on the real TaskVine.

:mod:`~taskvine_manager.vine.engine` and :mod:`~taskvine_manager.vine.port` run in the manager process, and the latter
alone imports ``ndcctools``, when the engine is made. :mod:`~taskvine_manager.vine.supervisor` is what TaskVine runs on
each worker, :mod:`~taskvine_manager.vine.worker` what a provider runs to have one.
"""
