"""Job states from Slurm's controller. Parsl's provider asks Slurm's accounting instead, or gets no answer."""

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
"""Reasons for which a job may wait forever, with advice. The names are from Slurm's "Job Reason Codes"."""
_FIELD = re.compile(r"(?:^|\s)(JobState|Reason|ExitCode)=(\S+)")


@dataclass(frozen=True)
class Detail:
    """One job as Slurm's controller sees it.

    Parameters
    ----------
    state : str
        Slurm's name of the state, such as PENDING.
    reason : str
        Slurm's reason for the state, such as Resources; empty if there is none.
    exit_code : int or None
        Exit code of the job's script, if the script exited.
    """

    state: str
    reason: str
    exit_code: int | None

    def status(self, said: JobStatus) -> JobStatus:
        """Return the state as Parsl's JobStatus. Paths of output are taken from ``said``, the provider's status."""
        state = _ENDS.get(self.state)
        if state is None:
            running = self.state in ("RUNNING", "COMPLETING")
            return JobStatus(JobState.RUNNING if running else JobState.PENDING)
        return JobStatus(state, str(self), self.exit_code, said.stdout_path, said.stderr_path)

    @property
    def cure(self) -> str:
        """Advice for the user if the job may wait forever; empty if it only waits for its turn."""
        if self.state != "PENDING":
            return ""
        return next((cure for reason, cure in _CURES if reason.search(self.reason)), "")

    def __str__(self) -> str:
        return f"Slurm says {self.state}" + (f", reason {self.reason}" if self.reason else "")


def ask(provider: ExecutionProvider | None, job: Any) -> Detail | None:
    """Ask the controller about a job, with one ``scontrol`` command.

    Parameters
    ----------
    provider : ExecutionProvider or None
        The provider of the job.
    job : Any
        The job's number.

    Returns
    -------
    Detail or None
        None if the provider is no SlurmProvider, the controller does not answer, or it has forgotten the job. It
        forgets jobs some time after they end.
    """
    if not isinstance(provider, SlurmProvider):
        return None
    clusters = f" --clusters={provider.clusters}" if provider.clusters else ""
    try:
        status, output, _ = provider.execute_wait(f"scontrol{clusters} --oneliner show job {job}")
    except Exception as error:  # anything that the provider's command runner raises
        logger.debug("scontrol cannot be asked about job %s: %s", job, error)
        return None
    return parse(output) if status == 0 else None


def parse(output: str) -> Detail | None:
    """Parse the output of ``scontrol --oneliner show job`` for one job; None if it has no state."""
    fields = dict(_FIELD.findall(output))  # if it was requeued, the last line tells
    state, reason = fields.get("JobState"), fields.get("Reason", "None")
    if state is None:
        return None
    code, _, signal = fields.get("ExitCode", "").partition(":")
    exited = state in ("COMPLETED", "FAILED") and code.isdigit() and signal in ("", "0")
    return Detail(state, "" if reason == "None" else reason, int(code) if exited else None)
