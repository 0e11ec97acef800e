"""Adapters to programs that drive executors. Each module imports its program, which need not be installed."""
