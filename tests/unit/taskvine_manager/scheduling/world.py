"""A scheduler, with short methods that send it events and read its instructions."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterable
from typing import Any

from taskvine_manager.runtime import failure
from taskvine_manager.scheduling import core
from taskvine_manager.scheduling.events import (
    Answer,
    Asked,
    Cancelled,
    Completed,
    Event,
    Fetch,
    FileCached,
    FileSpoiled,
    Finish,
    Forgotten,
    InputCached,
    Instruction,
    NodeDraining,
    NodeJoined,
    NodeLeft,
    Replica,
    Run,
    Submitted,
    Tuned,
)
from taskvine_manager.scheduling.graph import DependencyGraph
from taskvine_manager.scheduling.storage import Storage
from taskvine_manager.scheduling.tables import Settings, Tables
from taskvine_manager.wire.messages import L2, Completion, FileUse, Invocation, Library, NodeInfo, Profile

Instructions = list[Instruction]


def temp(name: str, replicas: int = 0) -> FileUse:
    return FileUse("temp", name, name, replicas)


def value(name: str) -> FileUse:
    return FileUse("value", name, name)


def local(path: str) -> FileUse:
    return FileUse("local", path.strip("/"), path)


def tables(scheduler: core.Scheduler) -> Tables:
    """The tables of a scheduler."""
    return scheduler.parts.tables


def storage(scheduler: core.Scheduler) -> Storage:
    """The storage of a scheduler."""
    return scheduler.parts.storage


def is_empty(graph: DependencyGraph) -> bool:
    """Whether a graph holds no task, and no file is available."""
    return not (graph.ranks or graph.lacking or graph.available or graph.size)


class World:
    """A scheduler, with short methods that send it events."""

    def __init__(self, *, check: bool = True, **settings: Any) -> None:
        self.core = core.Scheduler(Settings(**settings), check=check)
        self.numbers = itertools.count()
        self.profiles: dict[tuple[Any, ...], Profile] = {}
        self.nodes: dict[int, str] = {}
        self.invocations: dict[int, Invocation] = {}

    def handle(self, event: Event) -> Instructions:
        instructions = self.core.handle(event)
        for instruction in instructions:
            if isinstance(instruction, Run):
                self.nodes.update((task.invocation.number, instruction.node) for task in instruction.tasks)
                self.invocations.update((task.invocation.number, task.invocation) for task in instruction.tasks)
        return instructions

    def join(self, name: str, cores: float = 2.0, memory: float = 1000.0, **fields: Any) -> Instructions:
        info = {"disk": 1000.0, "gpus": 0, "slots": None, "block": "", "pid": 0, "directory": "/", **fields}
        return self.handle(NodeJoined(NodeInfo(name, cores, memory, **info)))

    def leave(self, name: str, *, told: bool = False) -> Instructions:
        return self.handle(NodeLeft(name, "its connection ended", told))

    def drain(self, name: str) -> Instructions:
        return self.handle(NodeDraining(name))

    def invocation(
        self,
        needs: Iterable[str] = (),
        makes: Iterable[str] = (),
        inputs: tuple[FileUse, ...] = (),
        outputs: tuple[FileUse, ...] = (),
        *,
        arguments: bytes | str = b"",
        mode: str = L2,
        cores: float | None = None,
        memory: float | None = None,
        disk: float | None = None,
        gpus: float | None = None,
        priority: float = 0.0,
        category: str = "c",
        recoverable: bool = True,
        library: Library | None = None,
        gpu_memory: float | None = None,
    ) -> Invocation:
        key = (mode, cores, memory, disk, gpus, priority, category, recoverable, None, False, library, gpu_memory)
        profile = self.profiles.get(key)
        if profile is None:
            profile = Profile(len(self.profiles), "f", "name", *key)
            self.profiles[key] = profile
            self.handle(Submitted((profile,), []))
        number = next(self.numbers)
        inputs = (*inputs, *(temp(name) for name in needs))
        outputs = (*outputs, *(temp(name) for name in makes))
        return Invocation(number, profile.number, arguments, inputs, outputs)

    def submit(self, *invocations: Invocation) -> Instructions:
        return self.handle(Submitted((), list(invocations)))

    def call(self, count: int = 1, **fields: Any) -> Instructions:
        return self.submit(*(self.invocation(**fields) for _ in range(count)))

    def done(
        self,
        *numbers: int,
        made: Iterable[tuple[str, int]] = (),
        outcome: int = failure.RETURNED,
        body: bytes | str = b"",
        seconds: float = 1.0,
    ) -> Instructions:
        node = self.nodes[numbers[0]]
        stamped = tuple((file, size, 1) for file, size in made)
        completions = [Completion(each, outcome, body, node, 1.0, 1.0, seconds, stamped) for each in numbers]
        return self.handle(Completed(node, completions))

    def works(self, *numbers: int, size: int = 100, seconds: float = 1.0) -> Instructions:
        """End tasks successfully, one after another, with their files; return all instructions that follow."""
        told = []
        for number in numbers:
            uses = self.invocations[number].outputs
            made = [(use.source, size) for use in uses if use.kind != "local"]
            body = "elsewhere" if any(use.kind == "value" for use in uses) else b""
            told += self.done(number, made=made, body=body, seconds=seconds)
        return told

    def work(self) -> list[int]:
        """End all assigned tasks successfully until none is left; return their numbers in order."""
        ended = []
        while assigned := [number for node in self.core.nodes.values() for number in node.assigned]:
            ended.append(assigned[0])
            self.arrive()
            self.works(assigned[0])
        return ended

    def arrive(self) -> Instructions:
        """End all transfers between nodes."""
        told = []
        for name, node in list(self.core.nodes.items()):
            for file in list(node.fetching):
                told += self.cached(name, file)
        return told

    def cached(self, node: str, file: str, problem: str | None = None, **fields: Any) -> Instructions:
        fields = {"stamp": 0 if problem else 1, **fields}
        return self.handle(FileCached(node, file, 0 if problem else 7, problem, **fields))

    def spoiled(self, node: str, file: str) -> Instructions:
        return self.handle(FileSpoiled(node, file, 1))

    def brought(self, node: str, path: str, size: int = 10) -> Instructions:
        """A node reports that it has a user's file; of no bytes, that it could not get it."""
        return self.handle(InputCached(node, path, size, path.strip("/") if size else "", (1,) if size else ()))

    def cancel(self, *numbers: int) -> Instructions:
        return self.handle(Cancelled(numbers))

    def forget(self, *files: str) -> Instructions:
        return self.handle(Forgotten(files))

    def ask(self, file: str, request: int = 1) -> Instructions:
        return self.handle(Asked(request, file))

    def where(self, file: str) -> str | None:
        """Return the node from which a file would be read."""
        (answer,) = only(Answer, self.ask(file))
        return answer.where.node if isinstance(answer.where, Replica) else None

    def tune(self, **parameters: float) -> Instructions:
        return self.handle(Tuned({name.replace("_", "-"): number for name, number in parameters.items()}))

    def replicate(self, count: int) -> Instructions:
        return self.tune(temp_replica_count=count)

    def make(self, file: str, size: int = 100, **fields: Any) -> str:
        """Make a file; return its node."""
        invocation = self.invocation(makes=[file], **fields)
        self.submit(invocation)
        self.done(invocation.number, made=[(file, size)])
        return self.nodes[invocation.number]

    def names(self) -> set[str]:
        """Return the files that have a record."""
        return {file.name for file in self.core.files}

    def is_clean(self) -> bool:
        """Whether nothing is left of all tasks."""
        nodes = self.core.nodes.values()
        busy = any(
            node.assigned or node.shapes or node.files or node.used or node.fetching or node.sending or node.reads
            for node in nodes
        )
        return not (busy or self.core.tasks or self.names()) and is_empty(tables(self.core).graph)


def runs(instructions: Instructions) -> dict[str, list[int]]:
    return {
        item.node: [task.invocation.number for task in item.tasks] for item in instructions if isinstance(item, Run)
    }


def ran(instructions: Instructions) -> list[int]:
    """Return the numbers of assigned tasks, in the order of their submission."""
    return sorted(number for numbers in runs(instructions).values() for number in numbers)


def again(instructions: Instructions) -> list[tuple[FileUse, ...]]:
    """Return the outputs of assigned tasks that recreate lost files."""
    tasks = [task for item in instructions if isinstance(item, Run) for task in item.tasks]
    return [task.invocation.outputs for task in tasks if task.origin is not None]


def sources(instructions: Instructions) -> dict[str, str]:
    fetched = [item.sources for item in instructions if isinstance(item, Run)]
    return {file: replica.node for each in fetched for file, replica in each.items()}


def copies(instructions: Instructions) -> dict[str, str | None]:
    """Return from where nodes with new tasks get users' files: from another node, or the original file."""
    found: dict[str, str | None] = {}
    for run in only(Run, instructions):
        paths = [use.source for task in run.tasks for use in task.invocation.inputs if use.kind == "local"]
        for path in paths:
            found[run.node] = run.copies[path].node if path in run.copies else None
    return found


def fetches(instructions: Instructions) -> list[tuple[str, str, str]]:
    """Return the copies that are ordered: to which node, of what, from which node."""
    return [(item.node, item.file, item.source.node) for item in instructions if isinstance(item, Fetch)]


def finished(instructions: Instructions) -> list[Completion]:
    return [each for item in instructions if isinstance(item, Finish) for each in item.completions]


def records(instructions: Instructions) -> dict[int, dict[str, Any]]:
    """Return the failure records of the tasks that were lost."""
    lost = [each for each in finished(instructions) if each.outcome == failure.LOST]
    return {each.number: pickle.loads(each.body) for each in lost if isinstance(each.body, bytes)}


def only(kind: type, instructions: Instructions) -> list[Any]:
    return [item for item in instructions if isinstance(item, kind)]


def unread(file: str) -> dict[str, Any]:
    """Make the failure of a task that could not read a file."""
    return {"outcome": failure.LOST, "body": failure.lost("file-lost", "no replica could be read", name=file)}


def spread(world: World, count: int, cores: float = 1.0) -> None:
    """Make nodes n0, n1 and so on, each for one call."""
    for number in range(count):
        world.join(f"n{number}", cores=cores)


def chain(world: World, length: int, **fields: Any) -> list[int]:
    """Run a chain of calls. Each forgets the file before it, as results are when only the last one is kept."""
    numbers = []
    for step in range(length):
        invocation = world.invocation(needs=[f"f{step - 1}"] if step else [], makes=[f"f{step}"], **fields)
        world.submit(invocation)
        numbers.append(invocation.number)
        world.works(invocation.number)
        if step:
            world.forget(f"f{step - 1}")
    return numbers


def made_again(instructions: Instructions) -> list[str]:
    return sorted(use.source for outputs in again(instructions) for use in outputs)


def recover(world: World) -> list[str]:
    """Run everything to its end; return the recreated files, in order."""
    return [use.source for number in world.work() if number < 0 for use in world.invocations[number].outputs]
