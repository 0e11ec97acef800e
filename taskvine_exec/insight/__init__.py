"""Views of a run: the dependency graph with states, times and sizes."""
