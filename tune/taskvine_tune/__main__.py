"""``python -m taskvine_tune`` is ``taskvine-tune``."""

from __future__ import annotations

import sys

from taskvine_tune.command import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
