"""The graph of a run, made from the manager's record of past events and its snapshot of the present state."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from taskvine_exec.insight.state import State
from taskvine_manager.record import Record, Submitted
from taskvine_manager.runtime import failure

if TYPE_CHECKING:
    import networkx

    Lines = Callable[[networkx.DiGraph], Iterable[str]]

_OUTCOMES = {failure.RETURNED: "returned", failure.RAISED: "raised", failure.LOST: "lost"}
_KINDS = {"temp": "temp file", "value": "result"}
_DOT = (".dot", ".gv")
_GRAPHML = (".graphml",)
_COLOURS = {
    "waiting": "lightgrey",
    "ready": "lightyellow",
    "assigned": "lightblue",
    "returned": "palegreen",
    "raised": "salmon",
    "lost": "orange",
    "cancelled": "plum",
}


def build(record: Record, live: Mapping[str, Any] | None) -> networkx.DiGraph:
    """Make the graph of a run.

    Vertices of tasks are named by the executor's number of the task (an int, ``parsl_executor_task_id``). Vertices
    of temp files, and of results that other tasks may read, are named by a str. Edges lead from files to the tasks
    that read them, and from tasks to the files that they make. Attributes are str or numbers. Unknown ones are
    missing.

    | attribute of tasks | meaning |
    |---|---|
    | ``kind`` | ``"task"`` |
    | ``name`` | name of the function |
    | ``category`` | as in the resource specification |
    | ``mode`` | ``"L1"`` or ``"L2"`` |
    | ``state`` | ``"waiting"``, ``"ready"``, ``"assigned"``, ``"done"``, or ``"unknown"`` (its manager was killed) |
    | ``outcome`` | of a task that is done: ``"returned"``, ``"raised"``, ``"lost"`` or ``"cancelled"`` |
    | ``reason`` | of a lost task: the kind of failure, such as ``"node-lost"`` |
    | ``submitted`` | time at which the manager received the task, in seconds since the epoch |
    | ``dispatched`` | time at which its node began to launch it, in seconds since the epoch |
    | ``started`` | time at which its function was entered, in seconds since the epoch |
    | ``seconds`` | run time of its function |
    | ``node`` | node that runs or ran the task; empty for none |
    | ``attempts`` | number of attempts |
    | ``argument_bytes`` | encoded size of its arguments |
    | ``result_bytes`` | encoded size of its result, or of its failure |

    | attribute of files | meaning |
    |---|---|
    | ``kind`` | ``"temp file"`` or ``"result"`` |
    | ``name`` | name of the vertex |
    | ``state`` | ``"pending"``, ``"there"``, or ``"gone"`` (made, and then removed or lost) |
    | ``size`` | bytes |
    | ``places`` | names of the nodes that hold it, separated by commas; ``"manager"`` for a small result |

    Parameters
    ----------
    record : Record
        From ``taskvine_manager.record.read_record``.
    live : mapping or None
        From ``taskvine_manager.engine_api.Engine.snapshot``; None for a run whose manager is gone.

    Returns
    -------
    networkx.DiGraph
        A new graph.
    """
    import networkx

    graph = networkx.DiGraph()
    tasks = {number: rest for number, *rest in live["tasks"]} if live is not None else {}
    there = {file: (size, places) for file, size, places in live["files"]} if live is not None else {}
    sizes: dict[str, int] = {}
    for invocation in record.submitted.values():
        graph.add_node(invocation.number, **_task(record, invocation, tasks, live is not None))
        for use in invocation.inputs:
            if use.kind in _KINDS:
                graph.add_edge(_file(graph, use.source, use.kind), invocation.number)
        for use in invocation.outputs:
            if use.kind in _KINDS:
                graph.add_edge(invocation.number, _file(graph, use.source, use.kind))
                done = record.done.get(invocation.number)
                if done is not None and done.outcome == failure.RETURNED:
                    # A small result is not a file in done.made; its size is that of the completion.
                    sizes[use.source] = done.size if use.kind == "value" else 0
                    sizes.update(done.made)
    for file, facts in graph.nodes.items():
        if isinstance(file, str):
            size, places = there.get(file, (sizes.get(file), ()))
            if size is not None:
                facts["size"] = size
            facts["places"] = ",".join(places)
            facts["state"] = "there" if places else ("gone" if file in sizes else "pending")
    return graph


def snapshot(state: State) -> dict[str, Any]:
    """Return the present tasks and files of a state, as ``taskvine_manager.engine_api.Engine.snapshot`` does."""
    return {
        "tasks": [(task.number, task.state, task.node, task.attempts) for task in state.unfinished()],
        "files": [(name, file.size, sorted(file.holders)) for name, file in state.files.items() if file.holders],
    }


def _file(graph: networkx.DiGraph, name: str, kind: str) -> str:
    if name not in graph:
        graph.add_node(name, kind=_KINDS[kind], name=name)
    return name


def _task(record: Record, invocation: Submitted, tasks: Mapping[int, Any], is_live: bool) -> dict[str, Any]:
    number = invocation.number
    profile = record.profiles[invocation.profile]
    again = record.again.get(number, 0)
    facts: dict[str, Any] = {
        "kind": "task",
        "name": profile.name,
        "category": profile.category,
        "mode": profile.mode,
        "submitted": invocation.time,
        "argument_bytes": invocation.size,
    }
    done = record.done.get(number)
    if done is not None:
        facts |= {"node": done.node, "result_bytes": done.size}
        times = {"dispatched": done.dispatched, "started": done.started}
        facts |= {name: when for name, when in times.items() if when}
        if done.started:
            facts["seconds"] = done.seconds
    if number in tasks:
        state, node, _ = tasks[number]
        facts |= {"state": state, "node": node, "attempts": again + (state == "assigned")}
    elif number in record.cancelled:
        facts |= {"state": "done", "outcome": "cancelled", "attempts": again}
    elif done is not None:
        facts |= {"state": "done", "outcome": _OUTCOMES[done.outcome], "attempts": again + bool(done.node)}
        if done.kind:
            facts["reason"] = done.kind
    elif is_live or record.ended is not None:
        facts |= {"state": "done", "outcome": "cancelled", "attempts": again}
    else:
        facts |= {"state": "unknown", "attempts": again}
    return facts


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Check that the suffix of a path names a format for graphs.

    Raises
    ------
    ValueError
        If it does not.
    """
    if not os.fspath(path).lower().endswith((*_DOT, *_GRAPHML)):
        known = ", ".join((*_DOT, *_GRAPHML))
        raise ValueError(f"{os.fspath(path)!r} does not name a graph format: its suffix must be one of {known}")


def write(graph: networkx.DiGraph, path: str | os.PathLike[str]) -> None:
    """Write a graph in the format that the path's suffix names, DOT or GraphML.

    Raises
    ------
    ValueError
        If the suffix names no format.
    OSError
        If the file cannot be written.
    """
    check_suffix(path)
    if os.fspath(path).lower().endswith(_GRAPHML):
        import networkx

        # write_graphml would use lxml if that is installed, and lxml fails for other inputs than this function.
        networkx.write_graphml_xml(_for_xml(graph), path)
        return
    with open(path, "w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.writelines(dot(graph))


def graphml(graph: networkx.DiGraph) -> Iterable[str]:
    """Yield the lines of a graph as `GraphML <http://graphml.graphdrawing.org>`_."""
    import networkx

    for line in networkx.generate_graphml(_for_xml(graph)):
        yield f"{line}\n"


def dot(graph: networkx.DiGraph) -> Iterable[str]:
    """Yield the lines of a graph in the `DOT language <https://graphviz.org/doc/info/lang.html>`_.

    The nodes of the graph have generated names, such as ``t5`` for task 5 and ``f0`` for a file. Users' names are
    written as attributes, which can hold any string.
    """
    names = {node: f"t{node}" if isinstance(node, int) else f"f{index}" for index, node in enumerate(graph.nodes)}
    yield "digraph run {\n"
    for node, facts in graph.nodes.items():
        isfile = isinstance(node, str)
        label = node if isfile else f"{facts['name']} #{node}"
        attributes = {
            "label": _escaped(label),
            "shape": "box" if isfile else "ellipse",
            "style": "filled",
            "fillcolor": _COLOURS.get(str(facts.get("outcome") or facts["state"]), "white"),
            "tooltip": _escaped("\n".join(f"{key}: {value}" for key, value in facts.items())),
        }
        listing = ", ".join(f'{key}="{value}"' for key, value in attributes.items())
        yield f"  {names[node]} [{listing}];\n"
    for start, end in graph.edges:
        yield f"  {names[start]} -> {names[end]};\n"
    yield "}\n"


_ESCAPES = {"&": "&amp;", "\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\0": "\ufffd"}


def _escaped(text: str) -> str:
    """Escape a text for a quoted string that DOT displays. DOT has its own escapes and entities."""
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


#: Characters that `XML 1.0 <https://www.w3.org/TR/xml/#charsets>`_ cannot represent.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _for_xml(graph: networkx.DiGraph) -> networkx.DiGraph:
    """Copy a graph and replace the characters that XML cannot represent. Names of nodes stay distinct."""
    import networkx

    names: dict[Any, Any] = {}
    taken: set[str] = {str(node) for node in graph.nodes if not isinstance(node, str) or not _NOT_XML.search(node)}
    for node in graph.nodes:
        if isinstance(node, str) and _NOT_XML.search(node):
            clean = _NOT_XML.sub("\ufffd", node)
            while clean in taken:
                clean += "'"
            taken.add(clean)
            names[node] = clean
    copy = networkx.relabel_nodes(graph, names, copy=True)
    for facts in copy.nodes.values():
        for key, value in facts.items():
            if isinstance(value, str):
                facts[key] = _NOT_XML.sub("\ufffd", value)
    return copy
