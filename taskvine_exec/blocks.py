"""Launch, watch and cancel the blocks of a Parsl provider.

Parsl's strategy decides how many blocks there are. The executor watches them too: there may be no DataFlowKernel to do
so, and Parsl would give up on all tasks if a block's node were killed.

Nodes that join or leave show the state of their blocks. The provider is asked only while a node is missing: at the
provider's polling interval, and a few more times after an event. :mod:`~taskvine_exec.jobs` decides when.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

from parsl.executors.errors import ScalingFailed
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.states import TERMINAL_STATES, JobState, JobStatus
from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider
from parsl.providers.cluster_provider import ClusterProvider

from taskvine_exec import providers, slurm
from taskvine_exec.errors import WorkerLaunchFailed
from taskvine_exec.jobs import Job, Jobs
from taskvine_exec.parsl_hooks import frames
from taskvine_manager.node.leftovers import LEFT

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""Seconds between two looks at blocks without a node, for LocalProvider, which only reads files."""
_OUTPUT_SECONDS = 1.0
"""Seconds between two looks at the output files of jobs without a node."""
_OUTPUTS = 32
"""Largest number of jobs whose output files are watched."""
_UNREADABLE = re.compile(r"Cannot parse exit code:\s*")
_WRITTEN_SECONDS = 1.0
"""Time limit for a job of LocalProvider to write its exit code into the file that it has emptied."""
_STRATEGY_THREAD = "JobStatusPoller"
_STOP_SECONDS = 5.0
_LEAVE_SECONDS, _CANCELLED_SECONDS = 10.0, 5.0
"""Time limits at shutdown for nodes of a batch system to clean up, before and after their jobs are cancelled."""
_ATTEMPTS = 3
"""Consecutive blocks that may fail before the executor gives up, if another block may work: a block has served before,
or the failed block was killed. A block that ends by itself before any has served would fail again."""
_RETRY_SECONDS, _RETRY_AT_MOST = 2.0, 300.0
"""Pause before another block is launched after a failure, and its limit. It doubles with each failure in a row."""
_LINGER = "\ntrap wait TERM INT"
"""Makes the script of a job wait for its nodes to clean up. A batch system sends SIGTERM to a job that it ends, and
kills the rest of the job as soon as the script has ended."""
_SHOWN = 5
"""Largest number of blocks that a log message names."""


class BlockExecutor(BlockProviderExecutor):
    """Base class of the executor that launches, watches and cancels blocks.

    Parameters
    ----------
    provider : ExecutionProvider or None
        The executor's own copy of the provider, which will be changed. None if nodes are not started in blocks.
    """

    def __init__(self, *, provider: ExecutionProvider | None) -> None:
        super().__init__(provider=provider, block_error_handler=_judge)
        self._nodes: list[dict[str, Any]] = []
        self._nodes_changed = threading.Condition()
        self._places_of: dict[str, str] = {}  # the last node's host and directory, by block
        local = provider is None or isinstance(provider, LocalProvider)
        interval = _LOOK_SECONDS if local or provider is None else float(provider.status_polling_interval)
        self._jobs = Jobs(
            interval,
            trusted=local or not hasattr(provider, "resources"),
            suspended=providers.suspended(provider),
            stuck=providers.stuck(provider),
        )
        self._heard: dict[str, Any] = {}  # the provider's last answer, by block: the same object is no news
        self._written: dict[str, tuple[str, ...]] = {}  # paths of output, by block
        self._outputs: dict[str, tuple[int, ...]] = {}
        self._drained: deque[str] = deque()
        self._unaccounted_blocks = 0
        self._strategy_is_none = False
        self._failed_last, self._retry_at = "", 0.0
        self._said_none_allowed = False
        self._blocks_end = False
        self._blockless = False  # True: perhaps no block is left, to be checked
        self._unreadable: dict[str, float] = {}  # since when the exit code is unreadable, by block
        # Held during calls of the provider, which the strategy's thread uses too. Never held to complete futures.
        self._provider_lock = threading.RLock()
        self._attention = threading.Event()
        self._watcher: threading.Thread | None = None

    # --- nodes ---

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that have joined, as dicts: name, cores, memory (MB), disk (MB), gpus, block, pid, directory."""
        return list(self._nodes)

    def wait_for_nodes(self, count: int, timeout: float | None = None) -> bool:
        """Wait until at least ``count`` nodes have joined.

        Parameters
        ----------
        count : int
            Number of nodes.
        timeout : float, optional
            Seconds to wait at most. None: no limit.

        Returns
        -------
        bool
            Whether the nodes have joined in time.
        """
        with self._nodes_changed:
            return self._nodes_changed.wait_for(lambda: len(self._nodes) >= count, timeout)

    def _nodes_are(self, nodes: list[dict[str, Any]]) -> None:
        with self._nodes_changed:
            self._nodes = nodes
            self._nodes_changed.notify_all()
        self._places_of.update((node["block"], f"{node['directory']} (node {node['name']})") for node in nodes)
        self._attention.set()

    # --- launching ---

    def _start_blocks(self, scripts: str) -> None:
        """Launch the first blocks. ``scripts`` is a directory for submit scripts, if the provider has none of use."""
        if self.provider is None:
            return
        provider: Any = self.provider
        if hasattr(provider, "script_dir"):
            given = provider.script_dir
            if given is None or not providers.survives_shell(str(given)):
                provider.script_dir = scripts
        if isinstance(self.provider, ClusterProvider) and isinstance(getattr(provider, "worker_init", None), str):
            provider.worker_init += _LINGER
        self._unaccounted_blocks = self.provider.init_blocks
        if self.provider.init_blocks:
            self._launch_blocks(self.provider.init_blocks)
        else:
            self._blockless = True
        self._watcher = threading.Thread(target=self._watch_blocks, name="TaskVine-Blocks", daemon=True)
        self._watcher.start()

    def scale_out_facade(self, n: int) -> list[str]:
        """Launch ``n`` blocks. The blocks of ``start`` count towards the first request of Parsl's strategy.

        Returns
        -------
        list of str
            Ids of the new blocks.
        """
        if threading.current_thread().name.startswith(_STRATEGY_THREAD):
            launched, self._unaccounted_blocks = self._unaccounted_blocks, 0
            n -= launched
            if frames.scales_only_at_start():
                self._strategy_is_none = True
                self._attention.set()
            elif time.monotonic() < self._retry_at:
                return []  # blocks failed a short time ago, and the strategy asks every few seconds
        return self._launch_blocks(n) if n > 0 else []

    def _launch_blocks(self, count: int) -> list[str]:
        blocks: list[str] = super().scale_out_facade(count)
        if len(blocks) < count:
            self._blockless = True
        self._attention.set()
        return blocks

    def _launch_block(self, block_id: str) -> Any:
        assert self.provider is not None
        # As in Parsl, except for characters that would break its providers' shell commands.
        name = f"parsl.{re.sub('[^A-Za-z0-9_.-]', '_', self.label)}.block-{block_id}"
        with self._provider_lock:
            job = self.provider.submit(self._get_launch_command(block_id), 1, name)
            if not job:
                raise ScalingFailed(self, f"the provider launched no job for block {block_id}")
            self._jobs.launched(block_id, job, time.monotonic())
            self._heard[block_id] = self._entry(job).get("status")
            self._written[block_id] = providers.output_paths(self.provider, name)
        return job

    def _entry(self, job: Any) -> dict[str, Any]:
        """Return the provider's own entry for a job."""
        resources: dict[Any, dict[str, Any]] = getattr(self.provider, "resources", {})
        return resources.get(job, {})

    # --- watching ---

    def status(self) -> dict[str, JobStatus]:
        """Ask the provider and return the state of each block.

        A block may count as running although the provider says that it ended: see :class:`~taskvine_exec.jobs.Jobs`.
        """
        now = time.monotonic()
        with self._provider_lock:
            self._jobs.nodes_are({node["block"] for node in self._nodes}, now)
            self._jobs.looked(now)
            try:
                said = super().status()
            except Exception as error:  # such as a command of the batch system that timed out
                logger.warning("%s the provider cannot report the state of its jobs: %s", self._scale_prefix, error)
                return dict(self._status)
            states = {}
            for block, state in said.items():
                if state.state == JobState.FAILED and _UNREADABLE.fullmatch(state.message or ""):
                    state = self._not_yet(block, state)
                states[block] = state if block in self._simulated_status else self._weigh(block, state, now)
            return states

    def _weigh(self, block: str, said: JobStatus, now: float) -> JobStatus:
        job = self._jobs.get(block)
        known = job is None or job.end is not None
        answered = self._jobs.trusted or said is not self._heard.get(block)
        verdict = self._jobs.judge(block, said, now, answered=answered)
        self._heard[block] = said
        if job is not None and job.stuck and job.open:
            self._drained.append(block)  # cancel it, or it might run beside its replacement
            self._attention.set()
        if known or job is None or self._jobs.trusted or not said.terminal:
            return verdict
        if detail := slurm.ask(self.provider, job.number):
            verdict = self._jobs.settle(block, detail.status(said))
        if not verdict.terminal:  # make the provider ask again: it never asks about ended jobs
            self._heard[block] = self._entry(job.number)["status"] = JobStatus(JobState.PENDING)
        return verdict

    def _not_yet(self, block: str, verdict: JobStatus) -> JobStatus:
        """Make LocalProvider read an exit code again: while a job writes it, the provider takes it for a failure."""
        now = time.monotonic()
        if not isinstance(self.provider, LocalProvider):
            return verdict
        if now > self._unreadable.setdefault(block, now) + _WRITTEN_SECONDS:
            return verdict
        running = JobStatus(JobState.RUNNING)
        self.provider.resources[self.blocks_to_job_id[block]]["status"] = running
        return running

    def poll_facade(self) -> None:
        """Refresh the state of the blocks, if the polling interval has passed."""
        with self._provider_lock:
            if not self._jobs.trusted and not self._last_poll_time:
                self._last_poll_time = time.time()  # just after a submission, the batch system has no news
            super().poll_facade()

    def _watch_blocks(self) -> None:
        while not self._blocks_end:
            self._attention.wait(self._patience())
            self._attention.clear()
            try:
                while self._drained and not self._blocks_end:
                    self._cancel_blocks([self._drained.popleft()])
                if not self.bad_state_is_set and not self._blocks_end:
                    self._look()
            except BaseException:  # a provider's methods may raise anything, but this thread must go on
                logger.exception("%s an error while watching blocks; watching goes on", self._scale_prefix)

    def _patience(self) -> float | None:
        """Return the seconds until the next look; None: wait for an event."""
        if self.bad_state_is_set:
            return None
        now = time.monotonic()
        times = [self._jobs.next_look(), self._jobs.next_mention()]
        if self._blockless and self._retry_at > now:
            times.append(self._retry_at)
        if not self._jobs.trusted and self._jobs.missing():
            times.append(now + _OUTPUT_SECONDS)
        due = [when for when in times if when is not None]
        return max(0.0, min(due) - now) if due else None

    def _look(self) -> None:
        now = time.monotonic()
        with self._provider_lock:
            self._jobs.nodes_are({node["block"] for node in self._nodes}, now)
            self._watch_outputs(now)
            due = self._jobs.next_look()
            if due is not None and due <= now:
                self._last_poll_time = 1.0  # makes poll_facade ask now; Parsl's interval starts again from there
                self.poll_facade()
            mention = self._jobs.to_mention(now)
            if mention:
                self._mention(mention)
        self._judge_blocks()

    def _watch_outputs(self, now: float) -> None:
        """Look for new output of jobs without a node: it shows a start or an error without asking the batch system."""
        if self._jobs.trusted:
            return
        for job in self._jobs.missing()[:_OUTPUTS]:
            there = tuple(_state_of(path) for path in self._output(job))
            if self._outputs.setdefault(job.block, tuple(0 for _ in there)) != there:
                self._outputs[job.block] = there
                self._jobs.stirs(job.block, now)

    def _output(self, job: Job) -> list[str]:
        entry = self._entry(job.number)
        paths = (entry.get("job_stdout_path"), entry.get("job_stderr_path"))
        return [path for path in paths if isinstance(path, str)] or list(self._written.get(job.block, ()))

    def _mention(self, jobs: Sequence[Job]) -> None:
        waited = time.monotonic() - min(job.submitted for job in jobs)
        detail = slurm.ask(self.provider, jobs[0].number)
        known = self._status.get(jobs[0].block)
        state = str(detail) if detail else f"its provider says {known.state.name}" if known else "no state is known"
        what = ", ".join(f"{job.block} (job {job.number})" for job in jobs[:_SHOWN])
        more = f" and {len(jobs) - _SHOWN} more" if len(jobs) > _SHOWN else ""
        cure = detail.cure if detail else ""
        logger.log(
            logging.WARNING if cure else logging.INFO,
            "%s no node yet after %.0f s from block %s%s; state of the first: %s%s",
            self._scale_prefix,
            waited,
            what,
            more,
            state,
            f". {cure}" if cure else "",
        )

    def _judge_blocks(self) -> None:
        """If no block is left, launch another, or give up if the last few blocks never had a node."""
        with self._provider_lock:
            blocks = sorted(self._status.items(), key=lambda item: int(item[0]))
            active = any(status.state not in TERMINAL_STATES for _, status in blocks)
            self._blockless = not active
            if self._blocks_end or self.bad_state_is_set:
                return
            failed: list[tuple[str, JobStatus]] = []
            while blocks and not self._has_served(blocks[-1][0]) and blocks[-1][1].state != JobState.SCALED_IN:
                if blocks[-1][1].state not in TERMINAL_STATES:
                    break
                failed.append(blocks.pop())
            if failed and failed[0][0] != self._failed_last:
                self._failed_last = failed[0][0]
                pause = min(_RETRY_AT_MOST, _RETRY_SECONDS * 2 ** (len(failed) - 1))
                self._retry_at = time.monotonic() + pause
                if active or self._may_do_better(failed):
                    logger.warning("%s %s", self._scale_prefix, self._failure(failed[:1]))
            if active:
                return
            enough = max(1, getattr(self.provider, "init_blocks", 1))
            if self._may_do_better(failed):
                enough = max(enough, _ATTEMPTS)
            if len(failed) < enough or self._nodes:
                if self.outstanding() and (not failed or time.monotonic() >= self._retry_at):
                    self._replace(blocks[-1] if blocks else None)
                return
        self.set_bad_state_and_fail_all(self._failure(failed))

    def _may_do_better(self, failed: Sequence[tuple[str, JobStatus]]) -> bool:
        """Tell whether another block may work although the last one failed."""
        if any(job.served for job in self._jobs):
            return True
        job = self._jobs.get(failed[0][0]) if failed else None
        return job is not None and not job.stuck and _was_killed(failed[0][1])

    def _has_served(self, block: str) -> bool:
        job = self._jobs.get(block)
        return job is not None and job.served

    def _replace(self, last: tuple[str, JobStatus] | None) -> None:
        """Launch a block for waiting tasks, unless Parsl's strategy will do so."""
        lost = last is not None and last[1].state != JobState.SCALED_IN
        if not lost and self.run_id is not None and not self._strategy_is_none:
            return
        if getattr(self.provider, "max_blocks", 1) < 1:
            if not self._said_none_allowed:
                self._said_none_allowed = True
                logger.warning(
                    "%s tasks wait, but the provider's max_blocks allows no block: raise it", self._scale_prefix
                )
            return
        if last is not None and lost:
            logger.warning("%s block %s died: launching another", self._scale_prefix, last[0])
        self._blockless = False
        self._launch_blocks(1)

    def _failure(self, failed: list[tuple[str, JobStatus]]) -> WorkerLaunchFailed:
        last = failed[0][1]
        names = ", ".join(block for block, _ in reversed(failed))
        what = f"block {names} ended" if len(failed) == 1 else f"blocks {names} ended"
        reason = f"{what} before its node joined" if len(failed) == 1 else f"{what} before their nodes joined"
        job = self._jobs.get(failed[0][0])
        output = self._output(job) if job is not None else []
        if last.stderr_path is None and output:
            last = JobStatus(last.state, last.message, last.exit_code, stdout_path=output[0], stderr_path=output[-1])
        return WorkerLaunchFailed(
            reason=f"{reason}: {last.message}" if last.message else reason,
            exit_code=last.exit_code,
            stderr=_summary(last),
            job="" if job is None else str(job.number),
            output=last.stderr_path or "",
        )

    # --- scaling in ---

    def scale_in(self, blocks: int, max_idletime: float | None = None) -> list[str]:
        """Scale in by this number of blocks, the youngest first, without waiting for them.

        Their nodes first finish their tasks and copy to other nodes the files that only they hold. Then the blocks are
        cancelled.

        Returns
        -------
        list of str
            Ids of the chosen blocks.
        """
        active = [block for block, status in list(self._status.items()) if status.state not in TERMINAL_STATES]
        chosen = active[max(0, len(active) - blocks) :]
        if frames.run_ends():  # shutdown follows, and needs the nodes, because they hold results
            return chosen
        for block in chosen:
            self._drain_block(block)
        return chosen

    def scale_in_facade(self, n: int, max_idletime: float | None = None) -> list[str]:
        """Scale in by ``n`` blocks, as :meth:`scale_in`, and mark them as scaled in for Parsl."""
        blocks: list[str] = super().scale_in_facade(n, max_idletime)
        self._blockless = True  # the next task makes the executor check
        return blocks

    @abstractmethod
    def _drain_block(self, block: str) -> None:
        """Make the nodes of a block finish and leave. Then :meth:`_block_drained` must be called."""

    def _block_drained(self, block: str) -> None:
        self._drained.append(block)
        self._attention.set()

    def _stop_watching(self) -> None:
        """Stop watching blocks, because they will end at shutdown."""
        self._blocks_end = True
        self._attention.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(_STOP_SECONDS)

    def _end_blocks(self, serving: set[str]) -> None:
        """Cancel all jobs that were submitted and not seen to end.

        Jobs without a node are cancelled at once. Those in ``serving`` (blocks with nodes, which have been told to end)
        first get time to clean up.
        """
        if self.provider is None:
            return
        if self._jobs.trusted:
            self._cancel_blocks([job.block for job in self._jobs])
            return
        remaining = [job for job in self._jobs if job.open]
        self._cancel([job for job in remaining if job.block not in serving])
        remaining = [job for job in remaining if job.block in serving]
        self._await_leave(remaining, _LEAVE_SECONDS)
        self._cancel(remaining)
        for job in self._await_leave(remaining, _CANCELLED_SECONDS)[:_SHOWN]:
            logger.warning(
                "%s block %s (job %s) has not reported that it cleaned up. %s may remain until your next node on that "
                "machine removes it",
                self._scale_prefix,
                job.block,
                job.number,
                self._places_of.get(job.block, "The directory of its node"),
            )

    def _await_leave(self, jobs: Sequence[Job], seconds: float) -> list[Job]:
        """Wait until jobs have cleaned up, for this many seconds at most; return those that have not."""
        deadline = time.monotonic() + seconds
        while (dirty := [job for job in jobs if not self._has_left(job)]) and time.monotonic() < deadline:
            time.sleep(0.1)  # a shared file system sends no events
        return dirty

    def _has_left(self, job: Job) -> bool:
        """Tell whether all nodes of a job have reported that they cleaned up.

        True without output files: these nodes are machines or pods, whose files disappear with them.
        """
        paths = self._output(job)
        nodes = getattr(self.provider, "nodes_per_block", 1)
        return not paths or _text(paths[0]).count(LEFT) >= nodes

    def _cancel_blocks(self, blocks: list[str]) -> None:
        """Cancel the jobs of blocks that have not ended."""
        jobs = [job for job in map(self._jobs.get, blocks) if job is not None and job.open]
        if self._jobs.trusted and jobs and self.provider is not None:
            # A job's number is a process id, which may belong to another process by now: ask again.
            try:
                with self._provider_lock:
                    states = self.provider.status([job.number for job in jobs])
            except Exception as error:  # its files may have been removed with the run's private directory
                logger.warning("%s blocks %s are not cancelled: %s", self._scale_prefix, blocks, error)
                return
            jobs = [job for job, state in zip(jobs, states, strict=True) if state.state not in TERMINAL_STATES]
        self._cancel(jobs)

    def _cancel(self, jobs: Sequence[Job]) -> None:
        if not jobs or self.provider is None:
            return
        self._ask_to_cancel(jobs)
        # Most batch systems give one answer for all jobs, and refuse if one of them has just ended.
        refused = self._not_ended([job for job in jobs if not job.cancelled])
        if len(jobs) > 1:
            for job in refused:
                self._ask_to_cancel([job])
        names = [f"{job.block} (job {job.number})" for job in refused if not job.cancelled]
        if names:
            logger.warning("%s these blocks could not be cancelled: %s", self._scale_prefix, ", ".join(names))

    def _ask_to_cancel(self, jobs: Sequence[Job]) -> None:
        assert self.provider is not None
        try:
            with self._provider_lock:
                done = self.provider.cancel([job.number for job in jobs])
            for job, accepted in zip(jobs, done, strict=True):
                job.cancelled = bool(accepted)
        except Exception as error:
            names = ", ".join(job.block for job in jobs)
            logger.warning("%s blocks %s could not be cancelled: %s", self._scale_prefix, names, error)

    def _not_ended(self, jobs: list[Job]) -> list[Job]:
        """Return the jobs that have not ended, as far as the provider says."""
        if not jobs or self.provider is None:
            return jobs
        try:
            with self._provider_lock:
                states = self.provider.status([job.number for job in jobs])
        except Exception as error:
            logger.debug("%s the provider cannot report the state of its jobs: %s", self._scale_prefix, error)
            return jobs
        remain = []
        for job, state in zip(jobs, states, strict=True):
            if state.state in TERMINAL_STATES and state.state not in self._jobs.held:
                job.stuck = False
            else:
                remain.append(job)
        return remain


def _judge(executor: BlockProviderExecutor, status: dict[str, JobStatus]) -> None:
    """Handle failed blocks: Parsl's ``block_error_handler`` for BlockExecutor."""
    if isinstance(executor, BlockExecutor) and not executor.bad_state_is_set:
        executor._judge_blocks()


def _was_killed(status: JobStatus) -> bool:
    """Tell whether a job that has ended may have been killed.

    A shell exits with 128 plus the signal's number. A job that failed without an exit code was ended by its batch
    system, or together with its shell.
    """
    code = status.exit_code
    if code is None:
        return status.state in (JobState.FAILED, JobState.CANCELLED)
    return code < 0 or code > 128


def _state_of(path: str) -> int:
    """Return a number that changes when the file is written to; 0 if the file does not exist."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _summary(status: JobStatus) -> str:
    try:
        return status.stderr_summary or ""
    except (OSError, ValueError):
        return ""
