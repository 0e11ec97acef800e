"""Hides possible passwords in reprs and messages. Parsl logs the repr of every configuration."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

_SECRET_NAME = r"[\w.-]*(?:pass|secret|token|credential|api[_-]?key|access[_-]?key)[\w.-]*"
_SECRET = re.compile(rf"""({_SECRET_NAME}(?:\s*[=:]\s*|\s+))("[^"]*"|'[^']*'|\S+)""", re.IGNORECASE)
_URL_SECRET = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_SECRET_FIELDS = ("env_vars", "context_args", "context_kwargs")
_HIDDEN = "***"


def redacted(name: str, value: object) -> object:
    """Replace possible passwords in the value of a field."""
    if name in _SECRET_FIELDS and value:
        return dict.fromkeys(value, _HIDDEN) if isinstance(value, Mapping) else _HIDDEN
    if name == "library_config" and isinstance(value, Mapping):
        return {key: redacted(str(key), inner) for key, inner in value.items()}
    if name == "libraries" and isinstance(value, Mapping):
        return {key: redacted("library_config", inner) for key, inner in value.items()}
    if isinstance(value, str):
        return _URL_SECRET.sub(_HIDDEN, _SECRET.sub(rf"\g<1>{_HIDDEN}", value))
    return value


def redacted_repr(config: Any) -> str:
    """Return the repr of a dataclass without possible passwords and without fields that are not for users."""
    names = [each.name for each in dataclasses.fields(config) if not each.name.startswith("_")]
    shown = ", ".join(f"{name}={redacted(name, getattr(config, name))!r}" for name in names)
    return f"{type(config).__name__}({shown})"
