"""Remote files: inputs that are fetched once and then stay on nodes, and outputs that are written by their task.

An input such as ``File("https://host/data.csv")`` becomes a temp file. A task of the executor's own fetches it, and all
tasks that name the URL read the same version of it, until :meth:`~taskvine_exec.TaskVineExecutor.forget` is called.
Copies on other nodes, quotas and lost replicas are handled as for all temp files: a lost file is fetched again.

``zip://MEMBER::URL`` and ``tar://MEMBER::URL`` are members of an archive. Another task unpacks them from the archive,
which is fetched once. Without a member, they name the directory with all members.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from importlib.util import find_spec
from typing import Any, Protocol

from parsl.data_provider.file_noop import NoOpFileStaging
from parsl.data_provider.files import File
from parsl.data_provider.ftp import FTPInTaskStaging
from parsl.data_provider.staging import Staging
from parsl.data_provider.zip import ZipFileStaging
from parsl.utils import RepresentationMixin

from taskvine_exec.errors import RemoteInputFailed
from taskvine_exec.submission.temp_files import TaskVineTempStaging, TempFiles
from taskvine_manager.runtime import sandbox
from taskvine_manager.runtime.remote import addresses, outputs, tasks
from taskvine_manager.wire.messages import FileUse

logger = logging.getLogger(__name__)

_CONTENT, _ARCHIVE = "content", "archive"
"""Names of files in the sandboxes of these tasks."""
_MARK = "@remote-"
"""In the versions of fetched files, between the name and a number."""


class TaskVineRemoteStaging(Staging, RepresentationMixin):
    """Parsl's staging provider for remote files. It moves nothing: the executor does, when it gets the task.

    Every TaskVineExecutor has one, behind the providers of ``storage_access``. Put one in front of them to have it
    take files that they would take.
    """

    def can_stage_in(self, file: File) -> bool:
        return addresses.is_remote(file.url)

    def can_stage_out(self, file: File) -> bool:
        return addresses.is_remote(file.url)


def is_staged(file: File, storage: Sequence[Staging], way: str) -> bool:
    """Whether a file is remote, and the executor moves it: no other staging provider comes first."""
    if not addresses.is_remote(file.url):
        return False
    for provider in storage:
        if provider.can_stage_in(file) if way == "in" else provider.can_stage_out(file):
            return isinstance(provider, TaskVineRemoteStaging)
    return False


class RunOwn(Protocol):
    """Submits a task of the executor's own, which makes a temp file."""

    def __call__(
        self, function: Callable[..., Any], args: tuple[Any, ...], inputs: tuple[FileUse, ...], output: FileUse
    ) -> Future[Any]: ...


class RemoteInputs:
    """Versions of remote inputs.

    Parameters
    ----------
    temp_files : TempFiles
        The executor's temp files, which these become.
    run : RunOwn
        Submits the tasks that fetch and unpack them.
    spool : str
        The run's directory for large values.
    """

    def __init__(self, temp_files: TempFiles, run: RunOwn, spool: str) -> None:
        self._temp_files = temp_files
        self._run = run
        self._spool = spool
        self._numbers = itertools.count()
        self._lock = threading.RLock()

    def version(self, url: str) -> str:
        """Return the version of a remote file that a new task reads; have the file fetched if there is none.

        A file that could not be fetched is fetched again for the next task.
        """
        name = addresses.identity(url)
        with self._lock:
            known = self._temp_files.latest(name)
            if known is None or self._has_failed(known):
                known = f"{name}{_MARK}{next(self._numbers)}"
                self._temp_files.register(name, known, self._fetch(url, known))
            return known

    def _has_failed(self, version: str) -> bool:
        try:
            producer = self._temp_files.producer(version)
        except FileNotFoundError:  # forgotten meanwhile
            return True
        return producer.done() and (producer.cancelled() or producer.exception() is not None)

    def _fetch(self, url: str, version: str) -> Future[Any]:
        output = FileUse("temp", _CONTENT, version)
        inside = addresses.member(url)
        if inside is None:
            future = self._run(tasks.fetch, (url, _Path(_CONTENT), self._spool, version), (), output)
            future.add_done_callback(partial(_log, url))
            return future
        archive = FileUse("temp", _ARCHIVE, self.version(inside.archive))
        return self._run(tasks.unpack, (url, inside, _Path(_ARCHIVE), _Path(_CONTENT)), (archive,), output)

    def error(self, version: str, number: int, error: BaseException) -> RemoteInputFailed | None:
        """Return the error of a task whose remote input could not be fetched; None if it is another temp file."""
        name, mark, _ = version.rpartition(_MARK)
        if not mark:
            return None
        if isinstance(error, RemoteInputFailed):
            return dataclasses.replace(error, task_id=number)
        made = RemoteInputFailed(task_id=number, reason=str(error), url=name)
        made.__cause__ = error
        return made

    def written(self, url: str, producer: Future[Any]) -> None:
        """Note that a task writes a URL: what reads it when that task has ended fetches the new version."""
        name = addresses.identity(url)
        producer.add_done_callback(lambda _: self._temp_files.supersede(name))


class _Path:
    """A path in the sandbox of the task that gets it as an argument."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return sandbox.inside, (self._name,)


class RemoteOutput(File):
    """A remote file that a task writes. In the task, it has a path in a private directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return outputs.locate, (File, self.url, addresses.file_name(self.url), self.__dict__)


def remote_output(file: File) -> RemoteOutput:
    """Return what a task gets for a remote output.

    Raises
    ------
    ValueError
        If it is a member of an archive, or has a checksum.
    """
    if addresses.member(file.url) is not None:
        raise ValueError(f"{addresses.shown(file.url)}: outputs cannot be written into archives")
    if addresses.without_checksum(file.url)[1]:
        raise ValueError(f"{addresses.shown(file.url)}: an output has no checksum before it is written")
    made = RemoteOutput(file.url)
    made.__dict__.update(file.__dict__)
    return made


def _log(url: str, future: Future[Any]) -> None:
    if not future.cancelled() and future.exception() is None:
        size, tag, seconds = future.result()
        version = f", version {tag}" if tag else ""
        logger.info("fetched %s: %d bytes in %.2f s%s", addresses.shown(url), size, seconds, version)


def staging_providers(given: list[Any] | None, files: TempFiles) -> list[Any]:
    """Return an executor's staging providers.

    The first is for its temp files. Then come those given, or else files in place, and Parsl's ftp staging if fsspec is
    not installed. Remote files are the executor's if no other provider takes them.
    """
    own = TaskVineTempStaging()
    own.bind(files)
    if given is None:
        ftp = [] if find_spec("fsspec") else [FTPInTaskStaging()]
        return [own, NoOpFileStaging(), *ftp, TaskVineRemoteStaging(), ZipFileStaging()]
    others = [provider for provider in given if not isinstance(provider, TaskVineTempStaging)]
    return [own, *others, TaskVineRemoteStaging()]
