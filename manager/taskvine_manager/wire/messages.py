"""Messages between the user's process, the manager and the nodes.

A message is a tuple that begins with its tag. The tables below list the tags and what follows them. :func:`encode`
turns a message into bytes, and :class:`Decoder` turns bytes into messages. Records that exist once per task are
NamedTuples: msgpack writes them as arrays, and creating one costs a third of a frozen dataclass.

User's process to manager:

================================================ =====================================================
``("submit", functions, profiles, invocations)`` new functions ``(key, payload)``, new profiles, tasks
``("cancel", ids)``                              tasks to drop or kill, since their futures are settled
``("forget", files)``                            temp files that will not be asked for again
``("retire", profiles)``                         numbers of profiles that no new task will use
``("drain", block)``                             let the nodes of a block finish their tasks, then release them
``("blocks", blocks)``                           for the record: each ``(block, job, state, reason, exit code or None)``
``("locate", request, file)``                    asks where a temp file is (it is recreated if it was lost)
``("spoiled", node, file, stamp)``               a node's replica differs from what was stored
``("stats", request)``
``("graph", request)``                           asks for unfinished tasks and files; the record is written first
``("tune", parameters)``
``("ping",)``                                    asks a silent manager for an answer
``("stop",)``
================================================ =====================================================

Manager to user's process:

================================================ =====================================================
``("done", completions, waiting)``               ``waiting``: number of tasks that need no slot now
``("radio", messages)``                          pickled monitoring messages
``("notice", text)``                             a warning for the user
``("pong",)``                                    the answer to ``"ping"``
``("drained", block)``
``("located", request, answer)``                 ``(node, path, size, stamp)``, the encoded bytes, or ``(record,)``
``("stats", request, dict)``
``("graph", request, dict)``                     as of :meth:`taskvine_manager.engine_api.Engine.snapshot`
``("nodes", list of dict)``                      sent whenever a node joins or leaves
``("waiting", count)``                           as in ``"done"``, if no task has ended
``("broken", text)``                             the manager failed
``("nodes-fail", reason, stderr)``               the manager stops, because it can get no nodes
================================================ =====================================================

Manager to node: ``("run", functions, profiles, invocations, sources, values, copies)``, ``("fetch", file, source)``,
``("retire", keys, profiles)`` (functions to forget), ``("drop", files)``, ``("full", ids)`` (give up their outputs),
``("cancel", ids)``, ``("drain",)``, ``("tune", parameters)``, ``("ping",)``, ``("exit",)``. A source is ``(path, size,
stamp, node)``, a copy of a user's file ``(path, name, stamp)``.

Node to manager: ``("hello", NodeInfo)``, ``("done", completions)``, ``("returned", ids)``, ``("cached", file, size,
problem or None, stamp, seconds, whether the source is spoiled, source)``, ``("input", path, size, name, stamp)`` (a
copy of a user's file), ``("crowded", id, size)`` (a task's outputs do not fit), ``("radio", messages)``, ``("idle",)``
(for its whole ``--timeout``), ``("leaving",)`` (it was told to leave), ``("pong",)``, ``("notice", text)``,
``("libraries", names)`` (of the named libraries that run there from now on), ``("steps", steps)`` (of processes and
contexts, for the record: each with the fields of :class:`taskvine_manager.node.steps.Step`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

try:
    import msgpack
except ModuleNotFoundError:  # TaskVine's nodes need only the records, and may lack what parsl does not install
    msgpack = None

if TYPE_CHECKING:
    from taskvine_manager.runtime.payload import Payload

AVAILABLE = msgpack is not None
"""Whether this Python can send messages."""
_ITEMS = 1 << 24
"""Maximum items of one list or dict in a message: msgpack allocates as many as a message announces, at once."""

_NOTHING = object()
_LARGE = 1 << 20
"""Maximum bytes of a decoder's buffer that is kept once it is empty."""

FEW_TASKS = 4
"""Up to this number of unfinished tasks, latency counts more than throughput. The thread that submits sends a task
itself, since there is no batch to wait for, and the manager polls, since it has no other work."""

L1, L2 = "L1", "L2"
"""A task in a fresh process; a function call in a warm library."""


class Library(NamedTuple):
    """A named library: how many of its calls run at once, and what it takes of its node for as long as it runs.

    ``slots`` is None for as many calls as the node's cores allow. ``memory`` is in MB, None if calls count their own.
    ``gpus`` is a whole number or a part of one gpu, and ``gpu_memory`` is what it needs of each in MB, 0 for any.
    """

    name: str
    slots: int | None
    memory: float | None
    gpus: float
    gpu_memory: float = 0.0


class Profile(NamedTuple):
    """The properties that many tasks share, sent once.

    Memory and disk are in MB, ``None`` if the user requested nothing. A task that is not ``recoverable`` is never run
    again to recreate its lost files. ``running_time_min`` is the minimum run time of each task in seconds, if the user
    gave one. An ``uninterrupted`` task runs to its end if it has begun when it is cancelled. ``library`` is None for
    the default library. ``gpus`` is a whole number or a part of one gpu; ``gpu_memory`` is what the task needs of each.
    """

    number: int
    function: str
    name: str
    mode: str
    cores: float | None
    memory: float | None
    disk: float | None
    gpus: float | None
    priority: float
    category: str
    recoverable: bool = True
    running_time_min: float | None = None
    uninterrupted: bool = False
    library: Library | None = None
    gpu_memory: float | None = None


class FileUse(NamedTuple):
    """A file that a task reads or produces.

    ``kind`` is ``"local"``, ``"temp"`` or ``"value"``. Accordingly, ``source`` is an absolute path on the user's side,
    the id of a temp file, or the id of a task's result. ``name`` is the file's relative path in the sandbox. It is
    empty for a value, which is decoded with the arguments. ``replicas`` is the number of nodes that should hold an
    output, 0 for the default number. ``stream`` is set for the file of a standard stream, which may be missing after
    the task: ``"a"`` appends it to the user's file, ``"w"`` replaces that file. ``directory`` is set for an output
    directory that the user already has: the task finds an empty one.
    """

    kind: str
    name: str
    source: str
    replicas: int = 0
    stream: str = ""
    directory: bool = False


class Invocation(NamedTuple):
    """A task: one call of a function."""

    number: int
    profile: int
    arguments: Payload
    inputs: tuple[FileUse, ...] = ()
    outputs: tuple[FileUse, ...] = ()


class Completion(NamedTuple):
    """How a task ended: ``outcome`` and ``body`` as in :mod:`taskvine_manager.runtime.failure`.

    ``dispatched`` and ``started`` are in seconds since the epoch, and the task ran for ``seconds``. ``made`` lists temp
    files and results as ``(id, bytes, stamp)``. The stamp changes when a file is touched: it is the change time of its
    inode, in ns. ``left`` holds the name of the app, then at most
    :data:`~taskvine_manager.runtime.sandbox.MOST_LEFT` files that it wrote in a private directory without declaring
    them. It is empty if there are none.
    """

    number: int
    outcome: int
    body: Payload
    node: str
    dispatched: float
    started: float
    seconds: float
    made: tuple[tuple[str, int, int], ...] = ()
    left: tuple[str, ...] = ()


class NodeInfo(NamedTuple):
    """The resources of a node (cores may be fractional, memory and disk are in MB), and where it runs.

    ``gpu_memory`` is the memory of each of its gpus in MB; empty if it is not known.
    """

    name: str
    cores: float
    memory: float
    disk: float
    gpus: int
    slots: int | None
    block: str
    pid: int
    directory: str
    gpu_memory: tuple[float, ...] = ()


def encode(*message: Any) -> bytes:
    """Encode one tagged message."""
    encoded: bytes = msgpack.packb(message, unicode_errors="surrogateescape")
    return encoded


def check(record: tuple[Any, ...]) -> None:
    """Check that a record can be sent, before it is queued for a thread that cannot report an error to the user.

    Raises
    ------
    ValueError
        If a number exceeds 64 bits, a text has a surrogate that stands for no byte, or a value's type cannot be sent.
    """
    try:
        encode(record)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"it cannot be sent: {error}") from error


def decode(data: bytes) -> tuple[Any, ...]:
    """Decode one complete message.

    Raises
    ------
    ValueError
        If the bytes are not a message.
    """
    return _tagged(msgpack.unpackb(data, use_list=False, unicode_errors="surrogateescape"))


def _tagged(message: object) -> tuple[Any, ...]:
    if not isinstance(message, tuple) or not message or not _is_text(message[0]):
        raise ValueError(f"not a tagged message: {message!r:.80}")
    return message


def _is_text(tag: object) -> bool:
    # Tags are text, but paths need not be.
    return isinstance(tag, str) and not any("\ud800" <= letter <= "\udfff" for letter in tag)


class Decoder:
    """Decodes messages from a stream of bytes that may be cut anywhere."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._unpacker = msgpack.Unpacker(
            use_list=False,
            unicode_errors="surrogateescape",
            max_buffer_size=0,
            max_array_len=_ITEMS,
            max_map_len=_ITEMS,
        )
        self._fed = 0
        self._most = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Add bytes of the stream."""
        self._unpacker.feed(data)
        self._fed += len(data)
        self._most = max(self._most, self._fed - self._unpacker.tell())

    def next(self) -> tuple[Any, ...] | None:
        """Return the next complete message, or None.

        Raises
        ------
        ValueError
            If the bytes are not a message.
        """
        message = next(self._unpacker, _NOTHING)
        if message is _NOTHING:
            if self._most > _LARGE and self._unpacker.tell() == self._fed:
                self._start()  # an unpacker's buffer never shrinks
            return None
        return _tagged(message)


def profile(item: tuple[Any, ...]) -> Profile:
    """Return a profile of a decoded message."""
    made = Profile(*item)
    return made if made.library is None else made._replace(library=Library(*made.library))


def invocations(items: tuple[tuple[Any, ...], ...]) -> list[Invocation]:
    """Return the tasks of a decoded message."""
    return [
        Invocation(*item)
        if not item[3] and not item[4]
        else Invocation(
            item[0], item[1], item[2], tuple(FileUse(*use) for use in item[3]), tuple(FileUse(*use) for use in item[4])
        )
        for item in items
    ]
