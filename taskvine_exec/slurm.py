"""What Slurm's controller says of a job, where Parsl's provider asks the accounts or gets no answer."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from parsl.jobs.states import JobState, JobStatus
from parsl.providers import SlurmProvider
from parsl.providers.base import ExecutionProvider

logger = logging.getLogger(__name__)

_ENDS = {
    "COMPLETED": JobState.COMPLETED,
    "CANCELLED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "PREEMPTED": JobState.TIMEOUT,
    "FAILED": JobState.FAILED,
    "NODE_FAIL": JobState.FAILED,
    "BOOT_FAIL": JobState.FAILED,
    "OUT_OF_MEMORY": JobState.FAILED,
}
_CURES = (
    (re.compile(r"JobHeld"), "The job is held; `scontrol release` frees it"),
    (re.compile(r"InvalidAccount|AccountNotAllowed"), "Its account may not be used here; see `sacctmgr show assoc`"),
    (re.compile(r"Assoc|AccountingPolicy"), "A limit of its account keeps it waiting; see `sacctmgr show assoc`"),
    (re.compile(r"QOS"), "A limit of its quality of service keeps it waiting; see `sacctmgr show qos`"),
    (
        re.compile(r"Partition(NodeLimit|TimeLimit|Config)|MaxMemPerLimit|BadConstraints|NodeConfig"),
        "It asks for more than its partition has; see `scontrol show partition`",
    ),
)
"""Reasons for which a job may wait for ever, and what to do. They are those of Slurm's "Job Reason Codes"."""
_FIELD = re.compile(r"(?:^|\s)(JobState|Reason|ExitCode)=(\S+)")


@dataclass(frozen=True)
class Detail:
    """One job as Slurm's controller sees it.

    Parameters
    ----------
    state : str
        In Slurm's words, such as PENDING.
    reason : str
        Why it is in that state, such as Resources; empty if Slurm gives no reason.
    exit_code : int or None
        Of its script, once it has ended by itself.
    """

    state: str
    reason: str
    exit_code: int | None

    def status(self, said: JobStatus) -> JobStatus:
        """In Parsl's terms; ``said`` is the provider's, which knows where the job's output is."""
        state = _ENDS.get(self.state)
        if state is None:
            running = self.state in ("RUNNING", "COMPLETING")
            return JobStatus(JobState.RUNNING if running else JobState.PENDING)
        return JobStatus(state, str(self), self.exit_code, said.stdout_path, said.stderr_path)

    @property
    def cure(self) -> str:
        """What the user can do where the job may wait for ever; empty if it only waits for its turn."""
        if self.state != "PENDING":
            return ""
        return next((cure for reason, cure in _CURES if reason.search(self.reason)), "")

    def __str__(self) -> str:
        return f"Slurm says {self.state}" + (f", reason {self.reason}" if self.reason else "")


def ask(provider: ExecutionProvider | None, job: Any) -> Detail | None:
    """Ask the controller about a job, with one command.

    Parameters
    ----------
    provider : ExecutionProvider or None
        Nothing is asked unless it is a SlurmProvider.
    job : Any
        The job's number.

    Returns
    -------
    Detail or None
        None if the controller does not answer, or no longer knows the job: it forgets jobs that have ended.
    """
    if not isinstance(provider, SlurmProvider):
        return None
    clusters = f" --clusters={provider.clusters}" if provider.clusters else ""
    try:
        status, output, _ = provider.execute_wait(f"scontrol{clusters} --oneliner show job {job}")
    except Exception as error:  # what a command runner raises
        logger.debug("scontrol cannot be asked about job %s: %s", job, error)
        return None
    return parse(output) if status == 0 else None


def parse(output: str) -> Detail | None:
    """Read what ``scontrol --oneliner show job`` prints of one job; None if that names no state."""
    lines = [line for line in output.splitlines() if "JobState=" in line]
    if not lines:
        return None
    fields = dict(_FIELD.findall(lines[-1]))
    reason = fields.get("Reason", "None")
    state = fields.get("JobState")
    if state is None:
        return None
    code, _, signal = fields.get("ExitCode", "").partition(":")
    exited = state in ("COMPLETED", "FAILED") and code.isdigit() and signal in ("", "0")
    return Detail(state, "" if reason == "None" else reason, int(code) if exited else None)
