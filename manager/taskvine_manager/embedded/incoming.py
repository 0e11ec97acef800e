"""Validation of messages from nodes: a node that sends a malformed message is dropped."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any

from taskvine_manager.scheduling import events
from taskvine_manager.wire.messages import Completion, NodeInfo

Check = Callable[[Any], bool]
_BODY = frozenset({bytes, str})


def _is(kind: type) -> Check:
    return lambda value: type(value) is kind


_integer, _text, _flag = _is(int), _is(str), _is(bool)


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _amount(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _many(check: Check) -> Check:
    return lambda value: type(value) is tuple and all(map(check, value))


def _maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _record(*checks: Check) -> Check:
    def holds(value: Any) -> bool:
        if type(value) is not tuple or len(value) != len(checks):
            return False
        return all(check(item) for check, item in zip(checks, value, strict=True))

    return holds


_names = _many(_text)


# The next two are written out for speed, since there is one of each for each task.
def _made(item: Any) -> bool:
    if type(item) is not tuple or len(item) != 3:
        return False
    file, size, stamp = item
    return type(file) is str and type(size) is type(stamp) is int and size >= 0


_files = _many(_made)


def _completion(item: Any) -> bool:
    if type(item) is not tuple or len(item) != len(Completion._fields):
        return False
    number, outcome, body, node, dispatched, started, seconds, made, left = item
    return (
        type(number) is type(outcome) is int
        and outcome >= 0
        and type(body) in _BODY
        and type(node) is str
        and type(dispatched) is type(started) is type(seconds) is float
        and 0.0 <= dispatched < math.inf
        and 0.0 <= started < math.inf
        and 0.0 <= seconds < math.inf
        and (made == () or _files(made))
        and (left == () or _names(left))
    )


_node = _record(_text, _amount, _amount, _amount, _whole, _maybe(_whole), _text, _whole, _text, _many(_amount))
# Task numbers may be negative: those of tasks that recreate lost files are.
FORMS: dict[str, Check] = {
    "done": _record(_many(_completion)),
    "returned": _record(_many(_integer)),
    "cached": _record(_text, _whole, _maybe(_text), _integer, _amount, _flag, _text),
    "input": _record(_text, _whole, _text, _many(_integer)),
    "crowded": _record(_integer, _whole),
    "libraries": _record(_names),
    "steps": _record(_many(_record(_text, _text, _text, _maybe(_integer), _text))),
    "radio": _record(_many(_is(bytes))),
    "idle": _record(),
    "pong": _record(),
    "notice": _record(_text),
    "leaving": _record(),
}
"""Checks of the parts of each message but ``hello``, by tag."""


def hello(base: str, rest: tuple[Any, ...]) -> NodeInfo:
    """Check the description that a node sends of itself, and return it.

    Parameters
    ----------
    base : str
        The run's private directory. The node's directory must be in its folder for nodes, since it is removed when the
        node ends.
    rest : tuple
        Parts of the message after its tag.

    Raises
    ------
    ValueError
        If the description is malformed, or is not of a node of this run.
    """
    if len(rest) != 1 or not _node(rest[0]):
        raise ValueError(f"invalid description of a node: {rest!r:.200}")
    info = NodeInfo(*rest[0])
    if not info.cores or os.path.basename(info.name) != info.name or info.name in ("", ".", ".."):
        raise ValueError(f"invalid description of a node: {info!r:.200}")
    above, own = os.path.split(info.directory)
    if own != info.name or os.path.realpath(above) != os.path.realpath(os.path.join(base, "nodes")):
        raise ValueError(f"node {info.name!r} names a directory that is not its own: {info.directory!r:.200}")
    return info


def check(kind: str, rest: tuple[Any, ...]) -> None:
    """Check that a message is well-formed; ``hello`` has its own function.

    Raises
    ------
    ValueError
        If it is not.
    """
    form = FORMS.get(kind)
    if form is None:
        raise ValueError(f"unknown message {kind!r:.100}")
    if not form(rest):
        raise ValueError(f"message {kind!r} has invalid parts: {rest!r:.200}")


def _completed(node: str, completions: Iterable[tuple[Any, ...]]) -> events.Completed:
    return events.Completed(node, [Completion(*item) for item in completions])


EVENTS: dict[str, Callable[..., events.Event]] = {
    "done": _completed,
    "returned": events.Returned,
    "cached": events.FileCached,
    "input": events.InputCached,
    "crowded": events.Crowded,
    "libraries": events.LibrariesRun,
}
"""The scheduler's events for checked messages: by tag, made of the node's name and the parts of the message."""
