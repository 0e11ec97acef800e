"""What the parts of the shell around the core share."""

from __future__ import annotations

from dataclasses import dataclass

from taskvine_manager.engine_api import Outlet
from taskvine_manager.vine.manager.core import Core
from taskvine_manager.vine.manager.events import Handle
from taskvine_manager.vine.manager.outbound import Traffic
from taskvine_manager.vine.manager.port import VinePort
from taskvine_manager.vine.manager.store import Store


@dataclass(frozen=True, eq=False)
class Shell:
    """What all parts of the shell may use.

    Parameters
    ----------
    core : Core
        The core, to be read.
    handle : callable
        Passes an event to the core.
    vine : VinePort
        TaskVine.
    store : Store
        TaskVine's files.
    traffic : Traffic
        The parcels that TaskVine has.
    outlet : Outlet
        Receives reports of what happens.
    """

    core: Core
    handle: Handle
    vine: VinePort
    store: Store
    traffic: Traffic
    outlet: Outlet
