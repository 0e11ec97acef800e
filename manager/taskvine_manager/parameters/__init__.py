"""Every tuning parameter, declared once.

:mod:`~taskvine_manager.parameters.taskvine` declares those of TaskVine, :mod:`~taskvine_manager.parameters.own` those
of the executor, whose names begin with ``executor.``. Validation, the command line and the tables of the documentation
derive from :data:`PARAMETERS`; other modules take names, defaults and bounds from the declarations.
"""

from __future__ import annotations

from taskvine_manager.parameters.kinds import NAMESPACE, Flag, Parameter, Real, Value, Whole, shown
from taskvine_manager.parameters.lookup import PARAMETERS, canonical, find, honoured, nearest
from taskvine_manager.parameters.support import ENGINES, Engine, Standing, Support
from taskvine_manager.parameters.taskvine import TASKVINE_VERSION

__all__ = [
    "ENGINES",
    "NAMESPACE",
    "PARAMETERS",
    "TASKVINE_VERSION",
    "Engine",
    "Flag",
    "Parameter",
    "Real",
    "Standing",
    "Support",
    "Value",
    "Whole",
    "canonical",
    "find",
    "honoured",
    "nearest",
    "shown",
]
