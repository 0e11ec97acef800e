"""Tasks that were lost because of a file."""

from __future__ import annotations

from dataclasses import dataclass

from taskvine_exec.errors.tasks import TaskLost


@dataclass(eq=False, repr=False)
class FileMissing(TaskLost):
    """An input file of the task does not exist.

    Parameters
    ----------
    path : str
        The expected path.
    """

    path: str = ""

    def _what(self) -> str:
        return f"its input file {self.path!r} is missing" if self.path else "an input file is missing"


@dataclass(eq=False, repr=False)
class FileLost(TaskLost):
    """Every replica of a temp file or result is gone, and it cannot be recreated.

    Parameters
    ----------
    name : str
        The name of the file.
    """

    name: str = ""

    def _what(self) -> str:
        return f"every replica of temp file {self.name!r} is gone" if self.name else "a temp file is gone"


@dataclass(eq=False, repr=False)
class FileUnreadable(TaskLost):
    """A result or temp file exists, but cannot be read or copied.

    Causes are a lack of file descriptors, memory or storage, or a missing permission. The file is kept. Remove the
    cause and call ``future.result()`` again.

    Parameters
    ----------
    name : str
        The name of the file.
    """

    name: str = ""

    def _what(self) -> str:
        return f"{self.name!r} exists, but cannot be read" if self.name else "a file exists, but cannot be read"


@dataclass(eq=False, repr=False)
class OutputMissing(TaskLost):
    """The task ended without writing a declared output.

    Parameters
    ----------
    path : str
        The expected path.
    """

    path: str = ""

    def _what(self) -> str:
        return f"its output file {self.path!r} was never written" if self.path else "an output file was never written"


@dataclass(eq=False, repr=False)
class RemoteInputFailed(TaskLost):
    """A remote input could not be fetched, or is not what it should be.

    Parameters
    ----------
    url : str
        Its URL, without passwords.
    status : int or None
        The HTTP status, if there was one.
    """

    url: str = ""
    status: int | None = None

    def _what(self) -> str:
        return f"its remote input {self.url} could not be fetched{_http(self.status)}"


@dataclass(eq=False, repr=False)
class RemoteOutputFailed(TaskLost):
    """The app returned, but a remote output could not be written.

    Parameters
    ----------
    url : str
        Its URL, without passwords.
    status : int or None
        The HTTP status, if there was one.
    """

    url: str = ""
    status: int | None = None

    def _what(self) -> str:
        return f"its remote output {self.url} could not be written{_http(self.status)}"


def _http(status: int | None) -> str:
    return "" if status is None else f" (HTTP status {status})"


@dataclass(eq=False, repr=False)
class WorkingDirectoryMissing(TaskLost):
    """The node does not see the directory in which apps run.

    Parameters
    ----------
    path : str
        The program's current directory when the executor was started.
    """

    path: str = ""

    def _what(self) -> str:
        return f"its working directory {self.path!r} cannot be used on the node"

    def _details(self) -> str:
        advice = (
            ". Apps run in the directory from which your program started the executor: start it from a directory that "
            "all nodes see, or give the executor working_directory='sandbox'"
        )
        return advice + super()._details()


@dataclass(eq=False, repr=False)
class DiskFull(TaskLost):
    """No space was left on the node, or on your machine for large arguments.

    Parameters
    ----------
    path : str
        The file or directory that could not grow.
    """

    path: str = ""

    def _what(self) -> str:
        return f"no space was left at {self.path!r}" if self.path else "no space was left"
