"""Code that depends on Parsl's internals: task records in frames, Files met by the pickler, the resolver."""
