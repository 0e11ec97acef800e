"""Simulated runs: the scheduler of the embedded engine on imagined nodes."""
