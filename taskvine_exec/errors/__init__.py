"""All exceptions of this package, in one hierarchy.

::

    parsl.errors.ParslError
    └── TaskVineExecutorError
        ├── TaskLost                     the task ended without a result or an exception of its app
        │   ├── SlotDied                 the process that ran the task died
        │   ├── MemoryExceeded           the task used too much memory
        │   ├── NodeLost                 the node died or was cut off
        │   ├── ManagerLost              the manager process died
        │   ├── LibraryFailed            the library could not start
        │   ├── ContextFailed            the library's setup function raised an exception
        │   ├── EnvironmentFailed        init_command or env_pack failed
        │   ├── FileMissing              an input file does not exist
        │   ├── FileLost                 every replica of a temp file or result is gone
        │   ├── FileUnreadable           a file exists, but cannot be read or copied now
        │   ├── OutputMissing            the task did not write a declared output
        │   ├── RemoteInputFailed        a remote input could not be fetched
        │   ├── RemoteOutputFailed       a remote output could not be written
        │   ├── WorkingDirectoryMissing  the node does not see the directory that apps run in
        │   ├── DiskFull                 no space is left
        │   └── ResourcesUnsatisfiable   no node is large enough for the task
        ├── TaskCancelled                the task was cancelled, or the executor shut down
        ├── TaskExited                   the app called sys.exit or raised another BaseException
        ├── SerializationFailed          an object could not be pickled or unpickled
        │   ├── FunctionNotSerializable
        │   ├── FunctionNotLoadable
        │   ├── ArgumentNotSerializable
        │   ├── ArgumentNotLoadable
        │   ├── ResultNotSerializable
        │   └── ExceptionNotSerializable
        ├── ExecutorNotStarted
        ├── ExecutorShutDown
        ├── RunDirNotWritable
        └── WorkerLaunchFailed

Exceptions that the app itself raises reach the caller unchanged.

Nodes and the manager report a failure as a record: a short tag and a few fields. Only :func:`from_record` turns records
into exceptions.
"""

from __future__ import annotations

from taskvine_exec.errors.base import TaskVineExecutorError, is_interruption
from taskvine_exec.errors.files import (
    DiskFull,
    FileLost,
    FileMissing,
    FileUnreadable,
    OutputMissing,
    RemoteInputFailed,
    RemoteOutputFailed,
    WorkingDirectoryMissing,
)
from taskvine_exec.errors.records import LOST_KINDS, RECORD_KINDS, from_record
from taskvine_exec.errors.run import ExecutorNotStarted, ExecutorShutDown, RunDirNotWritable, WorkerLaunchFailed
from taskvine_exec.errors.serialization import (
    ArgumentNotLoadable,
    ArgumentNotSerializable,
    ExceptionNotSerializable,
    FunctionNotLoadable,
    FunctionNotSerializable,
    ResultNotSerializable,
    SerializationFailed,
)
from taskvine_exec.errors.tasks import (
    ContextFailed,
    EnvironmentFailed,
    LibraryFailed,
    ManagerLost,
    MemoryExceeded,
    NodeLost,
    ResourcesUnsatisfiable,
    SlotDied,
    TaskCancelled,
    TaskExited,
    TaskLost,
)

__all__ = [
    "LOST_KINDS",
    "RECORD_KINDS",
    "ArgumentNotLoadable",
    "ArgumentNotSerializable",
    "ContextFailed",
    "DiskFull",
    "EnvironmentFailed",
    "ExceptionNotSerializable",
    "ExecutorNotStarted",
    "ExecutorShutDown",
    "FileLost",
    "FileMissing",
    "FileUnreadable",
    "FunctionNotLoadable",
    "FunctionNotSerializable",
    "LibraryFailed",
    "ManagerLost",
    "MemoryExceeded",
    "NodeLost",
    "OutputMissing",
    "RemoteInputFailed",
    "RemoteOutputFailed",
    "ResourcesUnsatisfiable",
    "ResultNotSerializable",
    "RunDirNotWritable",
    "SerializationFailed",
    "SlotDied",
    "TaskCancelled",
    "TaskExited",
    "TaskLost",
    "TaskVineExecutorError",
    "WorkerLaunchFailed",
    "WorkingDirectoryMissing",
    "from_record",
    "is_interruption",
]

# Tracebacks and pickles name each class by its public path, wherever it is defined.
for _name in __all__:
    if isinstance(_class := globals()[_name], type):
        _class.__module__ = __name__
