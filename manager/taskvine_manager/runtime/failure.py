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


def lost(kind: str, reason: str, **fields: Any) -> bytes:
    """Record of an invocation that ended without its function's word: ``kind`` names the error class."""
    return pickle.dumps({"kind": kind, "reason": reason, **fields})


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
    except Exception as problem:
        return lost(
            "exception-dump",
            f"{type(error).__name__} cannot be pickled ({type(problem).__name__}: {problem})",
            subject=type(error).__name__,
            remote_traceback=words,
        )


def text(error: BaseException, own_files: tuple[str, ...]) -> str:
    """The traceback of an exception as text, from the user's first frame on."""
    words = "".join(traceback.format_exception(type(error), error, _users(error.__traceback__, own_files)))
    return words[-_TEXT_LIMIT:]


def _record(error: BaseException, own_files: tuple[str, ...], words: str, depth: int) -> dict[str, Any]:
    import cloudpickle
    import tblib

    body = cloudpickle.dumps(error)
    pickle.loads(body)  # what cannot be read back here will not be read back anywhere
    frames = _users(error.__traceback__, own_files)
    cause = error.__cause__
    return {
        "type": type(error).__qualname__,
        "exception": body,
        "traceback": tblib.Traceback(frames).to_dict() if frames is not None else None,
        "text": words,
        "cause": _record(cause, own_files, "", depth - 1) if cause is not None and depth else None,
    }


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
