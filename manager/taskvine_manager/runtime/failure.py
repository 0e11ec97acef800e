"""What a node says of an invocation that did not return: records of plain data that outlive the process.

An exception of the user's function becomes a record with the pickled exception, its traceback as plain data
(`tblib <https://python-tblib.readthedocs.io>`_) and its text; anything else becomes a kind and its fields, from which
the user's process builds one error class.
"""

from __future__ import annotations

import builtins
import os
import pickle
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

RETURNED, RAISED, LOST = 0, 1, 2
"""The three outcomes of an invocation."""
_TEXT_LIMIT = 20_000
_REASON_LIMIT = 2_000
_FIRST_FRAMES, _LAST_FRAMES = 32, 64
"""What is kept of a deep traceback: its plain data is nested, and pickle does not go down a thousand levels."""
_NOT_FOUND = 127
"""Exit status of a shell that has not found a command."""
_MOST_PATHS, _LONGEST_PATH = 50, 1000
"""Paths that are looked for after a failure, and characters of each."""
_MOST_EXCEPTIONS = 100
"""Exceptions of one record: causes, contexts and members of groups beyond them are left to the text."""


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
    if "exceptions" in said:
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
        Pickled dict with ``type``, ``text`` and ``exceptions``; or a record of :func:`lost` if the exception cannot be
        pickled and read back. ``exceptions`` lists the exception itself and then its causes, contexts and members of
        groups, each once, as a dict: ``body`` (its pickle; None for a member, which is in its group's), ``traceback``
        (plain data or None), ``notes``, ``suppress`` (``__suppress_context__``), ``missing`` (relative paths that may
        have been looked for in vain), and ``cause``, ``context`` and ``members`` as positions in the list. An exception
        other than the first that cannot be pickled is None. ``directory`` is where the process was.
    """
    words = text(error, own_files)
    try:
        exceptions = _exceptions(error, own_files)
        name, directory = type(error).__qualname__, _current_directory()
        return pickle.dumps({"type": name, "text": words, "exceptions": exceptions, "directory": directory})
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
    except BaseException as problem:  # the exception's own methods may do anything, leaving the process included
        message = f"<its __str__ raised {type(problem).__name__}>"
    return f"{type(error).__name__}: {message}"[:_REASON_LIMIT]


def text(error: BaseException, own_files: tuple[str, ...]) -> str:
    """The traceback of an exception as text, from the user's first frame on."""
    try:
        words = "".join(traceback.format_exception(type(error), error, _users(error.__traceback__, own_files)))
    except BaseException:
        words = describe(error)
    if len(words) > _TEXT_LIMIT:
        words = f"{words[: _TEXT_LIMIT // 2]}\n...\n{words[-_TEXT_LIMIT // 2 :]}"
    return words


def _exceptions(error: BaseException, own_files: tuple[str, ...]) -> list[dict[str, Any] | None]:
    """Describe an exception and all that hang on it, as :func:`raised` lists them."""
    found = [error]
    positions = {id(error): 0}
    members: set[int] = set()

    def position(other: BaseException | None) -> int | None:
        if other is None:
            return None
        if id(other) not in positions:
            if len(found) == _MOST_EXCEPTIONS:
                return None
            positions[id(other)] = len(found)
            found.append(other)
        return positions[id(other)]

    described: list[dict[str, Any] | None] = []
    for each in found:  # it grows
        inside = list(map(position, _members(each)))
        members.update(place for place in inside if place is not None and place >= len(described))
        frames = _users(each.__traceback__, own_files)
        described.append(
            {
                "body": None,
                "traceback": _plain(frames) if frames is not None else None,
                "notes": _notes(each),
                "suppress": each.__suppress_context__,
                "missing": _missing(each),
                "members": inside,
                "cause": position(each.__cause__),
                "context": position(each.__context__),
            }
        )
    for place, (each, description) in enumerate(zip(found, described, strict=True)):
        assert description is not None
        if place and place in members:
            continue
        try:
            description["body"] = _dump_bare(each)
        except BaseException:
            if not place:
                raise
            described[place] = None  # the text has it, and the exception itself is not to be lost with it
    return described


def _members(error: BaseException) -> tuple[BaseException, ...]:
    """The members of an exception group, of Python's own or of its backport's."""
    kind = getattr(builtins, "BaseExceptionGroup", None) or getattr(
        sys.modules.get("exceptiongroup"), "BaseExceptionGroup", None
    )
    return error.exceptions if kind is not None and isinstance(error, kind) else ()


def _notes(error: BaseException) -> list[str] | None:
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, list):
        return None
    return [note for note in notes if isinstance(note, str)]


def _current_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _missing(error: BaseException) -> list[str]:
    """Relative paths that an exception speaks of and that are not there."""
    words: list[str] = []
    if isinstance(error, FileNotFoundError):
        names = [name for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
        words = list(map(os.fsdecode, names)) if error.filename is not None else _words(str(error))
    elif type(error).__name__ == "BashExitFailure":
        any_word = getattr(error, "exitcode", None) == _NOT_FOUND
        words = [word for word in _words(_command(error)) if any_word or "." in word or "/" in word]
    paths = [word for word in dict.fromkeys(words) if word and len(word) < _LONGEST_PATH and not os.path.isabs(word)]
    return [path for path in paths[:_MOST_PATHS] if not os.path.lexists(path)]


def _command(error: BaseException) -> str:
    """The command line of a bash app of Parsl's that failed."""
    frames = error.__traceback__
    while frames is not None:
        frame = frames.tb_frame
        if frame.f_code.co_name == "remote_side_bash_executor":
            return str(frame.f_locals.get("executable", ""))
        frames = frames.tb_next
    return ""


def _words(text: str) -> list[str]:
    return re.findall(r"""[^\s'"`=,:;()<>|&]+""", text[:_TEXT_LIMIT])


def _in_group(error: BaseException) -> Iterator[BaseException]:
    """An exception, and if it is a group, its members in any depth."""
    seen = set()
    left = [error]
    while left:
        each = left.pop()
        if id(each) not in seen:
            seen.add(id(each))
            left += _members(each)
            yield each


def _dump_bare(error: BaseException) -> bytes:
    """Pickle an exception without its traceback, cause and context, and those of its members.

    A process that has imported parsl would pickle these too, which may fail.

    Raises
    ------
    TypeError
        If its pickle is not that of an exception.
    Exception
        Whatever pickling and unpickling raise: what cannot be read back here will not be anywhere.
    """
    from taskvine_manager.runtime import pickling

    hung = []
    for each in _in_group(error):
        hung.append((each, each.__traceback__, each.__cause__, each.__context__, each.__suppress_context__))
        each.__traceback__ = each.__cause__ = each.__context__ = None
    try:
        body: bytes = pickling.dumps(error)
    finally:
        for each, frames, cause, context, suppress in hung:
            each.__traceback__, each.__cause__, each.__context__ = frames, cause, context
            each.__suppress_context__ = suppress
    if not isinstance(pickle.loads(body), BaseException):
        raise TypeError("its pickle holds something else")
    return body


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


def rebuild(record: dict[str, Any], explain: Callable[[list[str], str], str | None] = lambda *_: None) -> BaseException:
    """The exception of a record, with its remote traceback, notes, causes, contexts and members.

    Causes and contexts that cannot be loaded here are left out.

    Parameters
    ----------
    record : dict
        As of :func:`raised`.
    explain : callable
        Called with paths that were missing and the directory where the task ran; what it returns becomes a note.

    Raises
    ------
    Exception
        Whatever the exception itself raises when it is unpickled.
    """
    described: list[dict[str, Any] | None] = record["exceptions"]
    made: dict[int, list[BaseException]] = {}
    for place, description in enumerate(described):
        if description is None or description["body"] is None:
            continue
        try:
            error: BaseException = pickle.loads(description["body"])
        except BaseException:
            if not place:
                raise
            continue
        _place(described, made, place, error)
    for place, copies in made.items():
        description = described[place]
        assert description is not None
        if description["missing"] and (note := explain(description["missing"], record["directory"])):
            description["notes"] = [*(description["notes"] or ()), note]
        for error in copies:
            _hang(error, description, made)
    return made[0][0]


def _place(
    described: list[dict[str, Any] | None], made: dict[int, list[BaseException]], place: int, error: BaseException
) -> None:
    """Note which exceptions of a record a group and its members, as they were unpickled, are."""
    left = [(place, error)]
    while left:
        place, error = left.pop()
        copies = made.setdefault(place, [])
        if any(error is copy for copy in copies):
            continue
        copies.append(error)
        description = described[place]
        if description is not None:
            pairs = zip(description["members"], _members(error), strict=False)
            left += [(inside, member) for inside, member in pairs if inside is not None]


def _hang(error: BaseException, description: dict[str, Any], made: dict[int, list[BaseException]]) -> None:
    if description["traceback"] is not None:
        import tblib

        error.__traceback__ = tblib.Traceback.from_dict(description["traceback"]).as_traceback()
    if description["notes"] is not None:
        vars(error)["__notes__"] = description[
            "notes"
        ]  # before Python 3.11 exceptions have none, and nothing shows them
    error.__cause__, error.__context__ = (
        made[place][0] if (place := description[name]) in made else None for name in ("cause", "context")
    )
    error.__suppress_context__ = description["suppress"]
