"""The contents of one parcel: tasks, their functions and values, and the files that TaskVine brings and takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from taskvine_manager.runtime.payload import Payload, shared_by
from taskvine_manager.vine.manager.events import Staged
from taskvine_manager.vine.manager.tasks import Task
from taskvine_manager.vine.parcels import Parcel
from taskvine_manager.wire.messages import FileUse


class Cargo:
    """A parcel that is being put together.

    Parameters
    ----------
    number : int
        Its number.
    functions : iterable of (str, Payload)
        The functions that its tasks call.
    held : mapping of str to Payload
        Results that are sent with the tasks that read them.
    local : bool
        Whether nodes are on this machine: files here are then named by path and not sent.
    """

    def __init__(
        self,
        number: int,
        functions: Iterable[tuple[str, Payload]],
        held: Mapping[str, Payload],
        *,
        local: bool = True,
    ) -> None:
        self._number = number
        self._functions = tuple(functions)
        self._held = held
        self._local = local
        self._tasks: list[Task] = []
        self._staged: dict[str, str] = {}
        self._values: dict[str, Payload] = {}
        self.inputs: list[Staged] = []
        self.outputs: list[Staged] = []
        if not local:
            for _, encoded in self._functions:
                if isinstance(encoded, str):
                    self._bring("local", encoded, "f")

    def add(self, task: Task, outputs: list[FileUse]) -> None:
        """Add a task, and those of its outputs that are TaskVine files."""
        self._tasks.append(task)
        if isinstance(task.invocation.arguments, str):
            self._add_arguments(task.invocation.arguments, kept=bool(outputs))
        for use in task.invocation.inputs:
            if use.kind == "value" and use.source in self._held:
                self._values[use.source] = self._held[use.source]
            elif use.source not in self._staged:
                self._bring("local" if use.kind == "local" else "temp", use.source, "i")
        for use in outputs:
            self._staged[f">{use.source}"] = name = f"o{len(self._staged)}"
            kind = "temp" if use.kind != "local" else "added" if use.stream == "a" else "brought"
            self.outputs.append(Staged(kind, use.source, name))

    def _add_arguments(self, path: str, *, kept: bool) -> None:
        """Add a file of arguments; it is ``kept`` for as long as TaskVine may have to run the task again."""
        if not self._local:
            self._bring("kept" if kept else "arguments", path, "a")
            for buffer in shared_by(path):
                self.inputs.append(Staged("shared", buffer, self._staged[path] + buffer.removeprefix(path)))
        elif kept:
            self._staged[path] = link = f"{path}-{self._number}"
            self.inputs.append(Staged("kept", path, link))

    def _bring(self, kind: str, source: str, letter: str) -> None:
        self._staged[source] = name = f"{letter}{len(self._staged)}"
        self.inputs.append(Staged(kind, source, name))

    @property
    def reads(self) -> tuple[str, ...]:
        """The temp files that TaskVine brings."""
        return tuple(staged.source for staged in self.inputs if staged.kind == "temp")

    @property
    def reads_by_path(self) -> tuple[str, ...]:
        """The results by value that the parcel names by the paths of their files."""
        return tuple(name for name, value in self._values.items() if isinstance(value, str))

    def parcel(self, *, brief: bool = False) -> Parcel:
        """Return the parcel for the supervisor; ``brief`` if a small answer is expected."""
        profiles = {task.profile.number: task.profile for task in self._tasks}
        return Parcel(
            "run",
            self._number,
            self._functions,
            tuple(tuple(profile) for profile in profiles.values()),
            tuple(tuple(task.invocation) for task in self._tasks),
            self._values or None,
            self._staged or None,
            brief=brief,
        )
