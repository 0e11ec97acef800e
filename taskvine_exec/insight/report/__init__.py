"""The report of a run: one page without network, made from its record.

- :mod:`~taskvine_exec.insight.report.analysis`: the statistics of a run;
- :mod:`~taskvine_exec.insight.report.figures`, ``timeline``, ``networks``: charts as plain data;
- :mod:`~taskvine_exec.insight.report.sections`, ``text``: what the page says;
- :mod:`~taskvine_exec.insight.report.page`, ``page.css``, ``page.js``: the page itself.
"""

from __future__ import annotations

import gc
import os
import secrets
import time
from pathlib import Path

from taskvine_manager import VERSION

RECORD = "record.msgpack"
HINT = "reports need plotly: pip install 'taskvine-exec[report]'"


def find_record(run: str | os.PathLike[str]) -> Path:
    """Return the record of a run.

    Parameters
    ----------
    run : path-like
        A record, an executor's log directory, or a run directory with one such directory.

    Raises
    ------
    FileNotFoundError
        If there is none, or more than one.
    """
    path = Path(run)
    if path.is_file():
        return path
    if (path / RECORD).is_file():
        return path / RECORD
    found = sorted(path.glob(f"*/{RECORD}"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise FileNotFoundError(f"{path}: neither a record nor a directory with {RECORD}")
    names = ", ".join(str(each.parent) for each in found)
    raise FileNotFoundError(f"{path} has several records; name one of these directories: {names}")


def render(run: str | os.PathLike[str]) -> str:
    """Return the report of a run as HTML.

    Parameters
    ----------
    run : path-like
        As for :func:`find_record`.

    Raises
    ------
    ModuleNotFoundError
        If plotly is not installed.
    ValueError
        If the record is damaged or has an unknown version.
    OSError
        If it cannot be read.
    """
    from taskvine_exec.insight.report.analysis import Analysis
    from taskvine_exec.insight.report.page import page
    from taskvine_exec.insight.report.sections import sections

    library = _plotly()
    record = find_record(run).resolve()
    # Millions of small objects are made here, and none of them are garbage: collections would double the time.
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        parts = sections(Analysis.of(record))
    finally:
        if is_collecting:
            gc.enable()
    made = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    footer = f"Made from {record} at {made} by taskvine-exec {VERSION}."
    return page(f"Run {record.parent.parent.name}/{record.parent.name}", parts, footer, library)


def write(run: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write the report of a run to a file, which is replaced at the end.

    Raises
    ------
    ModuleNotFoundError, ValueError, OSError
        As for :func:`render`, and if the file cannot be written.
    """
    text = render(run)
    target = Path(path)
    scratch = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        with open(scratch, "x", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.replace(scratch, target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _plotly() -> str:
    """Return the source of plotly.js."""
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(HINT, name=error.name) from error
    source: str = get_plotlyjs()
    return source
