"""The scheduler of the embedded engine: a pure state machine that takes events and returns instructions.

Nothing here imports sockets, threads or clocks, so that the simulator can run the scheduler unchanged. The dependency
graph is used by both engines.
"""
