"""Records of runs that never took place, of any size."""

from __future__ import annotations

import heapq
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack

from taskvine_manager.record import VERSION, events
from taskvine_manager.record.events import encoded
from taskvine_manager.runtime import failure
from taskvine_manager.wire.messages import FileUse, Profile

START = 1_700_000_000.0
CATEGORIES = ("prepare", "simulate", "analyse", "reduce", "<lambda>", "train & test", *map("step-{}".format, range(10)))


def profiles() -> list[Profile]:
    """One profile for each category."""
    return [
        Profile(number, f"key{number}", name, "L2", 1.0, None, None, None, 0.0, name)
        for number, name in enumerate(CATEGORIES)
    ]


def run(tasks: int, nodes: int, slots: int, seed: int = 0) -> Iterator[tuple[Any, ...]]:
    """Yield the entries of a run whose tasks read up to two earlier results each, and sometimes raise."""
    yield ("run", VERSION, START, {"engine": "embedded", "details": True, "tune_parameters": {"temp-replica-count": 2}})
    yield ("profiles", profiles())
    yield from sorted(_entries(tasks, nodes, slots, seed), key=lambda entry: float(entry[1]))


def _entries(tasks: int, nodes: int, slots: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """Yield the entries task by task, not in order of time."""
    chance = random.Random(seed)
    names = [f"node-{number}" for number in range(nodes)]
    joined = [events.NodeStarted(name, float(slots), 1e5, 1e6, 0, slots, "0", 100, f"/n/{name}") for name in names]
    yield ("events", START + 1, encoded(joined))
    free = [(START + 1.0, name, slot) for name in names for slot in range(slots)]
    heapq.heapify(free)
    ends: dict[int, tuple[float, str]] = {}
    for number in range(tasks):
        kind = number % len(CATEGORIES)
        earlier = range(max(0, number - 5000), number)
        read = chance.sample(earlier, min(chance.randrange(3), len(earlier)))
        inputs = [FileUse("value", "", f"v{each}") for each in read if each in ends]
        now, node, slot = heapq.heappop(free)
        ready = max([now, *(ends[int(use.source[1:])][0] for use in inputs)])
        began = ready + 0.01
        seconds = chance.lognormvariate(0.0, 0.6) * (1 + kind)
        end = began + seconds
        heapq.heappush(free, (end, node, slot))
        yield ("submitted", ready, [(number, kind, 100, inputs, [FileUse("value", "", f"v{number}")])])
        placed: list[events.Event] = [
            events.TransferStarted(use.source, node, ends[int(use.source[1:])][1], True)
            for use in inputs
            if ends[int(use.source[1:])][1] != node
        ]
        size = chance.randrange(10_000, 5_000_000)
        copied: list[events.Event] = []
        for each in placed:
            copied += [events.TransferEnded(each.file, node, size, 0.1), events.Made(each.file, node, size)]
        placed.append(events.Placed(node, [number], "inputs", 0, size, slot, 0.1))
        yield ("events", ready, encoded(placed))
        if copied:
            yield ("events", began, encoded(copied))
        if chance.random() < 0.002:
            yield ("done", end, [(number, failure.RAISED, node, ready, began, seconds, 50, (), "")])
            frame = f'Traceback (most recent call last):\n  File "app.py", line {kind}, in f\n'
            text = f"{frame}ValueError: sample {number} is bad\n"
            yield ("events", end, encoded([events.Failure(number, "ValueError", text)]))
            continue
        yield ("done", end, [(number, failure.RETURNED, node, ready, began, seconds, size, (), "")])
        ends[number] = (end, node)
        later: list[events.Event] = [events.Made(f"v{number}", node, size)]
        if (old := number - 6000) in ends:
            later.append(events.Dropped(f"v{old}", "", "unneeded"))
        yield ("events", end, encoded(later))
    yield ("end", max(end for end, _, _ in free) + 1)


def write(path: Path, tasks: int, nodes: int, slots: int, seed: int = 0) -> Path:
    """Write such a record."""
    packer = msgpack.Packer()
    with open(path, "wb") as file:
        for entry in run(tasks, nodes, slots, seed):
            file.write(packer.pack(entry))
    return Path(os.fspath(path))
