"""``python -m taskvine_exec`` is ``taskvine-exec``."""

from __future__ import annotations

import sys

from taskvine_exec.command import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
