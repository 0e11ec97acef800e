"""What depends on the inner workings of Parsl: task records read from frames, and the dependency resolver."""
