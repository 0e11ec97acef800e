"""The one-machine engine: a pure scheduling core, and the processes around it."""
