"""Tuning parameters of TaskVine and of the executor: declaring, checking, reading and trying them out.

Names are imported when they are first used: reading parameters needs neither numpy nor rich.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskvine_manager.parameters import PARAMETERS, Parameter
    from taskvine_tune.errors import TuningError
    from taskvine_tune.tuning import TuneParameters

_HOME = {
    "PARAMETERS": "taskvine_manager.parameters",
    "Parameter": "taskvine_manager.parameters",
    "TuneParameters": "taskvine_tune.tuning",
    "TuningError": "taskvine_tune.errors",
}

__all__ = ["PARAMETERS", "Parameter", "TuneParameters", "TuningError"]


def __getattr__(name: str) -> Any:
    try:
        module = importlib.import_module(_HOME[name])
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(module, name)
