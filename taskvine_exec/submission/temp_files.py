"""Temp files: named files that are made on nodes and stay there.

``File("taskvinetemp:///name")`` in an app's ``outputs`` names a file that is copied home only on request. Every task
that writes the name makes a new version; a retry of the same task makes the same version. A task that takes the
DataFuture of such a file does not wait in the DFK. It is sent to the manager at once, with an edge to the task that
makes the file.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from parsl.app.futures import DataFuture
from parsl.data_provider.files import File
from parsl.data_provider.staging import Staging
from parsl.utils import RepresentationMixin

from taskvine_manager.runtime.remote.addresses import identity

SCHEME = "taskvinetemp"
_VERSION = "taskvine_version"
"""Attribute of a File that says to which version it is bound."""
MOST_REPLICAS = 1_000_000


class TempFile(File):
    """A ``taskvinetemp`` file with its own number of replicas.

    Parameters
    ----------
    name : str
        Its name, as in ``taskvinetemp:///name``.
    replicas : int
        Number of nodes that keep it. It overrides ``temp-replica-count``.

    Raises
    ------
    ValueError
        If the name is invalid, or the count is below 1 or above 1,000,000.
    """

    def __init__(self, name: str, *, replicas: int) -> None:
        super().__init__(f"{SCHEME}:///{name.strip('/')}")
        temp_name(self)
        if isinstance(replicas, bool) or replicas != int(replicas) or not 1 <= replicas <= MOST_REPLICAS:
            raise ValueError(f"replicas={replicas!r}: must be a whole number from 1 to {MOST_REPLICAS}")
        self.replicas = replicas

    def cleancopy(self) -> TempFile:
        """Return a copy without a local path. The DFK makes one for each task that names the file."""
        return TempFile(temp_name(self), replicas=self.replicas)

    def __reduce__(self) -> tuple[Any, ...]:
        # A task gets a plain File, because its node may not have this package.
        return File, (self.url,), {name: value for name, value in self.__dict__.items() if name != "replicas"}


def name_of(file: File) -> str:
    """Return the name of a temp file, or of a remote file, which becomes one when a task reads it.

    Raises
    ------
    ValueError
        If it is a ``taskvinetemp`` file without a valid name.
    """
    return temp_name(file) if file.scheme == SCHEME else identity(file.url)


def temp_name(file: File) -> str:
    """Return the name of a ``taskvinetemp`` file: its URL without the scheme and outer slashes.

    Raises
    ------
    ValueError
        If the name is empty, or has an empty part, ``.`` or ``..`` in it.
    """
    # The parsed parts of the URL are not used, because ? and # belong to the name, as they do to a path.
    name = str(file.url).partition(":")[2].strip("/")
    if not name or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError(f"{file.url}: a {SCHEME} file needs a name, as in {SCHEME}:///name")
    return name


class TempFiles:
    """Versions of ``taskvinetemp`` files, each with the future of the task that makes it.

    A File that goes to a task is *bound* to a version: the File keeps the version's id through the DFK and back to
    ``submit``, and its path is that in the task's sandbox.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[str, str] = {}
        self._previous: dict[str, str] = {}
        self._producers: dict[str, Future[Any]] = {}
        self.made: set[str] = set()
        """Ids of the versions that were made."""

    def produce(self, file: File, task: object, producer: Future[Any]) -> str:
        """Register the version of a file that a task will make, bind the File to it, and return its id.

        Parameters
        ----------
        file : File
            The File that goes to the task. It is changed.
        task : object
            Identifies the task. Every attempt of the same task makes the same version.
        producer : Future
            Done when the task is over for good.
        """
        name = temp_name(file)
        version = f"{name}@{task}"
        with self._lock:
            if (previous := self._latest.get(name)) not in (None, version):
                self._previous.setdefault(version, str(previous))
            self._latest[name] = version
            self._producers[version] = producer
        bind(file, name, version)
        producer.add_done_callback(partial(self._ended, version))
        return version

    def register(self, name: str, version: str, producer: Future[Any]) -> None:
        """Register the latest version of a remote file, which a task of the executor's own fetches."""
        with self._lock:
            self._latest[name] = version
            self._producers[version] = producer
        producer.add_done_callback(partial(self._ended, version))

    def latest(self, name: str) -> str | None:
        """Return the latest version of a file; None if there is none."""
        return self._latest.get(name)

    def supersede(self, name: str) -> None:
        """Note that the next task to read a remote file needs a new version. Tasks that read the old one keep it."""
        with self._lock:
            self._latest.pop(name, None)

    def _ended(self, version: str, producer: Future[Any]) -> None:
        """Replace a producer, whose result may be large, by its outcome."""
        with self._lock:
            if self._producers.get(version) is producer:
                self._producers[version] = Outcome(producer)

    def consume(self, file: File, task: object = None) -> str:
        """Bind a File to the version that a task will read, and return its id: the version of ``task``, or the latest.

        Raises
        ------
        FileNotFoundError
            If no task has been asked to make it.
        """
        name = name_of(file)
        version = self._latest.get(name) if task is None else f"{name}@{task}"
        if version is None or version not in self._producers:
            raise FileNotFoundError(f"{file.url}: no task of this executor has been asked to make it")
        bind(file, name, version)
        return version

    def version(self, file: File | DataFuture) -> str:
        """Return the version that a user means: that of a DataFuture, that to which a File is bound, or the latest.

        Raises
        ------
        FileNotFoundError
            If no task has been asked to make it.
        """
        named, task = (file.file_obj, file.tid) if isinstance(file, DataFuture) else (file, None)
        bound = version_of(named)
        return bound if bound is not None else self.consume(named.cleancopy(), task)

    def consume_before(self, file: File, own: set[str]) -> str | None:
        """Bind a File to its latest version that is not in ``own``, and return its id; None if there is none.

        Raises
        ------
        FileNotFoundError
            If no task has been asked to make it.
        """
        name = temp_name(file)
        version = self._latest.get(name)
        if version not in own:
            return self.consume(file)
        while version is not None and (version in own or version not in self._producers):
            version = self._previous.get(version)
        bind(file, name, version)
        return version

    def producer(self, version: str) -> Future[Any]:
        """Return the future of the task that makes a version, or an :class:`Outcome` once that task is done.

        Raises
        ------
        FileNotFoundError
            If the version has been forgotten.
        """
        try:
            return self._producers[version]
        except KeyError:
            name = version.rpartition("@")[0]
            url = name if "://" in name else f"{SCHEME}:///{name}"
            raise FileNotFoundError(f"{url} was removed by executor.forget: call its app again to make it") from None

    def versions(self, file: File | DataFuture) -> list[str]:
        """Return the versions that a user means, like :meth:`version`, but all versions of a name, not only the latest.

        Raises
        ------
        FileNotFoundError
            If there are none.
        """
        if isinstance(file, DataFuture) or version_of(file) is not None:
            return [self.version(file)]
        name = name_of(file)
        with self._lock:
            found = [version for version in self._producers if version.rpartition("@")[0] == name]
        if not found:
            raise FileNotFoundError(f"{file.url}: no task of this executor has been asked to make it")
        return found

    def forget(self, version: str) -> None:
        """Drop a version."""
        with self._lock:
            self._producers.pop(version, None)
            self._previous.pop(version, None)
            self.made.discard(version)
            name = version.rpartition("@")[0]
            if self._latest.get(name) == version:
                del self._latest[name]


class Outcome(Future[Any]):
    """The outcome of a task, without its result."""

    def __init__(self, task: Future[Any]) -> None:
        super().__init__()
        tid = getattr(task, "tid", None)
        if tid is None:  # not done for an AppFuture: looking up a missing attribute of one launches a task
            tid = getattr(task, "parsl_executor_task_id", None)
        self.tid = tid
        if task.cancelled():
            self.set_exception(CancelledError())
        elif (error := task.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(None)


def bind(file: File, path: str, version: str | None) -> None:
    """Bind a File to a version, with its path in the sandbox of the task that gets it."""
    file.local_path = path
    if version is not None:
        setattr(file, _VERSION, version)  # the file object keeps it through the DFK and back to submit


def version_of(file: File) -> str | None:
    """Return the version to which a File is bound, if any."""
    version: str | None = getattr(file, _VERSION, None)
    return version


class TaskVineTempStaging(Staging, RepresentationMixin):
    """Parsl's staging provider for ``taskvinetemp`` files. It moves nothing and waits for nothing.

    Every TaskVineExecutor adds one in front of its ``storage_access``.
    """

    def __init__(self) -> None:
        self._files = TempFiles()

    def bind(self, files: TempFiles) -> None:
        """Use an executor's temp files."""
        self._files = files

    def can_stage_in(self, file: File) -> bool:
        return bool(file.scheme == SCHEME)

    def can_stage_out(self, file: File) -> bool:
        return bool(file.scheme == SCHEME)

    def stage_in(self, dm: Any, executor: str, file: File, parent_fut: Future[Any] | None) -> DataFuture | None:
        """Bind the file to a version; return a DataFuture that is already done, so that the DFK does not wait."""
        if not isinstance(parent_fut, DataFuture):
            self._files.consume(file)
            return None
        self._files.consume(file, parent_fut.tid)
        done: Future[None] = Future()
        done.set_result(None)
        return DataFuture(done, file, tid=parent_fut.tid)

    def stage_out(self, dm: Any, executor: str, file: File, app_fu: Future[Any]) -> Future[Any] | None:
        """Register the version that the task will make."""
        self._files.produce(file, app_fu.tid, app_fu)  # type: ignore[attr-defined]
        return None
