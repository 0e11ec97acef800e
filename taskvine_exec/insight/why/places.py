"""What happened to nodes and blocks."""

from __future__ import annotations

import re

from taskvine_exec.insight.state import Node
from taskvine_exec.insight.why.causes import Cause
from taskvine_exec.insight.why.context import Context
from taskvine_exec.insight.words import ended, few, in_seconds, plural
from taskvine_manager.record import events

ACTIVE = ("PENDING", "RUNNING", "HELD")
"""States of blocks that may still serve."""
PATIENCE = 15.0
"""Seconds that the nodes of a block that runs usually take at most to join."""
MOST = 5
"""Maximum number of nodes or blocks that are named."""

_ENDS = (
    ("walltime", re.compile(r"TIMEOUT|DEADLINE|time ?limit|walltime", re.IGNORECASE)),
    ("out-of-memory", re.compile(r"OUT_OF_MEMORY|out of memory|\boom\b", re.IGNORECASE)),
    ("preempted", re.compile(r"PREEMPT", re.IGNORECASE)),
    ("block-cancelled", re.compile(r"CANCEL", re.IGNORECASE)),
)
"""Kinds of causes, and what the batch system says then."""
_MEANINGS = {
    "walltime": "reached its time limit",
    "out-of-memory": "was killed for lack of memory",
    "preempted": "was preempted",
    "block-cancelled": "was cancelled",
}


def node_end(context: Context, name: str) -> Cause:
    """Return why a node is gone."""
    node = context.state.nodes.get(name)
    if node is None:
        return Cause("node-lost", f"node {name} was lost", node=name)
    if node.left is None:
        return Cause("node-lost", f"node {name} was lost, and a node with this name has joined again", node=name)
    words = [f"node {name} was lost {in_seconds(node.left - node.joined)} after it had joined"]
    if node.told:
        return Cause("released", f"node {name} left, because it had been told to", node=name)
    block = _block_end(context, node)
    if block is not None:
        kind, text = block
        return Cause(kind, "; ".join([*words, text]), node=name)
    kind = "out-of-memory" if _ENDS[1][1].search(node.reason) else "node-lost"
    words += filter(None, (node.reason, ended(node.status)))
    return Cause(kind, "; ".join(words), node=name)


def _block_end(context: Context, node: Node) -> tuple[str, str] | None:
    """Return the kind of the end of a node's block, and a text; None if the block does not explain the node's end."""
    known = context.state.blocks.get(node.info.block) if node.info.block else None
    if known is None:
        return None
    _, block = known
    if block.state in ACTIVE:
        return None
    said = f"{block.state} {block.reason}"
    for kind, pattern in _ENDS:
        if pattern.search(said):
            return kind, f"its {described(block)} {_MEANINGS[kind]}{words_of(block)}"
    return None


def described(block: events.Block) -> str:
    """Return what texts call a block."""
    return f"block {block.block} (job {block.job})" if block.job else f"block {block.block}"


def words_of(block: events.Block) -> str:
    """Return the batch system's words on a block, to be appended."""
    code = "" if block.exit_code is None else f"exit code {block.exit_code}"
    words = ", ".join(filter(None, (block.reason if block.reason != "submitted" else "", code)))
    return f": {words}" if words else ""


def missing_nodes(context: Context) -> tuple[Cause, ...]:
    """Return why no more nodes are there: blocks that wait, blocks that have ended, nodes that were lost."""
    state = context.state
    if not state.blocks:
        lost = _lost_nodes(context)
        return lost or (Cause("no-block", "the record names no block: nodes are started by hand or by a factory"),)
    active = [(time, block) for time, block in state.blocks.values() if block.state in ACTIVE]
    # A block that is silent for long comes before one that waits: it is the one that needs help.
    active.sort(key=lambda each: each[1].state != "RUNNING" or context.since(each[0]) < PATIENCE)
    found = (_active(context, time, block) for time, block in active)
    causes = [cause for cause in found if cause is not None]
    ends = [(time, block) for time, block in state.blocks.values() if block.state not in ACTIVE]
    ends.sort(key=lambda each: each[0], reverse=True)
    failed = [_failed(context, block) for _, block in ends if not _served(context, block)]
    lost = _lost_nodes(context)
    return (*causes[:MOST], *failed[:MOST], *lost)


def _served(context: Context, block: events.Block) -> bool:
    return any(node.info.block == block.block for node in context.state.nodes.values())


def _active(context: Context, time: float, block: events.Block) -> Cause | None:
    since = in_seconds(context.since(time))
    if block.state != "RUNNING":
        verb = "is held" if block.state == "HELD" else "waits at the batch system"
        return Cause("block", f"{described(block)} {verb} since {since}{words_of(block)}")
    if _served(context, block):
        return None
    said = f". The manager says: {context.state.entrance}" if context.state.entrance else ""
    return Cause(
        "silent-block",
        f"{described(block)} runs since {since}, but none of its nodes has joined{words_of(block)}. The node may still "
        "start, lack the software, not reach the manager's address, or have another password: see the job's output"
        f"{said}",
    )


def _failed(context: Context, block: events.Block) -> Cause:
    said = f"{block.state} {block.reason}"
    kind = next((kind for kind, pattern in _ENDS if pattern.search(said)), "block-failed")
    return Cause(
        kind, f"{described(block)} ended before a node of it had joined: {block.state.lower()}{words_of(block)}"
    )


def _lost_nodes(context: Context) -> tuple[Cause, ...]:
    gone = [(node.left, name) for name, node in context.state.nodes.items() if node.left is not None]
    gone.sort(reverse=True)
    return tuple(node_end(context, name) for _, name in gone[:MOST])


def occupants(context: Context, names: list[str]) -> str:
    """Return how many tasks nodes have."""
    nodes = [(name, context.state.nodes[name]) for name in names if name in context.state.nodes]
    return few(f"{name} has {plural(len(node.tasks), 'task')}" for name, node in nodes)
