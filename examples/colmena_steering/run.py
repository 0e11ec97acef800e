"""Steer simulations with Colmena: a model learns from them, and proposes the next ones.

The candidates and each model stay on nodes. The thinker sees names of them, and small lists of numbers.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import design
from colmena.queue import PipeQueues

from taskvine_exec.clients.colmena import RELEASE, TaskVineTaskServer


class Thinker:
    """Chooses candidates, and remembers what their simulations found.

    Parameters
    ----------
    queues : PipeQueues
        Queues to the task server.
    arguments : argparse.Namespace
        The command line.
    """

    def __init__(self, queues: PipeQueues, arguments: argparse.Namespace) -> None:
        self._queues = queues
        self._steps, self._batch, self._rounds = arguments.steps, arguments.batch, arguments.rounds
        self._count, self._seed = arguments.candidates, arguments.seed
        self.known: list[list[float]] = []

    def run(self, *, guided: bool) -> float:
        """Simulate some batches of candidates; return the best value that was found."""
        candidates = self._ask("make_candidates", self._count, self._seed)
        order = random.Random(self._seed).sample(range(self._count), self._count)
        self.known = []
        self._simulate(candidates, order[: self._batch])
        for number in range(1, self._rounds):
            chosen = order[number * self._batch : (number + 1) * self._batch]
            if guided:
                chosen = self._propose(candidates, number)
            self._simulate(candidates, chosen)
        self._ask(RELEASE, candidates)
        return max(value for _, value in self.known)

    def _propose(self, candidates: str, number: int) -> list[int]:
        model = self._ask("train", candidates, self.known, self._seed + number)
        seen = {int(each) for each, _ in self.known}
        ranked: list[int] = self._ask("rank", candidates, model, len(seen) + self._batch)
        self._ask(RELEASE, model)
        return [each for each in ranked if each not in seen][: self._batch]

    def _simulate(self, candidates: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._queues.send_inputs(candidates, number, self._steps, method="simulate")
        self.known += sorted(self._value() for _ in numbers)

    def _ask(self, method: str, *inputs: Any) -> Any:
        self._queues.send_inputs(*inputs, method=method)
        return self._value()

    def _value(self) -> Any:
        result = self._queues.get_result()
        if not result.success:
            raise RuntimeError(f"{result.method} failed: {result.failure_info.exception}")
        return result.value


@contextmanager
def served(engine: str) -> Iterator[PipeQueues]:
    """Run the task server, and yield the queues to it."""
    queues = PipeQueues()
    methods = [
        (design.make_candidates, {"keep": True}),
        (design.train, {"keep": True, "function_exec_mode": "L1"}),
        design.simulate,
        design.rank,
    ]
    server = TaskVineTaskServer(queues, methods, engine=engine, library_config={"import_modules": ["numpy"]})
    server.start()
    try:
        yield queues
    finally:
        queues.send_kill_signal()
        server.join()


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit with status 2 if it is invalid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--engine", choices=["auto", "embedded", "taskvine"], default="auto", help="engine (default: %(default)s)")
    add("--candidates", type=int, default=50_000, help="candidates to choose from (default: %(default)s)")
    add("--batch", type=int, default=20, help="simulations in each round (default: %(default)s)")
    add("--rounds", type=int, default=8, help="rounds (default: %(default)s)")
    add("--steps", type=int, default=50_000, help="steps of each simulation (default: %(default)s)")
    add("--seed", type=int, default=1, help="seed of all random numbers (default: %(default)s)")
    parsed = parser.parse_args(arguments)
    if min(parsed.batch, parsed.rounds, parsed.steps) < 1 or parsed.batch * parsed.rounds > parsed.candidates:
        parser.error("numbers must be positive, and there must be a candidate for each simulation")
    return parsed


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare choosing by the model with choosing at random."""
    parsed = parse_arguments(arguments)
    with served(parsed.engine) as queues:
        thinker = Thinker(queues, parsed)
        for guided in (False, True):
            begun = time.monotonic()
            best = thinker.run(guided=guided)
            how = "the model chooses" if guided else "chosen at random"
            print(f"{how}: best of {len(thinker.known)} is {best:.3f}, in {time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
