"""What runs tasks on a node of either engine: function slots under a library, and fresh processes."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from taskvine_manager.node import environment, hardware, pinning
from taskvine_manager.node.accelerators import Found
from taskvine_manager.node.calls import Call, Report, Resources, Shared, needed, shares
from taskvine_manager.node.commands import with_init
from taskvine_manager.node.config import LibraryConfig, NodeConfig
from taskvine_manager.node.devices import Devices
from taskvine_manager.node.functions import Functions
from taskvine_manager.node.libraries import Libraries
from taskvine_manager.node.library import Library
from taskvine_manager.node.loop import Loop
from taskvine_manager.node.named_slots import NamedSlots
from taskvine_manager.node.oneshots import OneShots
from taskvine_manager.node.pinning import Cpus
from taskvine_manager.node.places import Place
from taskvine_manager.node.slots import Slots
from taskvine_manager.node.steps import Steps
from taskvine_manager.node.watchdog import Watchdog
from taskvine_manager.node_parameters import RECORD_DETAILS
from taskvine_manager.runtime import failure, headroom, keeper
from taskvine_manager.runtime.payload import Payload
from taskvine_manager.wire.messages import L1, Invocation, NodeInfo

LOOK_AT_SLOTS = 0.010
"""Seconds between checks of slots with several tasks, which may be waiting behind a long one."""
CANCELLED = failure.lost("cancelled", "cancelled while it ran")
"""Failure record of a task that is cancelled."""


class Site(NamedTuple):
    """Where a node runs its tasks.

    Parameters
    ----------
    directory : str
        The node's private directory.
    spool, environments : str
        Directories for large values and unpacked environments.
    radio : str
        Path of the socket to which tasks send monitoring messages.
    without : tuple of str
        Environment variables of this process that tasks do not get.
    temporary : str or None
        Short path of a directory for the tasks' temporary files; None for this process's own.
    copies : str or None
        Directory for copies of functions' files, if the node has to make any.
    """

    directory: str
    spool: str
    environments: str
    radio: str
    without: tuple[str, ...] = ()
    temporary: str | None = None
    copies: str | None = None


class Runner:
    """The tasks on a node, and what runs them. The library is started at once if function calls are expected.

    Parameters
    ----------
    config : NodeConfig
        The executor's configuration for all its nodes, with the directory for this node's logs.
    info : NodeInfo
        The node's resources.
    gpus : Found
        Its gpus; the node's resources have their memory.
    site : Site
        Where its tasks run.
    loop : Loop
        The node's loop.
    report : callable
        Called with ``(call, outcome, body, started, seconds)`` for each task that has ended.
    notice : callable
        Sends a notice to the user.
    """

    def __init__(
        self,
        config: NodeConfig,
        info: NodeInfo,
        gpus: Found,
        site: Site,
        loop: Loop,
        report: Report,
        notice: Callable[[str], None],
    ) -> None:
        self.calls: dict[int, Call] = {}
        """The tasks from :meth:`take` to :meth:`drop`, by number."""
        self.broken: bytes | None = None
        """Failure record for every task, if none can run on this node."""
        self.steps = Steps(wanted=bool(config.tune.get(RECORD_DETAILS, 1)))
        """Starts and ends of libraries, contexts and slots, for the record of the run."""
        self._process_cores, self._slot_cores = shares(info.cores, config.slots)
        self._watch_slots = False
        command, base = self._command(config, site)
        runtime = self._runtime(config, site, gpus.kind if gpus.names else None)
        headroom.keep_to(runtime["memory_group"])
        kills = hardware.kills()
        known: dict[str, Payload] = {}
        cpus = self._cpus(config, info)
        resources = Resources(info.cores, info.memory, Devices(gpus.names, info.gpu_memory), cpus)
        start = with_init(config.init_command, [*command, "library"])
        own = {**base, **hardware.thread_limits(self._slot_cores), **config.env_vars}
        self._libraries = [Library(start, own, runtime, kills, notice, self.steps)]
        shared = Shared(runtime, known, resources, report, kills)
        numbers = itertools.count()
        slots = Slots(self._libraries[0], shared, loop.watch, loop.unwatch, numbers)
        self._slots: Slots | Libraries = slots
        self._oneshots = OneShots([*command, "task"], config.init_command, {**base, **config.env_vars}, shared)
        self._named: Libraries | None = None
        if config.libraries:
            named = {}
            own = {**base, **hardware.thread_limits(self._process_cores), **config.env_vars}
            for library in config.libraries:
                settings = {**runtime, **_settings(library), "slot_cores": self._process_cores}
                process, place = (
                    Library(start, own, settings, kills, notice, self.steps),
                    Place(resources, library.kind),
                )
                self._libraries.append(process)
                shared = Shared(settings, known, place, report, kills)
                named[library.kind.name] = NamedSlots(place, process, shared, loop.watch, loop.unwatch, numbers)
            self._slots = self._named = Libraries(slots, named, resources, self._oneshots.first)
        self.functions = Functions(known, self._slots, site.copies)
        self._profiles = self.functions.profiles
        self._watchdog = Watchdog(self._libraries, self._slots, self._oneshots, kills)
        self._watchdog.tune(config.tune)
        self.add, self.pump = self._slots.add, self._slots.pump
        """Queue a function call; hand queued ones to slots. Both are called for every task."""
        loop.when_children_end(self._reap)
        if config.serverless and self.broken is None:
            self._slots.start()

    def _command(self, config: NodeConfig, site: Site) -> tuple[list[str], dict[str, str]]:
        """Return the beginning of the commands that start libraries and L1 tasks, and environment variables for them.

        Set :attr:`broken` if there is no suitable interpreter.
        """
        base = {name: value for name, value in os.environ.items() if name not in site.without}
        base["TASKVINE_EXEC_RADIO"] = site.radio
        if site.temporary is not None:
            base.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), site.temporary))
        if config.env_pack is None:  # an installed root is a site-packages directory, and would precede a pack's
            base["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), config.source_root]))
        python = sys.executable
        try:
            python = environment.interpreter(config.env_pack, site.environments, config.python_version)
        except environment.EnvironmentBroken as error:
            self.broken = failure.lost("library" if config.env_pack is None else "environment", str(error))
        return [python, config.program], environment.activated(config.env_pack, python, base)

    def _cpus(self, config: NodeConfig, info: NodeInfo) -> Cpus | None:
        """Return the groups of CPUs to which tasks are bound, if they are.

        Set :attr:`broken` if a group has no CPU of this node.
        """
        slots = config.slots or max(1, int(info.cores))
        try:
            groups = pinning.groups(config.cpu_affinity, os.sched_getaffinity(0), slots)
        except ValueError as error:
            self.broken = failure.lost("environment", f"cpu_affinity cannot be used on this node: {error}")
            return None
        return Cpus(groups, self._slot_cores) if groups else None

    def _runtime(self, config: NodeConfig, site: Site, gpu_kind: str | None) -> dict[str, Any]:
        """Return the settings of the library and of L1 tasks."""
        return {
            "log": config.log,
            "spool": site.spool,
            "inline_limit": config.inline_limit,
            "scratch": os.path.join(site.directory, "scratch"),
            "directory": config.directory,
            "sys_path": config.sys_path,
            "import_modules": config.import_modules,
            "context": config.context,
            "context_scope": config.context_scope,
            "start_timeout": config.start_timeout,
            "memory_group": hardware.memory_group(),
            "gpu_kind": gpu_kind,
            "slot_cores": self._slot_cores,
            "env_vars": config.env_vars,
            "temporary": None if "TMPDIR" in config.env_vars else site.temporary,
        }

    @property
    def libraries(self) -> tuple[str, ...]:
        """Names of the named libraries that run."""
        return () if self._named is None else self._named.names

    # --- tasks ---

    def take(self, invocation: Invocation) -> Call:
        """Register a task, whose profile and function are known."""
        profile = self._profiles[invocation.profile]
        call = Call(invocation, profile, needed(profile, self._process_cores, self._slot_cores))
        self.calls[invocation.number] = call
        if profile.memory is not None:
            self._watchdog.limit(invocation.number)
        return call

    def run(self, call: Call) -> None:
        """Run a task of either kind, as soon as its resources are free."""
        if call.profile.mode == L1:
            self._oneshots.pending.append(call)
            self._oneshots.pump()
        else:
            self.add(call)
            self.pump()

    def cancel(self, numbers: set[int]) -> list[Call]:
        """Cancel tasks: return queued ones, which are not reported, and kill running ones, which are."""
        return [*self._slots.cancel(numbers, CANCELLED), *self._oneshots.cancel(numbers, CANCELLED)]

    def hand_back(self) -> list[Call]:
        """Remove queued tasks and those that a slot has not begun, and return them."""
        return [*self._slots.hand_back(), *self._oneshots.hand_back()]

    def surplus(self, categories: set[str]) -> list[Call]:
        """Remove most L2 tasks of some categories that have not begun, and return them."""
        return self._slots.surplus(categories)

    def drop(self, call: Call) -> None:
        """Forget a task that has ended or was given back."""
        if call.profile.memory is not None:
            self._watchdog.release(call.invocation.number)
        self.calls.pop(call.invocation.number, None)

    # --- care ---

    def tune(self, parameters: Mapping[str, float]) -> None:
        """Apply tuning parameters."""
        self._watchdog.tune(parameters)
        self._slots.tune(parameters)
        self._oneshots.tune(parameters)

    def waits(self) -> list[float]:
        """Return the seconds until each periodic action."""
        waits = self._watchdog.waits(busy=bool(self.calls))
        if self._watch_slots:
            waits.append(LOOK_AT_SLOTS)
        found = [self.functions.memory.wait, *(library.wait for library in self._libraries)]
        if self._named is not None:
            found.append(self._named.wait)
        waits += [wait for wait in found if wait is not None]
        return waits

    def look_after(self) -> None:
        """Do the periodic actions that are due."""
        self._watch_slots = self._slots.rebalance()
        self.functions.forget(self.calls.values())
        self.functions.memory.tidy()
        self._oneshots.pump()  # slots may have freed the resources that it waits for
        now = time.monotonic()
        for library in self._libraries:
            library.look(now)
        if self._named is not None:
            self._named.look(now)
        self._watchdog.look(now)

    def _reap(self) -> None:
        self._oneshots.reap()
        keeper.reap({*self._oneshots.processes(), *(library.pid for library in self._libraries)})

    def stop(self) -> None:
        """End the library, slots and L1 tasks."""
        self._slots.stop()
        self._oneshots.stop()
        keeper.end_children()


def _settings(library: LibraryConfig) -> dict[str, Any]:
    """Return the settings of a named library that differ from those of the default one."""
    return {
        "name": library.kind.name,
        "import_modules": library.import_modules,
        "context": library.context,
        "context_scope": library.context_scope,
        "start_timeout": library.start_timeout,
    }
