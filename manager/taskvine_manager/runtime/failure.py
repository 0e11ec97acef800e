"""Records of failed tasks: plain data that a node sends for a task that did not return.

The record of an exception of the user's function holds the pickled exception, its traceback as plain data
(`tblib <https://python-tblib.readthedocs.io>`_) and its text. The record of any other failure holds a kind and its
fields, from which the user's process builds an error of one class.
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
"""The three outcomes of a task."""
_TEXT_LIMIT = 20_000
_REASON_LIMIT = 2_000
_FIRST_FRAMES, _LAST_FRAMES = 32, 64
"""Frames kept of a deep traceback: its plain data is nested, and pickle cannot descend a thousand levels."""
_NOT_FOUND = 127
"""Exit status of a shell that did not find a command."""
_MOST_PATHS, _LONGEST_PATH = 50, 1000
"""Most paths to look for after a failure, and most characters of each."""
_MOST_EXCEPTIONS = 100
"""Most exceptions in one record. Further causes, contexts and members of groups are only in the text."""


class Lost(Exception):
    """Raised by the executor's own functions in a task: the task is lost, as ``record`` says (see :func:`lost`)."""

    def __init__(self, record: bytes) -> None:
        super().__init__(record)
        self.record = record


def lost(kind: str, reason: str, **fields: Any) -> bytes:
    """Make the record of a task whose function neither returned nor raised; ``kind`` names the error class."""
    return pickle.dumps({"kind": kind, "reason": reason, **fields})


def lost_file(record: object) -> str | None:
    """Return the file that could not be found, if the record is of kind ``file-lost``; else None."""
    if not isinstance(record, bytes):
        return None
    said = pickle.loads(record)
    return said["name"] if said.get("kind") == "file-lost" else None


def brief(record: object) -> str:
    """Summarise a record in one line."""
    said = pickle.loads(record) if isinstance(record, bytes) else {}
    if "exceptions" in said:
        return str(said["text"]).strip().rpartition("\n")[2]
    return str(said.get("reason", "it ended"))


def lost_kind(record: object) -> str:
    """Return the kind in a record of :func:`lost`; an empty string if the record is in a file."""
    return str(pickle.loads(record)["kind"]) if isinstance(record, bytes) else ""


def raised(error: BaseException, own_files: tuple[str, ...]) -> bytes:
    """Make the record of an exception.

    Parameters
    ----------
    error : BaseException
        The exception that the function raised.
    own_files : tuple of str
        Source files of the runtime. Their frames at the top of the traceback are left out, so that for users the
        traceback begins in their function.

    Returns
    -------
    bytes
        Pickled dict with ``type``, ``text``, ``exceptions`` and ``directory`` (the process's current directory); or a
        record of :func:`lost` if the exception cannot be pickled and read back. ``exceptions`` lists the exception
        itself and then its causes, contexts and members of groups, each once, as a dict with these keys. An exception
        that cannot be pickled is None, unless it is the first.

        - ``body``: its pickle; None for a member, which is in the pickle of its group;
        - ``traceback``: plain data, or None;
        - ``notes``;
        - ``suppress``: its ``__suppress_context__``;
        - ``missing``: relative paths that may have been looked for in vain;
        - ``cause``, ``context`` and ``members``: positions in the list.
    """
    words = text(error, own_files)
    try:
        exceptions = _exceptions(error, own_files)
        name, directory = type(error).__qualname__, _current_directory()
        return pickle.dumps({"type": name, "text": words, "exceptions": exceptions, "directory": directory})
    except BaseException as problem:  # the exception's own methods run here and may raise anything
        return lost(
            "exception-dump",
            f"{type(error).__name__} cannot be pickled ({describe(problem)})",
            subject=type(error).__name__,
            remote_traceback=words,
        )


def describe(error: BaseException) -> str:
    """Return the class and message of an exception, shortened, even if its ``__str__`` raises."""
    try:
        message = str(error)
    except BaseException as problem:  # the exception's own methods may raise anything, even SystemExit
        message = f"<its __str__ raised {type(problem).__name__}>"
    return f"{type(error).__name__}: {message}"[:_REASON_LIMIT]


def text(error: BaseException, own_files: tuple[str, ...]) -> str:
    """Return the traceback of an exception as text, starting at the user's first frame."""
    try:
        words = "".join(traceback.format_exception(type(error), error, _users(error.__traceback__, own_files)))
    except BaseException:
        words = describe(error)
    if len(words) > _TEXT_LIMIT:
        words = f"{words[: _TEXT_LIMIT // 2]}\n...\n{words[-_TEXT_LIMIT // 2 :]}"
    return words


def _exceptions(error: BaseException, own_files: tuple[str, ...]) -> list[dict[str, Any] | None]:
    """Describe an exception and all exceptions linked to it, as :func:`raised` lists them."""
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
    for each in found:  # the loop appends to it
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
            described[place] = None  # it is still in the text, and the first exception must not be lost with it
    return described


def _members(error: BaseException) -> tuple[BaseException, ...]:
    """Return the members of an exception group, either Python's own or the backport's."""
    kind = getattr(builtins, "BaseExceptionGroup", None) or getattr(
        sys.modules.get("exceptiongroup"), "BaseExceptionGroup", None
    )
    return error.exceptions if kind is not None and isinstance(error, kind) else ()


def _notes(error: BaseException) -> list[str] | None:
    notes = getattr(error, "__notes__", None)
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else None


def _current_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _missing(error: BaseException) -> list[str]:
    """Return the relative paths that an exception mentions and that do not exist."""
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
    """Return the command line of a failed bash app of Parsl."""
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
    """Yield an exception and, if it is a group, its members at any depth."""
    seen = set()
    left = [error]
    while left:
        each = left.pop()
        if id(each) not in seen:
            seen.add(id(each))
            left += _members(each)
            yield each


def _dump_bare(error: BaseException) -> bytes:
    """Pickle an exception without its traceback, cause and context, and without those of its members.

    A process that has imported parsl would pickle these too, which may fail.

    Raises
    ------
    TypeError
        If its pickle does not load as an exception.
    Exception
        Whatever pickling and unpickling raise. A pickle that cannot be loaded here cannot be loaded anywhere.
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
    """Rebuild the exception of a record, with its remote traceback, notes, causes, contexts and members.

    Causes and contexts that cannot be loaded here are left out.

    Parameters
    ----------
    record : dict
        The unpickled record of :func:`raised`.
    explain : callable
        Called with the missing paths and the directory where the task ran. It returns a note for the exception, or
        None.

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
    """Assign an unpickled exception, and the members of a group, to their positions in the record."""
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
        vars(error)["__notes__"] = description["notes"]  # Python shows notes from version 3.11 on
    error.__cause__, error.__context__ = (
        made[place][0] if (place := description[name]) in made else None for name in ("cause", "context")
    )
    error.__suppress_context__ = description["suppress"]
