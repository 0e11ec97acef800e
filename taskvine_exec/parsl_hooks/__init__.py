"""What depends on how Parsl works inside: task records read from frames, Files met by the pickler, the resolver."""
