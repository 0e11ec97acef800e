"""What the record of a run says about its configuration and versions."""

from __future__ import annotations

import dataclasses
import os
import platform
from typing import Any

import parsl

from taskvine_exec.config.redaction import redacted
from taskvine_exec.config.settings import EngineSettings
from taskvine_manager import VERSION


def facts(settings: EngineSettings) -> dict[str, dict[str, Any]]:
    """Return the versions of the programs, and the settings that are numbers or texts, without possible passwords."""
    system = os.uname()
    versions = {
        "taskvine-exec": VERSION,
        "parsl": parsl.__version__,
        "python": platform.python_version(),
        "system": f"{system.sysname} {system.release} {system.machine}",
    }
    values = ((each.name, getattr(settings, each.name)) for each in dataclasses.fields(settings))
    plain = {name: _clean(redacted(name, value)) for name, value in values if isinstance(value, (int, float, str))}
    return {"versions": versions, "settings": {name: value for name, value in plain.items() if value != ""}}


def _clean(value: object) -> object:
    """Escape lone surrogates in a text, which cannot be sent."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
