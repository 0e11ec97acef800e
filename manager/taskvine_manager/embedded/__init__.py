"""The one-machine engine: the shell around the scheduler, and its node process."""
