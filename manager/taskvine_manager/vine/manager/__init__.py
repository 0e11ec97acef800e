"""The part of the TaskVine engine that runs in the manager process.

Only :mod:`~taskvine_manager.vine.manager.port` imports ``ndcctools``, when the engine is created.
"""
