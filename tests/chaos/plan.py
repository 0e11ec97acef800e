"""The plan of a chaos run: its DAG and the harm that is done. All of it follows from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.chaos import conditions

LAYERS, WIDTH = 6, 10


@dataclass(frozen=True)
class Node:
    """A node of the DAG: ``kind`` is ``"large"``, ``"small"`` or ``"file"``."""

    number: int
    kind: str
    parents: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Plan:
    """All choices for a run.

    Attributes
    ----------
    first, second : list of Node
        The DAG. The nodes in ``second`` are submitted later, if something is done in between.
    held : set of int
        Nodes whose futures are kept, and whose results are compared.
    kills : list of int
        Numbers of finished tasks at which a node is killed.
    standing : bool
        Whether, instead, a node is killed between the halves, when all replicas exist.
    spoil : bool
        Whether a file is overwritten.
    poison : bool
        Whether a call kills the workers that run it.
    condition : str
        The condition of the machine.
    """

    seed: int
    first: list[Node]
    second: list[Node]
    held: set[int]
    replicas: int
    peers: bool
    kills: list[int]
    standing: bool
    spoil: bool
    poison: bool
    condition: conditions.Condition

    @staticmethod
    def draw(seed: int, engine: str) -> Plan:
        """Choose the plan of a seed."""
        rng = random.Random(seed)
        nodes: list[Node] = []
        for layer in range(LAYERS):
            earlier = range(len(nodes))
            recent = earlier[-2 * WIDTH :]
            for _ in range(WIDTH):
                count = min(len(earlier), rng.choice((1, 1, 2, 2, 3)) if layer else 0)
                parents = {rng.choice(recent if rng.random() < 0.8 else earlier) for _ in range(count)}
                # Tasks with files import parsl, which takes long, so only some runs have them.
                kind = rng.choices(("large", "small", "file"), (3, 1, seed % 3 == 0))[0]
                nodes.append(Node(len(nodes), kind, tuple(sorted(parents)), rng.uniform(0, 0.03)))
        used = {parent for node in nodes for parent in node.parents}
        held = {node.number for node in nodes if node.number not in used or rng.random() < 0.5}
        peers = seed % 7 != 0
        replicas = 2 if seed % 2 and peers else 1
        spoil = seed % 5 == 0 and engine == "embedded"
        poison = seed % 4 == 2 and engine == "taskvine"
        standing = replicas == 2 and not spoil and seed // 2 % 2 == 0
        kills = [] if standing else sorted(rng.sample(range(1, len(nodes)), rng.choice((2, 3, 4, 5))))
        half = WIDTH * rng.randrange(2, LAYERS - 1) if standing or spoil else len(nodes)
        parts = nodes[:half], nodes[half:]
        condition = conditions.draw(seed, engine)
        return Plan(seed, *parts, held, replicas, peers, kills, standing, spoil, poison, condition)
