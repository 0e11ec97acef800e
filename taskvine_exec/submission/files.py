"""The files that a task reads and writes, and their paths for the task.

:class:`FilePlan` decides for each Parsl ``File`` in the arguments whether it is staged:

================================= ===================================================================
Path of a Parsl File               Meaning
================================= ===================================================================
relative                           staged: copied into the task's sandbox, or back from there
                                   (a directory with all its contents)
absolute                           on a file system that nodes share with the user: used in place
``taskvinetemp:///name``           a temp file, which stays on nodes
``https://``, ``s3://``, ...        remote: fetched once, and then a temp file; written by the task
================================= ===================================================================

With ``working_directory="submit"``, apps run in the user's directory, and relative paths stay as they are, because they
name the same files there. In sandboxes, relative paths are made absolute if ``shared_fs`` is set, or if they lead out
of the sandbox (``../``). Files that another staging provider moves inside the task are left to that provider.

Files are found anywhere in the arguments, for example in lists, dicts and dataclasses. A File in such a place, neither
an argument itself nor an item of ``inputs`` or ``outputs``, is an input if it exists.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from parsl.data_provider.files import File
from parsl.data_provider.staging import Staging
from parsl.utils import get_std_fname_mode

from taskvine_exec.submission.remote import RemoteInputs, is_staged, remote_output
from taskvine_exec.submission.temp_files import SCHEME, TempFiles, bind, version_of
from taskvine_manager.runtime import sandbox
from taskvine_manager.runtime.remote import addresses
from taskvine_manager.wire import messages
from taskvine_manager.wire.messages import FileUse

_WRITTEN = ("outputs", "stdout", "stderr")


@dataclass(frozen=True, kw_only=True)
class FileRules:
    """Where the files of an executor's tasks are, and how they get to the tasks.

    Parameters
    ----------
    temp_files : TempFiles
        The executor's temp files.
    shared_fs : bool
        Whether relative paths are on a shared file system.
    storage : sequence of Staging
        The executor's staging providers.
    streams_travel : bool
        Whether standard streams with relative paths are staged out of sandboxes, for nodes that do not see the user's
        directory.
    directory : str, optional
        The directory that relative paths start from: that of the user's program when the executor was started. Default:
        the current one.
    in_place : bool
        Whether apps run in that directory.
    remote : RemoteInputs, optional
        The executor's remote inputs.
    """

    temp_files: TempFiles
    shared_fs: bool
    storage: Sequence[Staging] = ()
    streams_travel: bool = False
    directory: str | None = None
    in_place: bool = False
    remote: RemoteInputs | None = None


class FilePlan:
    """The files of one task, and its arguments with the paths that it will use.

    Parameters
    ----------
    args, kwargs
        As given to ``submit``. They are not changed.
    rules : FileRules
        The executor's rules.
    task : object
        Identifies the task in versions of temp files that the DFK has not bound to a version.
    producer : Future
        The task's future.

    Attributes
    ----------
    args, kwargs
        For the task.
    inputs, outputs : list of FileUse
        For the node.

    Raises
    ------
    FileNotFoundError
        If no task has been asked to make a ``taskvinetemp`` input.
    ValueError
        If two inputs, or two outputs, would be the same file of the sandbox, or one is the current directory.
    """

    def __init__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], rules: FileRules, *, task: object, producer: Future[Any]
    ) -> None:
        self._rules = rules
        self._task = task
        self._producer = producer
        self.inputs: list[FileUse] = []
        self.outputs: list[FileUse] = []
        self._written: dict[str, File] = {}  # remote outputs, by URL
        self._planned: dict[int, tuple[File, File]] = {}  # by id: each File, to keep it alive, and its replacement
        self.args = tuple(self._input(value) for value in args)
        self.kwargs = dict(kwargs)
        # Inputs first: a task that reads and writes the same name reads the version before its own.
        for key, value in kwargs.items():
            if key not in _WRITTEN:
                self.kwargs[key] = self._input_argument(key, value)
        for key in _WRITTEN:
            if key in kwargs:
                self.kwargs[key] = self._output_argument(key, kwargs[key])

    def _input_argument(self, key: str, value: Any) -> Any:
        if key == "inputs" and isinstance(value, (list, tuple)):
            return [self._input(item) for item in value]
        return self._input(value)

    def _output_argument(self, key: str, value: Any) -> Any:
        if key == "outputs":
            return [self._output(item) for item in value] if isinstance(value, (list, tuple)) else self._output(value)
        if isinstance(value, File):
            return self._output(value)
        rules = self._rules
        absolute = absolute_stream(key, value, rules.directory)
        if not rules.streams_travel or rules.shared_fs or rules.in_place or absolute == value:
            return absolute
        path, mode = get_std_fname_mode(key, value)
        if _leads_out(path):
            return absolute
        inside = os.path.normpath(path)
        if inside not in [use.name for use in self.outputs]:
            stream = "w" if mode.startswith("w") else "a"
            _add(self.outputs, FileUse("local", inside, _absolute(path, rules.directory), 0, stream))
        return (inside, mode)

    def nested(self, file: File) -> File:
        """Return what replaces a File that the pickler met in the arguments; plan it as an input if it is new."""
        if id(file) not in self._planned:
            if file.scheme == SCHEME:
                planned = self._nested_temp(file)
            elif is_staged(file, self._rules.storage, "in"):
                planned = self._written.get(file.url) or self._remote_input(file)
            else:
                planned = self._nested_local(file)
            self._planned[id(file)] = file, planned
        return self._planned[id(file)][1]

    def _nested_temp(self, file: File) -> File:
        if version_of(file) is None:
            file = file.cleancopy()
            # The task must not read the version that it will make itself. Its outputs are known by now.
            own = {use.source for use in self.outputs}
            if self._rules.temp_files.consume_before(file, own) is None:
                return _InSandbox(file) if self._rules.in_place else file  # only an output
        return self._temp(file, self.inputs)

    def _nested_local(self, file: File) -> File:
        path = _local_path(file)
        is_there = path is not None and os.path.exists(_absolute(path, self._rules.directory))
        return self._plan_input(file) if is_there or self._rules.shared_fs else file

    def _input(self, value: Any) -> Any:
        return self._planned_as_is(self._plan_input(value)) if isinstance(value, File) else value

    def _output(self, value: Any) -> Any:
        return self._planned_as_is(self._plan_output(value)) if isinstance(value, File) else value

    def _planned_as_is(self, file: File) -> File:
        """Note that a File in the new arguments needs no replacement if the pickler meets it."""
        self._planned[id(file)] = file, file
        return file

    def _plan_input(self, value: File) -> File:
        """Plan a File that the task reads, if it is staged; return what the task gets for it."""
        if value.scheme == SCHEME:
            if version_of(value) is None:
                value = value.cleancopy()
                self._rules.temp_files.consume(value)
            return self._temp(value, self.inputs)
        if is_staged(value, self._rules.storage, "in"):
            return self._remote_input(value)
        path = _local_path(value)
        if path is None or os.path.isabs(path) or _moved_in_task(value, self._rules.storage, "in"):
            return value
        if value.scheme != "file" and not os.path.exists(_absolute(path, self._rules.directory)):
            return value  # no staging task of Parsl has put it here
        return self._local(value, path, self.inputs)

    def _plan_output(self, value: File) -> File:
        """Plan a File that the task writes, if it is staged; return what the task gets for it."""
        if value.scheme == SCHEME:
            if version_of(value) is None:
                value = value.cleancopy()
                self._rules.temp_files.produce(value, self._task, self._producer)
            return self._temp(value, self.outputs)
        if is_staged(value, self._rules.storage, "out"):
            return self._remote_output(value)
        path = _local_path(value)
        if path is None or os.path.isabs(path) or _moved_in_task(value, self._rules.storage, "out"):
            return value
        if self._rules.in_place and not _leads_out(path):
            with contextlib.suppress(OSError):  # the app will raise the error
                os.makedirs(os.path.dirname(_absolute(path, self._rules.directory)), exist_ok=True)
        return self._local(value, path, self.outputs, is_output=True)

    def _remote_input(self, file: File) -> File:
        assert self._rules.remote is not None
        version = self._rules.remote.version(file.url)
        name = addresses.file_name(file.url)
        if any(use.name == name and use.source != version for use in self.inputs):
            name = os.path.join(version.rpartition("-")[2], name)
        file = file.cleancopy()
        bind(file, name, version)
        return self._temp(file, self.inputs)

    def _remote_output(self, file: File) -> File:
        assert self._rules.remote is not None
        self._rules.remote.written(file.url, self._producer)
        return self._written.setdefault(file.url, remote_output(file))

    def _local(self, file: File, path: str, uses: list[FileUse], *, is_output: bool = False) -> File:
        if self._rules.in_place:
            return file
        absolute = _absolute(path, self._rules.directory)
        if self._rules.shared_fs or _leads_out(path):
            return _with_path(file, absolute)
        inside = os.path.normpath(path)
        if inside == os.curdir:
            raise ValueError(
                f"File({file.url!r}) is all of the current directory {absolute}, and is not staged: name the files and "
                "directories in it that the task needs, or give the absolute path to use it in place"
            )
        _add(uses, FileUse("local", inside, absolute, directory=is_output and os.path.isdir(absolute)))
        # The sandbox has only the folders that its files need, so "a/../b" may not exist there.
        return _with_path(file, inside) if ".." in path.split(os.sep) else file

    def _temp(self, file: File, uses: list[FileUse]) -> File:
        _add(uses, FileUse("temp", str(file.local_path), str(version_of(file)), getattr(file, "replicas", 0)))
        return _InSandbox(file) if self._rules.in_place else file


class _InSandbox(File):
    """A temp file of a task that does not run in its sandbox. In the task, the path of the file is absolute."""

    def __init__(self, file: File) -> None:
        super().__init__(file.url)
        self.__dict__.update({name: value for name, value in file.__dict__.items() if name != "replicas"})

    def __reduce__(self) -> tuple[Any, ...]:
        return sandbox.locate, (File, self.url, self.__dict__)


@dataclass(eq=False)
class NestedFiles:
    """Adds Files that the pickler meets to a task's plan.

    Parameters
    ----------
    plan : FilePlan or None
        The task's plan so far, if it has one.
    make : callable
        Makes a plan when the first File is met and there is none.
    """

    plan: FilePlan | None
    make: Callable[[], FilePlan]
    error: Exception | None = field(default=None, init=False)

    def __call__(self, file: File) -> File:
        try:
            if self.plan is None:
                self.plan = self.make()
            return self.plan.nested(file)
        except Exception as error:
            self.error = error  # the pickler would report that the argument cannot be pickled
            raise


def _add(uses: list[FileUse], use: FileUse) -> None:
    try:
        messages.check(use)
    except ValueError as error:
        raise ValueError(f"the file {use.source!r}, {use.name!r} in the task's sandbox: {error}") from error
    for other in uses:
        if other == use:
            return
        if other.name == use.name:
            raise ValueError(
                f"two different files of the task would be called {use.name!r} in its sandbox: "
                f"{other.source} and {use.source}"
            )
    uses.append(use)


def _moved_in_task(file: File, storage: Sequence[Staging], way: str) -> bool:
    """Whether a staging provider moves a file in a wrapper around the task's function."""
    for provider in storage:
        if way == "in" and provider.can_stage_in(file):
            return type(provider).replace_task is not Staging.replace_task
        if way == "out" and provider.can_stage_out(file):
            return type(provider).replace_task_stage_out is not Staging.replace_task_stage_out
    return False


def has_files(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a task's arguments name files. Most do not, and take a faster path."""
    items = [*args, *kwargs.values()]
    for key in ("inputs", "outputs"):
        if isinstance(listed := kwargs.get(key), (list, tuple)):
            items += listed
    has_streams = kwargs.get("stdout") is not None or kwargs.get("stderr") is not None
    return has_streams or any(isinstance(item, File) for item in items)


def _absolute(path: str, directory: str | None) -> str:
    """Make a path absolute, starting from ``directory``, or else from the current directory."""
    return os.path.abspath(path) if directory is None else os.path.normpath(os.path.join(directory, path))


def absolute_stream(name: str, value: Any, directory: str | None = None) -> Any:
    """Make the path in a standard stream's specification absolute, so that the user finds the file.

    A relative path starts from ``directory``, or else from the current directory. An invalid specification is returned
    as it is; Parsl refuses it in the task.
    """
    if value is None:
        return None
    try:
        path, mode = get_std_fname_mode(name, value)
    except Exception:
        return value
    if os.path.isabs(path):
        return value
    absolute = _absolute(path, directory)
    return (absolute, mode) if isinstance(value, tuple) else absolute


def _local_path(file: File) -> str | None:
    if file.local_path is not None:
        return os.fspath(file.local_path)
    return str(file.path) if file.scheme == "file" else None


def _leads_out(path: str) -> bool:
    return os.path.normpath(path).split(os.sep)[0] == ".."


def _with_path(file: File, path: str) -> File:
    moved = file.cleancopy()
    moved.local_path = path
    return moved
