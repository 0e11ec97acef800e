"""Blocks of a Parsl provider and the nodes in them: launched, watched, let go.

Parsl's strategy decides how many blocks there are. Here they are watched as well, by a thread that looks at the
provider for as long as a block has no node, because there may be no DataFlowKernel that would, and because a block
whose node was killed is no reason to give up on the tasks that wait.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from abc import abstractmethod
from collections import deque
from typing import Any

from parsl.executors.errors import ScalingFailed
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.states import TERMINAL_STATES, JobState, JobStatus
from parsl.providers import LocalProvider
from parsl.providers.base import ExecutionProvider

from taskvine_exec.errors import WorkerLaunchFailed
from taskvine_exec.parsl_hooks import frames

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""How often the provider is asked about blocks that have no node."""
_UNREADABLE = re.compile(r"Cannot parse exit code:\s*")
_WRITTEN_SECONDS = 1.0
"""How long a job of LocalProvider may take to write its exit code into the file that it has emptied."""
_STRATEGY_THREAD = "JobStatusPoller"
_STOP_SECONDS = 5.0


class BlockExecutor(BlockProviderExecutor):
    """The part of the executor that scales.

    Parameters
    ----------
    provider : ExecutionProvider or None
        None where nodes come by other ways than blocks. It is the executor's own and will be changed.
    """

    def __init__(self, *, provider: ExecutionProvider | None) -> None:
        super().__init__(provider=provider, block_error_handler=_judge)
        self._nodes: list[dict[str, Any]] = []
        self._nodes_changed = threading.Condition()
        self._served: set[str] = set()
        self._drained: deque[str] = deque()
        self._unaccounted_blocks = 0
        self._blocks_end = False
        self._blockless = False  # perhaps: it is to be looked at
        self._unreadable: dict[str, float] = {}  # since when, by block
        # Held around the provider, which the strategy's thread uses too, and never while futures are completed.
        self._provider_lock = threading.RLock()
        self._attention = threading.Event()
        self._watcher: threading.Thread | None = None

    # --- nodes ---

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes there are: name, cores, memory (MB), disk (MB), gpus, block, pid, directory."""
        return list(self._nodes)

    def wait_for_nodes(self, count: int, timeout: float | None = None) -> bool:
        """Wait until at least ``count`` nodes have joined; say whether they have."""
        with self._nodes_changed:
            return self._nodes_changed.wait_for(lambda: len(self._nodes) >= count, timeout)

    def _nodes_are(self, nodes: list[dict[str, Any]]) -> None:
        with self._nodes_changed:
            self._nodes = nodes
            self._served.update(node["block"] for node in nodes)
            self._nodes_changed.notify_all()
        self._attention.set()

    # --- launching ---

    def _start_blocks(self) -> None:
        if self.provider is None:
            return
        self._unaccounted_blocks = self.provider.init_blocks
        if self.provider.init_blocks:
            self._launch_blocks(self.provider.init_blocks)
        self._watcher = threading.Thread(target=self._watch_blocks, name="TaskVine-Blocks", daemon=True)
        self._watcher.start()

    def scale_out_facade(self, n: int) -> list[str]:
        """Launch blocks. Those that ``start`` launched stand for the first that Parsl's strategy asks for."""
        if self._unaccounted_blocks and threading.current_thread().name.startswith(_STRATEGY_THREAD):
            launched, self._unaccounted_blocks = self._unaccounted_blocks, 0
            n -= launched
        return self._launch_blocks(n) if n > 0 else []

    def _launch_blocks(self, count: int) -> list[str]:
        blocks: list[str] = super().scale_out_facade(count)
        if len(blocks) < count:
            self._blockless = True
        self._attention.set()
        return blocks

    def _launch_block(self, block_id: str) -> Any:
        assert self.provider is not None
        # As Parsl does it, but for labels that its providers' shell commands do not survive.
        name = f"parsl.{re.sub('[^A-Za-z0-9_.-]', '_', self.label)}.block-{block_id}"
        with self._provider_lock:
            job = self.provider.submit(self._get_launch_command(block_id), 1, name)
        if not job:
            raise ScalingFailed(self, f"the provider launched no job for block {block_id}")
        return job

    # --- watching ---

    def status(self) -> dict[str, JobStatus]:
        """State of each block, asked of the provider."""
        with self._provider_lock:
            states = super().status()
            for block, state in states.items():
                if state.state == JobState.FAILED and _UNREADABLE.fullmatch(state.message or ""):
                    states[block] = self._not_yet(block, state)
            return states

    def _not_yet(self, block: str, verdict: JobStatus) -> JobStatus:
        """LocalProvider takes an exit code that is being written for none, and stands by it: have it look again."""
        now = time.monotonic()
        if not isinstance(self.provider, LocalProvider):
            return verdict
        if now > self._unreadable.setdefault(block, now) + _WRITTEN_SECONDS:
            return verdict
        running = JobStatus(JobState.RUNNING)
        self.provider.resources[self.blocks_to_job_id[block]]["status"] = running
        return running

    def poll_facade(self) -> None:
        """Refresh what is known of the blocks, if that is due."""
        with self._provider_lock:
            super().poll_facade()

    def _watch_blocks(self) -> None:
        while not self._blocks_end:
            self._attention.wait(_LOOK_SECONDS if self._nodes_missing() else None)
            self._attention.clear()
            try:
                while self._drained and not self._blocks_end:
                    self._cancel_blocks([self._drained.popleft()])
                if (self._nodes_missing() or self._blockless) and not self._blocks_end:
                    with self._provider_lock:
                        self._last_poll_time = 0.0
                        self.poll_facade()
                    self.handle_errors(self.status_facade)
            except BaseException:  # a provider's methods may do anything, but this thread must go on
                logger.exception("%s its blocks cannot be watched", self._scale_prefix)

    def _nodes_missing(self) -> bool:
        """Whether a block is there, as far as is known, but not its node."""
        here = {node["block"] for node in self._nodes}
        return not self.bad_state_is_set and any(
            block not in here and status.state not in TERMINAL_STATES for block, status in list(self._status.items())
        )

    def _judge_blocks(self) -> None:
        """What to do when no block is left: try another, or give up where the last few never had a node."""
        with self._provider_lock:
            blocks = sorted(self._status.items(), key=lambda item: int(item[0]))
            self._blockless = False
            if self._blocks_end or any(status.state not in TERMINAL_STATES for _, status in blocks):
                return
            failed: list[tuple[str, JobStatus]] = []
            while blocks and blocks[-1][0] not in self._served and blocks[-1][1].state != JobState.SCALED_IN:
                failed.append(blocks.pop())
            enough = max(1, getattr(self.provider, "init_blocks", 1))
            if len(failed) < enough:
                if blocks and blocks[-1][1].state != JobState.SCALED_IN:
                    self._blockless = True  # the next task has it looked at, if there is none now
                    if self.outstanding():
                        logger.warning("%s block %s died: launching another", self._scale_prefix, blocks[-1][0])
                        self._blockless = False
                        self._launch_blocks(1)
                return
        self.set_bad_state_and_fail_all(_failure(failed))

    # --- letting go ---

    def scale_in(self, blocks: int, max_idletime: float | None = None) -> list[str]:
        """Let blocks go, the youngest first: at once for the caller; behind that, what they run finishes, what only
        they hold is copied, and then they are cancelled."""
        active = [block for block, status in list(self._status.items()) if status.state not in TERMINAL_STATES]
        chosen = active[max(0, len(active) - blocks) :]
        if frames.run_ends():  # shutdown comes next, and needs the nodes: results are on them
            return chosen
        for block in chosen:
            self._drain_block(block)
        return chosen

    @abstractmethod
    def _drain_block(self, block: str) -> None:
        """Have the nodes of a block finish; :meth:`_block_drained` is to be called when they are gone."""

    def _block_drained(self, block: str) -> None:
        self._drained.append(block)
        self._attention.set()

    def _stop_watching(self) -> None:
        """Expect blocks to end from now on."""
        self._blocks_end = True
        self._attention.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(_STOP_SECONDS)

    def _cancel_blocks(self, blocks: list[str]) -> None:
        jobs = [self.blocks_to_job_id[block] for block in blocks if block in self.blocks_to_job_id]
        if not jobs or self.provider is None:
            return
        try:
            with self._provider_lock:
                states = self.provider.status(jobs)
                running = [job for job, state in zip(jobs, states, strict=True) if state.state not in TERMINAL_STATES]
                if running:
                    self.provider.cancel(running)
        except Exception:
            logger.exception("%s blocks %s could not be cancelled", self._scale_prefix, blocks)


def _judge(executor: BlockProviderExecutor, status: dict[str, JobStatus]) -> None:
    """Parsl's hook for blocks that went wrong; only ours are given it."""
    if isinstance(executor, BlockExecutor) and not executor.bad_state_is_set:
        executor._judge_blocks()


def _failure(failed: list[tuple[str, JobStatus]]) -> WorkerLaunchFailed:
    last = failed[0][1]
    names = ", ".join(block for block, _ in reversed(failed))
    what = f"block {names} ended" if len(failed) == 1 else f"blocks {names} ended"
    reason = f"{what} before its node joined" if len(failed) == 1 else f"{what} before their nodes joined"
    if last.message:
        reason += f": {last.message}"
    return WorkerLaunchFailed(reason=reason, exit_code=last.exit_code, stderr=last.stderr_summary or "")
