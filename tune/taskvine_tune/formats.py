"""TOML, YAML and JSON: reading and writing mappings.

A format's library is imported when it is first needed; only YAML's is optional.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Literal

from taskvine_tune.errors import BadFile, LibraryMissing

__all__ = ["ENDINGS", "FORMATS", "Format", "format_of", "parse", "read", "render", "write"]

Format = Literal["toml", "yaml", "json"]
FORMATS: tuple[Format, ...] = ("toml", "yaml", "json")

#: Formats by suffix.
ENDINGS: Mapping[str, Format] = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}


def format_of(path: str) -> Format:
    """Return the format of a file, by its suffix.

    Raises
    ------
    BadFile
        If no format has this suffix.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise BadFile(path, f"its name must end with {', '.join(ENDINGS)}")
    return ENDINGS[ending]


def read(path: str) -> dict[str, Any]:
    """Read the mapping in a file, without checking its content.

    Raises
    ------
    BadFile
        If the file is missing, not UTF-8, not in its format, or not a mapping.
    LibraryMissing
        If the library for its format is not installed.
    """
    form = format_of(path)
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(path, str(error)) from None
    return parse(text, form, path)


def write(path: str, values: Mapping[str, Any]) -> None:
    """Write a mapping to a file, in the format of its suffix."""
    text = render(values, format_of(path))
    with open(os.path.expanduser(path), "w", encoding="utf-8") as file:
        file.write(text)


def parse(text: str, form: Format, path: str = "the text") -> dict[str, Any]:
    """Read a mapping from a text.

    Parameters
    ----------
    text
        The text; an empty one, or one with comments only, is an empty mapping in TOML and YAML.
    form
        Its format.
    path
        Its name in errors.

    Raises
    ------
    BadFile
        If it is not in that format, has a name twice, or is not a mapping.
    LibraryMissing
        If the library for its format is not installed.
    """
    try:
        parsed = {"toml": _parse_toml, "yaml": _parse_yaml, "json": _parse_json}[form](text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, LibraryMissing):
            raise
        raise BadFile(path, str(error) or type(error).__name__) from None
    if not isinstance(parsed, dict):
        raise BadFile(path, f"it holds a {type(parsed).__name__}, not values by name")
    return parsed


def render(values: Mapping[str, Any], form: Format) -> str:
    """Return the text for a mapping.

    Raises
    ------
    LibraryMissing
        If the library for the format is not installed.
    """
    if form == "json":
        return json.dumps(values, indent=2, allow_nan=False) + "\n"
    if form == "toml":
        import tomli_w

        return tomli_w.dumps(values)
    text: str = _yaml().safe_dump(dict(values), sort_keys=False)
    return text


def _parse_toml(text: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Reject a name that appears twice: JSON would silently take the last one."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} appears twice")
        found[name] = value
    return found


def _parse_yaml(text: str) -> Any:
    yaml = _yaml()
    try:
        parsed = _load_unique(yaml, text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    return {} if parsed is None else parsed


def _load_unique(yaml: Any, text: str) -> Any:
    """Load YAML with PyYAML's safe loader, but reject a name that appears twice."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            _once([(str(name), None) for name in names])
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader=Loader)


def _yaml() -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise LibraryMissing("a YAML file", "pyyaml") from None
    return yaml
