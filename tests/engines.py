"""The engines that can be tested on this machine."""

from __future__ import annotations

import pytest
from parsl.errors import ConfigurationError, OptionalModuleMissing

from taskvine_exec import engines


def _absent() -> str | None:
    try:
        engines.choose("taskvine", "vine_worker")
    except (ConfigurationError, OptionalModuleMissing) as error:
        return str(error)
    return None


ABSENT = _absent()
"""The reason why the TaskVine engine cannot be tested here, or None."""
ENGINES = ["embedded", pytest.param("taskvine", marks=pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT)))]
"""Parameters of a test or a fixture: all engines."""
on_both = pytest.mark.parametrize("engine", ENGINES)
