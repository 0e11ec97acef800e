"""Exceptions of an executor and its run, not of a single task."""

from __future__ import annotations

from dataclasses import dataclass

from taskvine_exec.errors.base import TaskVineExecutorError, section, sentence


@dataclass(eq=False, repr=False)
class ExecutorNotStarted(TaskVineExecutorError):
    """The executor was used before it was started.

    Parameters
    ----------
    label : str
        The label of the executor.
    """

    label: str

    def __str__(self) -> str:
        return f"executor {self.label!r} has not been started: give it to parsl.load, or call its start()"


@dataclass(eq=False, repr=False)
class ExecutorShutDown(TaskVineExecutorError):
    """The executor was used after it was shut down.

    Parameters
    ----------
    label : str
        The label of the executor.
    reason : str
        Why the executor counts as shut down, if ``shutdown`` was not called.
    """

    label: str
    reason: str = ""

    def __str__(self) -> str:
        return f"executor {self.label!r} has been shut down" + (f": {self.reason}" if self.reason else "")


@dataclass(eq=False, repr=False)
class RunDirNotWritable(TaskVineExecutorError):
    """The run directory cannot be written to.

    Parameters
    ----------
    path : str
        The directory.
    reason : str
        The operating system's message.
    """

    path: str
    reason: str = ""

    def __str__(self) -> str:
        return sentence(f"run directory {self.path!r} cannot be written to", self.reason)


@dataclass(eq=False, repr=False)
class WorkerLaunchFailed(TaskVineExecutorError):
    """A worker could not be launched.

    Parameters
    ----------
    reason : str
        The cause.
    command : str
        The launch command, if one was run.
    exit_code : int or None
        The command's exit code, if it ended.
    stderr : str
        The last lines of its standard error.
    job : str
        The number of its job in the batch system, or of its process.
    output : str
        The file with its standard error.
    """

    reason: str
    command: str = ""
    exit_code: int | None = None
    stderr: str = ""
    job: str = ""
    output: str = ""

    def __str__(self) -> str:
        facts = [f"job {self.job}"] if self.job else []
        facts += [f"exit code {self.exit_code}"] if self.exit_code is not None else []
        facts += [f"output in {self.output}"] if self.output else []
        command = f" [command: {self.command}]" if self.command else ""
        what = sentence("a worker could not be launched", self.reason)
        return what + (f" ({', '.join(facts)})" if facts else "") + command + section("stderr", self.stderr)
