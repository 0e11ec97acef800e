"""The manager process and what runs on nodes.

Nothing here knows Parsl's DataFlowKernel, and nothing here imports parsl: the manager and the nodes must be up
before a process that imports it could be.
"""
