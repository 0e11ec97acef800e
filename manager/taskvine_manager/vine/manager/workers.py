"""The workers as TaskVine reports them, and the processes that start them."""

from __future__ import annotations

import logging
import math
import os
import time

from taskvine_manager.factory import NodeFactory
from taskvine_manager.record.events import WORKERS, Lost, Made, NodeExited
from taskvine_manager.vine.manager import events
from taskvine_manager.vine.manager.batch import LOOK_SECONDS, BatchFactory
from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.vine.manager.recoveries import Recoveries
from taskvine_manager.vine.manager.shell import Shell

logger = logging.getLogger(__name__)

LOOK = 0.05
"""Minimum seconds between two looks at the list of workers."""
ADJUST_SECONDS = 0.5
"""Seconds between two times that the number of workers of this machine is adjusted."""


class Workers:
    """Starts workers, and tells the core which have joined and left.

    Parameters
    ----------
    config : VineConfig
        Settings of the engine.
    port : int
        Port for workers.
    shell : Shell
        TaskVine, and the core, which knows the workers that have joined.
    recoveries : Recoveries
        Watches lost files, which there may be after workers have left.
    """

    def __init__(self, config: VineConfig, port: int, shell: Shell, recoveries: Recoveries) -> None:
        self._slots = config.slots
        self._vine, self._core, self._handle = shell.vine, shell.core, shell.handle
        self._store, self._outlet = shell.store, shell.outlet
        self._recoveries = recoveries
        self._look_due = True
        self._looked = 0.0
        self._joined = False
        self._batch: BatchFactory | None = None
        self._factory: NodeFactory | None = None
        if config.factory_command:
            command = [*config.factory_command, config.address, str(port)]
            self._batch = BatchFactory(command, config.factory_scratch, config.log)
        if config.node_command:
            log = os.path.join(config.log, "factory.out")
            command = [*config.node_command, "localhost", str(port)]
            self._factory = NodeFactory(command, config.min_nodes, config.max_nodes, log)

    # --- workers that come and go ---

    def look_soon(self, *, at_once: bool = False) -> None:
        """Expect that workers have joined or left; look ``at_once`` or in a moment."""
        self._look_due = True
        if at_once:
            self._looked = 0.0

    def look_wait(self, now: float) -> float:
        """Return the seconds until the list of workers should be looked at; 0 if that is due."""
        return max(0.0, self._looked + LOOK - now) if self._look_due else math.inf

    def look(self) -> bool:
        """Find out which workers there are; return whether TaskVine may have something to do because of that."""
        self._look_due = False
        self._looked = time.monotonic()
        fleet = self._core.fleet
        nodes = fleet.nodes
        said = {str(worker["addrport"]): worker for worker in self._vine.workers()}
        joined = {address: worker for address, worker in said.items() if address not in nodes and worker.get("ncpus")}
        gone = tuple(address for address in nodes if address not in said)
        if len(said) != len(nodes) + len(joined) - len(gone):
            self._look_due = True  # a worker has not reported its resources yet
        for address in gone:
            logger.info("node %s left", nodes[address].name)
        if gone:
            # Before the lost tasks are retried: their inputs may be lost, too.
            self._recoveries.see_lost(self._core.files.irreplaceable())
        changed = bool(joined or gone)
        busy = changed or bool(fleet.draining)
        if busy:
            names = {nodes[address].name for address in gone}
            self._handle(events.Connected(joined, gone, self._looked))
            self._record_losses(names)
        for address in joined:
            logger.info("node joined: %s", nodes[address].info)
            self._joined = True
        stuck = self._recoveries.see_stuck(changed=changed)
        self._look_due = self._look_due or bool(fleet.draining) or stuck
        return busy or stuck

    def _record_losses(self, gone: set[str]) -> None:
        """Record which temp files were lost with nodes, and which TaskVine still has on others."""
        temps = [(name, temp) for name, temp in self._core.files.temps.items() if temp.node in gone] if gone else []
        left = [(name, temp, self._store.on_workers(name)) for name, temp in temps]
        if left:
            self._outlet.happened(
                [Made(name, WORKERS, temp.size) if count else Lost(name, temp.node) for name, temp, count in left]
            )

    # --- workers that are started ---

    def check(self) -> None:
        """Check that the batch system starts workers.

        Raises
        ------
        NodesFail
            As for :meth:`.BatchFactory.check`.
        """
        if self._batch is not None:
            self._batch.check(joined=self._joined)

    def adjust(self, now: float) -> None:
        """Adjust the number of workers of this machine to the work."""
        if self._factory is not None:
            nodes = self._core.fleet.nodes.values()
            slots = max((node.slots for node in nodes), default=self._slots)
            self._factory.adjust({node.info.pid for node in nodes}, self._core.demand, slots)
            if ended := self._factory.ended():
                self._outlet.happened([NodeExited(*each) for each in ended])
            self._handle(events.Clock(now))

    def wait(self, now: float) -> float:
        """Return the seconds until something is due here."""
        waits = [self.look_wait(now)]
        waits += [ADJUST_SECONDS] if self._factory is not None else []
        waits += [LOOK_SECONDS] if self._batch is not None else []
        return min(waits)

    def terminate(self) -> None:
        """Make the batch system's jobs end."""
        if self._batch is not None:
            self._batch.terminate()

    def kill(self) -> None:
        """Kill what has not ended."""
        if self._factory is not None:
            self._factory.kill()
        if self._batch is not None:
            self._batch.kill()
