"""The one-machine engine: the shell around the scheduler, and the node process."""
