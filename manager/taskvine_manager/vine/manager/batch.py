"""TaskVine's ``vine_factory``, which submits workers to a batch system: starting, watching and ending it.

The factory retries for ever and reports little. This module therefore reads its output and that of failed workers. If
no worker ever joins, the run fails with their messages.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import partial

from taskvine_manager import cleanup
from taskvine_manager.engine_api import NodesFail
from taskvine_manager.node.deaths import tail
from taskvine_manager.runtime import keeper

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Seconds between two looks at the output, while no worker has joined."""
FAILURES = 3
"""Failed workers after which the run fails, or all of them if fewer were submitted; only before one has joined."""
END_SECONDS = 12.0
"""Seconds that the factory has to cancel its jobs; it checks for signals about every six seconds."""
ENDED = ".failed"
"""Suffix of a worker's output once the worker has failed."""
_REFUSALS = (b"job submission failed", b"failed to submit job")
_SUBMITTED = re.compile(rb"batch: job \d+ submitted")
_SCRIPT = """#!/bin/sh
# vine_factory starts this on a node, in the directory of the job: it starts a worker, and keeps the worker's output.
binary=$1 host=$2 port=$3
shift 3
set -- "$@" "$host" "$port"
output="worker-$(uname -n)-$$.out"
if [ -x '{python}' ] && [ -e '{program}' ]; then
    '{python}' '{program}' worker --executable "$PWD/$binary" "$@" >"$output" 2>&1
else
    echo "there is no {python} on $(uname -n): the worker runs without this package" >"$output"
    "./$binary" "$@" >>"$output" 2>&1
fi
status=$?
echo "the worker on $(uname -n) ended with status $status" >>"$output"
if [ "$status" != 0 ]; then mv "$output" "$output{ended}"; fi
exit "$status"
"""
SCRIPT = "taskvine-worker"
"""Name of the script that starts a worker."""


def write_script(path: str, python: str, program: str) -> None:
    """Write the script that ``vine_factory`` puts before its workers' command.

    Parameters
    ----------
    path : str
        Path of the script.
    python, program : str
        Paths of the interpreter and of this package's ``__main__.py`` on the nodes.
    """
    with open(path, "w", encoding="utf-8") as file:
        file.write(_SCRIPT.format(python=python, program=program, ended=ENDED))


class BatchFactory:
    """A running ``vine_factory``.

    Parameters
    ----------
    command : sequence of str
        Command that starts it.
    scratch : str
        The directory in which its jobs run.
    log : str
        Directory for its output: ``factory.out`` and ``factory.debug``.
    """

    def __init__(self, command: Sequence[str], scratch: str, log: str) -> None:
        self._scratch = scratch
        self._output = os.path.join(log, "factory.out")
        self._debug = os.path.join(log, "factory.debug")
        self._looked = 0.0
        self._read: dict[str, int] = {}
        self._submitted = 0
        debug = [f"--debug-file={self._debug}", "--debug=batch", "--debug-file-size=16MB"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(cleanup.TOKEN)}
        with open(self._output, "ab") as output:
            # The factory may outlive this process to cancel its jobs, and they inherit its environment. Without these
            # variables neither counts as a process of this run.
            self._process = subprocess.Popen(
                [*command[:1], *debug, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
                # Without this signal, the factory would notice only half a minute later that this process was killed.
                # The function is safe here: this process has no threads.
                preexec_fn=partial(keeper.die_with, os.getpid(), signal.SIGTERM),  # noqa: PLW1509
            )

    def check(self, *, joined: bool) -> None:
        """Check that the factory works.

        Parameters
        ----------
        joined : bool
            Whether a worker has ever joined. After that, errors may be temporary.

        Raises
        ------
        NodesFail
            If it has ended; or, before a worker has joined, if it cannot submit or its workers fail.
        """
        if (status := self._process.poll()) is not None:
            self._fail(f"vine_factory ended with status {status}", self._output)
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        refused = [path for path in (self._output, self._debug) if self._has_refusals(path)]
        if refused and joined:
            logger.warning("vine_factory cannot submit a worker: see %s", refused[0])
        elif refused:
            self._fail("vine_factory cannot submit workers to the batch system", self._output)
        if not joined:
            failed = glob.glob(os.path.join(glob.escape(self._scratch), f"worker-*{ENDED}"))
            if failed and len(failed) >= min(FAILURES, self._submitted):
                last = max(failed, key=os.path.getmtime)
                self._fail(f"{len(failed)} workers failed before one had joined", last)

    def _has_refusals(self, path: str) -> bool:
        """Read new output; return whether it reports a refused job, and count the submitted ones."""
        try:
            with open(path, "rb") as file:
                start = self._read.get(path, 0)
                if os.fstat(file.fileno()).st_size < start:  # the factory has started a new file
                    start = 0
                file.seek(start)
                said = file.read()
        except FileNotFoundError:
            return False
        whole = said.rfind(b"\n") + 1
        self._read[path] = start + whole
        self._submitted += len(_SUBMITTED.findall(said[:whole]))
        return any(refusal in said[:whole] for refusal in _REFUSALS)

    def _fail(self, reason: str, path: str) -> None:
        raise NodesFail(f"{reason}: see {path}", tail(path))

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def terminate(self) -> None:
        """Make it cancel its jobs and end."""
        if not self.ended:
            self._process.terminate()

    def kill(self) -> None:
        """Kill it if it does not end in time."""
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            logger.error("vine_factory does not end and is killed; jobs may be left: see %s", self._debug)
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(FileNotFoundError):  # a copy of the password; the workers' output stays
            os.unlink(os.path.join(self._scratch, "pwfile"))
