"""Launch, watch and cancel the blocks of a Parsl provider.

Parsl's strategy decides how many blocks there are. The executor watches them too: there may be no DataFlowKernel to do
so, and Parsl would give up on all tasks if a block's node were killed.

Nodes that join or leave show the state of their blocks. The provider is asked only while a node is missing: at the
provider's polling interval, and a few more times after an event. :mod:`~taskvine_exec.blocks.jobs` decides when, and
:mod:`~taskvine_exec.blocks.replacement` what to do about blocks that ended.

The provider's lock is held during calls of the provider, by the strategy's thread, the watcher's and the user's. It is
never held to complete futures. The watcher's thread waits for events; any thread may wake it.
"""

from __future__ import annotations

import logging
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
from parsl.providers.base import ExecutionProvider

from taskvine_exec.blocks.batch import Batch, jobs_of
from taskvine_exec.blocks.cancelling import Canceller
from taskvine_exec.blocks.nodes import Nodes
from taskvine_exec.blocks.replacement import Replacement, Step
from taskvine_exec.parsl_hooks import frames

logger = logging.getLogger(__name__)

_OUTPUT_SECONDS = 1.0
"""Seconds between two looks at the output files of jobs without a node."""
_STOP_SECONDS = 5.0
_MOST_REASON = 1000
"""Maximum number of characters of a block's reason in the record of the run."""

Told = tuple[str, str, str, str, int | None]
"""The state of a block for the record of the run: its number, its job, name of the state, reason, and exit code."""


class BlockExecutor(BlockProviderExecutor):
    """Base class of the executor that launches, watches and cancels blocks.

    Parameters
    ----------
    provider : ExecutionProvider or None
        The executor's own copy of the provider, which will be changed. None if nodes are not started in blocks.
    """

    def __init__(self, *, provider: ExecutionProvider | None) -> None:
        super().__init__(provider=provider, block_error_handler=_judge)
        self._nodes = Nodes()
        self._provider_lock = threading.RLock()
        self._jobs = jobs_of(provider)
        self._batch = Batch(provider, self._jobs, self._scale_prefix, self._block_drained)
        self._canceller = Canceller(provider, self._provider_lock, self._jobs, self._batch.output, self._scale_prefix)
        self._replacement = Replacement(self._jobs, getattr(provider, "init_blocks", 1))
        self._drained: deque[str] = deque()
        self._polled: float | None = None
        self._unaccounted_blocks = 0
        self._strategy_is_none = False
        self._said_none_allowed = False
        self._blocks_end = False
        self._blockless = False  # True: perhaps no block is left, to be checked
        self._attention = threading.Event()
        self._watcher: threading.Thread | None = None

    # --- nodes ---

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that have joined.

        Each is a dict: ``name``, ``cores``, ``memory`` and ``disk`` in MB, ``gpus``, ``slots`` (configured number of
        function slots; None: one for each core), ``block``, ``pid``, ``directory``, and ``gpu_memory`` (MB of each gpu;
        empty if it is not known).
        """
        return list(self._nodes.now())

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
        return self._nodes.wait(count, timeout)

    def _nodes_are(self, nodes: Sequence[dict[str, Any]]) -> None:
        self._nodes.become(nodes)
        self._attention.set()

    # --- launching ---

    def _start_blocks(self, scripts: str) -> None:
        """Launch the first blocks. Submit scripts go to the directory ``scripts``, unless the provider has another."""
        if self.provider is None:
            return
        self._batch.prepare(scripts)
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
        if frames.strategy_calls():
            launched, self._unaccounted_blocks = self._unaccounted_blocks, 0
            n -= launched
            if frames.scales_only_at_start():
                self._strategy_is_none = True
                self._attention.set()
            elif time.monotonic() < self._replacement.retry_at:
                return []  # blocks failed a short time ago, and the strategy asks every few seconds
        return self._launch_blocks(n) if n > 0 else []

    def _launch_blocks(self, count: int) -> list[str]:
        blocks: list[str] = super().scale_out_facade(count)
        if len(blocks) < count:
            self._blockless = True
        self._attention.set()
        return blocks

    def _launch_block(self, block_id: str) -> Any:
        # As in Parsl, except for characters that would break its providers' shell commands.
        name = f"parsl.{re.sub('[^A-Za-z0-9_.-]', '_', self.label)}.block-{block_id}"
        with self._provider_lock:
            job = self._batch.submit(block_id, self._get_launch_command(block_id), name)
        if job is None:
            raise ScalingFailed(self, f"the provider launched no job for block {block_id}")
        self._tell_blocks([(block_id, str(job), JobState.PENDING.name, "submitted", None)])
        return job

    # --- watching ---

    def status(self) -> dict[str, JobStatus]:
        """Ask the provider and return the state of each block.

        A block may count as running although the provider says that it ended: see
        :class:`~taskvine_exec.blocks.jobs.Jobs`.
        """
        now = time.monotonic()
        with self._provider_lock:
            self._jobs.nodes_are(self._nodes.blocks(), now)
            self._jobs.looked(now)
            try:
                said = super().status()
            except Exception as error:  # such as a command of the batch system that timed out
                logger.warning("%s the provider cannot report the state of its jobs: %s", self._scale_prefix, error)
                return dict(self._status)
            return {
                block: state if block in self._simulated_status else self._batch.weigh(block, state, now)
                for block, state in said.items()
            }

    def poll_facade(self) -> None:
        """Refresh the state of the blocks, if the polling interval has passed."""
        with self._provider_lock:
            now = time.monotonic()
            if self._polled is None and not self._jobs.trusted:
                self._polled = now  # just after a submission, the batch system has no news
            if self._polled is None or now >= self._polled + self.status_polling_interval:
                self._poll(now)

    def _poll(self, now: float) -> None:
        """Refresh the state of the blocks. The caller must hold the provider's lock."""
        before, self._status = self._status, self.status()
        self._polled = now
        changed = {
            block: state
            for block, state in self._status.items()
            if block not in before or before[block].state != state.state
        }
        if changed:
            self.send_monitoring_info(changed)
            self._tell_blocks([self._told(block, state) for block, state in changed.items()])

    def _told(self, block: str, state: JobStatus, reason: str | None = None) -> Told:
        """Return the state of a block for the record of the run."""
        job = self._jobs.get(block)
        number = "" if job is None else str(job.number)
        return (block, number, state.state.name, (reason or state.message or "")[:_MOST_REASON], state.exit_code)

    @abstractmethod
    def _tell_blocks(self, blocks: list[Told]) -> None:
        """Add states of blocks to the record of the run."""

    def _watch_blocks(self) -> None:
        while not self._blocks_end:
            self._attention.wait(self._patience())
            self._attention.clear()
            try:
                while self._drained and not self._blocks_end:
                    self._canceller.cancel([self._drained.popleft()])
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
        if self._blockless and self._replacement.retry_at > now:
            times.append(self._replacement.retry_at)
        if not self._jobs.trusted and self._jobs.missing():
            times.append(now + _OUTPUT_SECONDS)
        due = [when for when in times if when is not None]
        return max(0.0, min(due) - now) if due else None

    def _look(self) -> None:
        now = time.monotonic()
        with self._provider_lock:
            self._jobs.nodes_are(self._nodes.blocks(), now)
            self._batch.watch_outputs(now)
            due = self._jobs.next_look()
            if due is not None and due <= now:
                self._poll(now)  # the polling interval starts again from here
            if mention := self._jobs.to_mention(now):
                reason, first = self._batch.mention(mention, self._status), mention[0].block
                state = self._status.get(first, JobStatus(JobState.PENDING))
                self._tell_blocks([self._told(first, state, reason)])
        self._judge_blocks()

    def _judge_blocks(self) -> None:
        """If no block is left, launch another, or give up if the last few blocks never had a node."""
        with self._provider_lock:
            decision = self._replacement.decide(
                self._status,
                time.monotonic(),
                has_nodes=bool(self._nodes.now()),
                has_tasks=bool(self.outstanding()),
                is_scaled=self.run_id is not None and not self._strategy_is_none,
            )
            self._blockless = not decision.has_active
            if self._blocks_end or self.bad_state_is_set:
                return
            if decision.is_news:
                logger.warning("%s %s", self._scale_prefix, self._batch.failure(decision.failed[:1]))
            if decision.step is Step.LAUNCH:
                self._replace(decision.lost)
            if decision.step is not Step.GIVE_UP:
                return
            error = self._batch.failure(decision.failed)
        self.set_bad_state_and_fail_all(error)

    def _replace(self, lost: str | None) -> None:
        """Launch a block for waiting tasks, unless the provider allows none. ``lost`` is the block that has died."""
        if getattr(self.provider, "max_blocks", 1) < 1:
            if not self._said_none_allowed:
                self._said_none_allowed = True
                logger.warning(
                    "%s tasks wait, but the provider's max_blocks allows no block: raise it", self._scale_prefix
                )
            return
        if lost is not None:
            logger.warning("%s block %s died: launching another", self._scale_prefix, lost)
        self._blockless = False
        self._launch_blocks(1)

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

    def _look_now(self) -> None:
        """Have the watcher look at the blocks, without waiting for it."""
        self._attention.set()

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
        """Cancel all jobs that have not ended. Blocks in ``serving`` had nodes when these were told to end."""
        if self.provider is not None:
            self._canceller.end_all(serving, self._nodes.last_place)


def _judge(executor: BlockProviderExecutor, status: dict[str, JobStatus]) -> None:
    """Handle failed blocks: Parsl's ``block_error_handler`` for BlockExecutor."""
    if isinstance(executor, BlockExecutor) and not executor.bad_state_is_set:
        executor._judge_blocks()
