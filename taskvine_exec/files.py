"""Which files an invocation reads and makes, and where it will find them.

================================= ===================================================================
a Parsl File whose path is         means
================================= ===================================================================
relative                           staged: copied into the task's sandbox, brought back from there
absolute                           on a file system that nodes share with the user: used where it is
``taskvinetemp:///name``           lives on nodes
``http://``, ``ftp://``            fetched by Parsl's staging inside the task
================================= ===================================================================

With ``shared_fs``, and for paths that lead out of the sandbox (``../``), relative paths are made absolute instead.
"""

from __future__ import annotations

import os
from typing import Any

from parsl.data_provider.files import File
from parsl.utils import get_std_fname_mode

from taskvine_exec.staging import SCHEME, TempFiles, version_of
from taskvine_manager.messages import FileUse


class FilePlan:
    """Files of one invocation, and its arguments with them put right.

    Parameters
    ----------
    args, kwargs
        As they were given to ``submit``; they are not changed.
    files : TempFiles
        The executor's.
    task : object
        Tells a task that is not bound to versions by the DFK apart.
    producer : Future
        Of that task.
    shared_fs : bool
        Whether relative paths are on a shared file system.

    Attributes
    ----------
    args, kwargs
        For the task.
    inputs, outputs : list of FileUse
        For the node.
    """

    def __init__(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        files: TempFiles,
        task: object,
        producer: Any,
        shared_fs: bool,
    ) -> None:
        self._files = files
        self._task = task
        self._producer = producer
        self._shared = shared_fs
        self.inputs: list[FileUse] = []
        self.outputs: list[FileUse] = []
        self.args = tuple(self._input(value) for value in args)
        self.kwargs = {key: self._keyword(key, value) for key, value in kwargs.items()}

    def _keyword(self, key: str, value: Any) -> Any:
        if key == "inputs" and isinstance(value, (list, tuple)):
            return [self._input(item) for item in value]
        if key == "outputs" and isinstance(value, (list, tuple)):
            return [self._output(item) for item in value]
        if key in ("stdout", "stderr"):
            return self._output(value) if isinstance(value, File) else absolute_stream(key, value)
        return self._input(value)

    def _input(self, value: Any) -> Any:
        if not isinstance(value, File):
            return value
        if value.scheme == SCHEME:
            if version_of(value) is None:
                value = value.cleancopy()
                self._files.consume(value)
            use = FileUse("temp", str(value.local_path), str(version_of(value)))
        else:
            path = _local_path(value)
            if path is None or os.path.isabs(path):
                return value
            if self._shared or _leads_out(path):
                return _at(value, os.path.abspath(path))
            if value.scheme != "file" and not os.path.exists(path):
                return value  # Parsl's in-task staging will put it there
            use = FileUse("local", os.path.normpath(path), os.path.abspath(path))
        if use not in self.inputs:
            self.inputs.append(use)
        return value

    def _output(self, value: Any) -> Any:
        if not isinstance(value, File):
            return value
        if value.scheme == SCHEME:
            if version_of(value) is None:
                value = value.cleancopy()
                self._files.produce(value, self._task, self._producer)
            use = FileUse("temp", str(value.local_path), str(version_of(value)))
        else:
            path = _local_path(value)
            if path is None or os.path.isabs(path):
                return value
            if self._shared or _leads_out(path):
                return _at(value, os.path.abspath(path))
            use = FileUse("local", os.path.normpath(path), os.path.abspath(path))
        if use not in self.outputs:
            self.outputs.append(use)
        return value


def has_files(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call has to do with files at all: most do not, and take the short way."""
    if any(isinstance(value, File) for value in args):
        return True
    for key, value in kwargs.items():
        if key in ("stdout", "stderr"):
            if value is not None:
                return True
        elif isinstance(value, File) or (
            key in ("inputs", "outputs")
            and isinstance(value, (list, tuple))
            and any(isinstance(item, File) for item in value)
        ):
            return True
    return False


def absolute_stream(name: str, value: Any) -> Any:
    """A standard stream's specification with its path made absolute: streams are appended to where the user will look.

    What is no valid specification is left for Parsl to refuse in the task.
    """
    if value is None:
        return None
    try:
        path, mode = get_std_fname_mode(name, value)
    except Exception:
        return value
    if os.path.isabs(path):
        return value
    absolute = os.path.abspath(path)
    return (absolute, mode) if isinstance(value, tuple) else absolute


def _local_path(file: File) -> str | None:
    if file.local_path is not None:
        return os.fspath(file.local_path)
    return str(file.path) if file.scheme == "file" else None


def _leads_out(path: str) -> bool:
    return os.path.normpath(path).split(os.sep)[0] == ".."


def _at(file: File, path: str) -> File:
    moved = file.cleancopy()
    moved.local_path = path
    return moved
