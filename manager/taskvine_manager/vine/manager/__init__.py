"""The part of the TaskVine engine that runs in the manager process.

:mod:`~taskvine_manager.vine.manager.port` alone imports ``ndcctools``, when the engine is made.
"""
