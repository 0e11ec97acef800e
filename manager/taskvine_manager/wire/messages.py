"""What travels between the user's process, the manager and the nodes.

Records that exist once per invocation are NamedTuples: msgpack writes them as arrays, and making one costs a third of
a frozen dataclass. Everything said less often is a tuple that begins with its tag; the tags and what follows them are
listed in the tables below, and :func:`encode` and :class:`Decoder` are the only way in and out.

User's process to manager:

================================================ =====================================================
``("submit", functions, profiles, invocations)`` new functions ``(key, payload)``, profiles, invocations
``("cancel", ids)``                              their futures are settled: drop or kill them
``("forget", files)``                            temp files that nobody will ask for again
``("retire", profiles)``                         numbers of profiles that no invocation will name any more
``("drain", block)``                             finish what runs on a block's nodes, then let them go
``("locate", request, file)``                    where is a temp file? (it is made again if it was lost)
``("spoiled", node, file, stamp)``               a node's replica is not what was put there
``("stats", request)``
``("graph", request)``                           what is live; what is over is on disk by the time of the answer
``("tune", parameters)``
``("ping",)``                                    it has been silent: does it live?
``("stop",)``
================================================ =====================================================

Manager to user's process:

================================================ =====================================================
``("done", completions, waiting)``               ``waiting``: invocations that ask for no room now
``("radio", messages)``                          pickled monitoring messages
``("notice", text)``                             what the user is to know
``("pong",)``                                    the answer to ``"ping"``
``("drained", block)``
``("located", request, answer)``                 ``(node, path, size, stamp)``, the encoded bytes, or ``(record,)``
``("stats", request, dict)``
``("graph", request, dict)``                     as of :meth:`taskvine_manager.engine_api.Engine.snapshot`
``("nodes", list of dict)``                      sent whenever a node joins or leaves
``("waiting", count)``                           as in ``"done"``, where nothing is done
``("broken", text)``                             the manager cannot go on
``("nodes-fail", reason, stderr)``               the same, because its nodes end before they join
================================================ =====================================================

Manager to node: ``("run", functions, profiles, invocations, sources, values, copies)``, ``("fetch", file, source)``,
``("retire", keys, profiles)`` (functions to forget), ``("drop", files)``, ``("full",)`` (nothing can be dropped),
``("cancel", ids)``, ``("drain",)``, ``("tune", parameters)``, ``("ping",)``, ``("exit",)``. A source is ``(path, size,
stamp, node)``, a copy of a user's file ``(path, name, stamp)``.

Node to manager: ``("hello", NodeInfo)``, ``("done", completions)``, ``("returned", ids)``, ``("cached", file, size,
problem or None, stamp, seconds, whether the source is spoiled, source)``, ``("input", path, size, name, stamp)`` (a
copy of a user's file), ``("crowded", id, size)`` (what it made has no room), ``("radio", messages)``, ``("idle",)``
(for as long as its ``--timeout``), ``("leaving",)`` (it was told to, and ends), ``("pong",)``, ``("notice", text)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

try:
    import msgpack
except ModuleNotFoundError:  # a node of TaskVine's needs the records alone, and nothing that parsl does not bring
    msgpack = None

if TYPE_CHECKING:
    from taskvine_manager.runtime.payload import Payload

_ITEMS = 1 << 24
"""Most items of one list or dict in a stream: msgpack believes what it is told and makes room for as many at once."""

_NOTHING = object()
_LARGE = 1 << 20
"""Bytes of the largest buffer for what has not come whole that is kept when it is empty."""

L1, L2 = "L1", "L2"
"""A task in a fresh process; a function call in a warm library."""


class Profile(NamedTuple):
    """What many invocations share, sent once.

    Memory and disk are in MB, ``None`` where the user asked for nothing. What is not ``recoverable`` is never run again
    for files of it that were lost. ``running_time_min`` is the least time, in seconds, that each invocation runs, where
    the user has said so.
    """

    number: int
    function: str
    name: str
    mode: str
    cores: float | None
    memory: float | None
    disk: float | None
    gpus: int | None
    priority: float
    category: str
    recoverable: bool = True
    running_time_min: float | None = None


class FileUse(NamedTuple):
    """A file that an invocation reads or makes.

    ``kind`` is ``"local"`` (``source`` is an absolute path on the user's side), ``"temp"`` (``source`` is the id of a
    temp file) or ``"value"`` (``source`` is the id of an invocation's result); ``name`` is the file's relative path in
    the sandbox, and empty for a value, which is decoded with the arguments. ``replicas`` is how many nodes are to have
    what is made, 0 for as many as of any temp file. What a task writes to a standard stream need not be there;
    ``stream`` says whether it is added to the file that the user has (``"a"``) or takes its place (``"w"``).
    ``directory`` says that an output is a directory which the user has already: the task finds an empty one.
    """

    kind: str
    name: str
    source: str
    replicas: int = 0
    stream: str = ""
    directory: bool = False


class Invocation(NamedTuple):
    """One call of a function."""

    number: int
    profile: int
    arguments: Payload
    inputs: tuple[FileUse, ...] = ()
    outputs: tuple[FileUse, ...] = ()


class Completion(NamedTuple):
    """How an invocation ended: ``outcome`` and ``body`` as in :mod:`taskvine_manager.runtime.failure`.

    Times are in seconds since the epoch. ``made`` lists temp files as ``(id, bytes, stamp)``; the stamp changes when a
    file is touched (it is the change time of its inode, in ns). ``left`` is the name of the app and then the files that
    it wrote in a private directory without declaring them, at most
    :data:`~taskvine_manager.runtime.sandbox.MOST_LEFT`; it is empty where there are none.
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
    """What a node has: cores (may be fractional), memory and disk in MB, count of gpus; and where it is."""

    name: str
    cores: float
    memory: float
    disk: float
    gpus: int
    slots: int | None
    block: str
    pid: int
    directory: str


def encode(*message: Any) -> bytes:
    """Encode one tagged message."""
    encoded: bytes = msgpack.packb(message, unicode_errors="surrogateescape")
    return encoded


def check(record: tuple[Any, ...]) -> None:
    """See that a record can be part of a message, before it is queued for a thread that cannot tell its user.

    Raises
    ------
    ValueError
        If it cannot: a number is beyond 64 bits, a text has a lone surrogate, or a value is of a type that is not sent.
    """
    try:
        encode(record)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"it cannot be sent: {error}") from error


def decode(data: bytes) -> tuple[Any, ...]:
    """Decode one message that came whole.

    Raises
    ------
    ValueError
        If it is not one.
    """
    message = msgpack.unpackb(data, use_list=False, unicode_errors="surrogateescape")
    if not _is_tagged(message):
        raise ValueError(f"not a tagged message: {message!r:.80}")
    return message


def _is_tagged(message: object) -> TypeGuard[tuple[Any, ...]]:
    if not isinstance(message, tuple) or not message or not isinstance(message[0], str):
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in message[0])  # paths need not be text, but tags are


class Decoder:
    """Messages out of a stream of bytes that may be cut anywhere."""

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
        """Take bytes."""
        self._unpacker.feed(data)
        self._fed += len(data)
        self._most = max(self._most, self._fed - self._unpacker.tell())

    def next(self) -> tuple[Any, ...] | None:
        """The next message that has come whole, or None.

        Raises
        ------
        ValueError
            If the bytes are no message.
        """
        message = next(self._unpacker, _NOTHING)
        if message is _NOTHING:
            if self._most > _LARGE and self._unpacker.tell() == self._fed:
                self._start()  # an unpacker's buffer never shrinks
            return None
        if not _is_tagged(message):
            raise ValueError(f"not a tagged message: {message!r:.80}")
        return message


def invocations(items: tuple[tuple[Any, ...], ...]) -> list[Invocation]:
    """Invocations as they come out of a decoded message."""
    return [
        Invocation(*item)
        if not item[3] and not item[4]
        else Invocation(
            item[0], item[1], item[2], tuple(FileUse(*use) for use in item[3]), tuple(FileUse(*use) for use in item[4])
        )
        for item in items
    ]
