"""What a node says of an invocation that did not return: records of plain data that outlive the process.

An exception of the user's function becomes a record with the pickled exception, its traceback as plain data
(`tblib <https://python-tblib.readthedocs.io>`_) and its text; anything else becomes a kind and its fields, from which
the user's process builds one error class.
"""

from __future__ import annotations

import pickle
import traceback
from types import TracebackType
from typing import Any

RETURNED, RAISED, LOST = 0, 1, 2
"""The three outcomes of an invocation."""
_TEXT_LIMIT = 20_000
_REASON_LIMIT = 2_000
_FIRST_FRAMES, _LAST_FRAMES = 32, 64
"""What is kept of a deep traceback: its plain data is nested, and pickle does not go down a thousand levels."""


def lost(kind: str, reason: str, **fields: Any) -> bytes:
    """Record of an invocation that ended without its function's word: ``kind`` names the error class."""
    return pickle.dumps({"kind": kind, "reason": reason, **fields})


def lost_file(record: object) -> str | None:
    """The temp file that a record says could not be found, if that is what it says."""
    if not isinstance(record, bytes):
        return None
    said = pickle.loads(record)
    return said["name"] if said.get("kind") == "file-lost" else None


def brief(record: object) -> str:
    """What a record says, in a line."""
    said = pickle.loads(record) if isinstance(record, bytes) else {}
    if "exception" in said:
        return str(said["text"]).strip().rpartition("\n")[2]
    return str(said.get("reason", "it ended"))


def lost_kind(record: object) -> str:
    """The kind that a record of :func:`lost` names; nothing if it is in a file."""
    return str(pickle.loads(record)["kind"]) if isinstance(record, bytes) else ""


def raised(error: BaseException, own_files: tuple[str, ...]) -> bytes:
    """Record of an exception.

    Parameters
    ----------
    error : BaseException
        What the function raised.
    own_files : tuple of str
        Source files of the runtime: their frames at the top of the traceback are left out, so that users see the
        traceback begin in their function.

    Returns
    -------
    bytes
        Pickled dict with ``exception`` (pickle), ``traceback`` (plain data or None), ``text``, ``type`` and ``cause``
        (a record or None); or a record of :func:`lost` if the exception cannot be pickled and read back.
    """
    words = text(error, own_files)
    try:
        return pickle.dumps(_record(error, own_files, words, depth=8))
    except BaseException as problem:  # the exception's own methods run here, and may do anything
        return lost(
            "exception-dump",
            f"{type(error).__name__} cannot be pickled ({describe(problem)})",
            subject=type(error).__name__,
            remote_traceback=words,
        )


def describe(error: BaseException) -> str:
    """Class and message of an exception in short, even if it cannot say its message."""
    try:
        message = str(error)
    except Exception as problem:
        message = f"<its __str__ raised {type(problem).__name__}>"
    return f"{type(error).__name__}: {message}"[:_REASON_LIMIT]


def text(error: BaseException, own_files: tuple[str, ...]) -> str:
    """The traceback of an exception as text, from the user's first frame on."""
    try:
        words = "".join(traceback.format_exception(type(error), error, _users(error.__traceback__, own_files)))
    except Exception:
        words = describe(error)
    if len(words) > _TEXT_LIMIT:
        words = f"{words[: _TEXT_LIMIT // 2]}\n...\n{words[-_TEXT_LIMIT // 2 :]}"
    return words


def _record(error: BaseException, own_files: tuple[str, ...], words: str, depth: int) -> dict[str, Any]:
    body = _dump_bare(error)
    if not isinstance(pickle.loads(body), BaseException):  # what cannot be read back here will not be anywhere
        raise TypeError("its pickle holds something else")
    frames = _users(error.__traceback__, own_files)
    cause = error.__cause__
    return {
        "type": type(error).__qualname__,
        "exception": body,
        "traceback": _plain(frames) if frames is not None else None,
        "text": words,
        "cause": _cause_record(cause, own_files, depth - 1) if cause is not None and depth else None,
    }


def _dump_bare(error: BaseException) -> bytes:
    """Pickle an exception without what hangs on it, which a process that has imported parsl would pickle with it."""
    from taskvine_manager.runtime import pickling

    hung = error.__traceback__, error.__cause__, error.__context__, error.__suppress_context__
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        return pickling.dumps(error)
    finally:
        error.__traceback__, error.__cause__, error.__context__, error.__suppress_context__ = hung


def _cause_record(cause: BaseException, own_files: tuple[str, ...], depth: int) -> dict[str, Any] | None:
    try:
        return _record(cause, own_files, "", depth)
    except Exception:  # the text has it, and the exception itself is not to be lost with it
        return None


def _plain(frames: TracebackType) -> dict[str, Any]:
    import tblib

    first = link = tblib.Traceback(frames)
    chain = []
    while link is not None:
        chain.append(link)
        link = link.tb_next
    if len(chain) > _FIRST_FRAMES + _LAST_FRAMES:
        chain[_FIRST_FRAMES - 1].tb_next = chain[-_LAST_FRAMES]
    plain: dict[str, Any] = first.to_dict()
    return plain


def _users(frames: TracebackType | None, own_files: tuple[str, ...]) -> TracebackType | None:
    first = frames
    while frames is not None and frames.tb_frame.f_code.co_filename in own_files:
        frames = frames.tb_next
    return frames if frames is not None else first


def rebuild(record: dict[str, Any]) -> BaseException:
    """The exception of a record, with its remote traceback and its causes."""
    error: BaseException = pickle.loads(record["exception"])
    if record["traceback"] is not None:
        import tblib

        error = error.with_traceback(tblib.Traceback.from_dict(record["traceback"]).as_traceback())
    if record["cause"] is not None:
        error.__cause__ = rebuild(record["cause"])
    return error
