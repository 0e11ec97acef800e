"""Events and cores for tests of the core alone."""

from __future__ import annotations

from typing import Any

from taskvine_manager.runtime import failure
from taskvine_manager.vine.manager import events
from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.vine.manager.core import Core
from taskvine_manager.vine.manager.events import URGENT, Instruction, Launch
from taskvine_manager.vine.worker.worker import MARK
from taskvine_manager.wire.messages import L2, Completion, Invocation, Profile
from tests.unit.taskvine_manager.node.test_config import config as node_config

PROFILE = Profile(0, "f", "app", L2, None, None, None, None, 0.0, "app")


def new_core(*, check: bool = True, details: bool = False, **settings: Any) -> Core:
    config = VineConfig(nodes=node_config(slots=None), python="python3", log="", **settings)
    return Core(config, check=check, details=details)


def said(name: str, cores: int = 2) -> dict[str, Any]:
    return {"arch": MARK + name, "cores_total": cores, "memory_total": 4000, "disk_total": 9000, "gpus_total": 1}


def submitted(*invocations: Invocation, profile: Profile = PROFILE) -> events.Submitted:
    return events.Submitted((("f", b"function"),), (profile,), list(invocations))


def returned(number: int, *made: str, body: bytes | str = b"N.", seconds: float = 0.5) -> Completion:
    files = tuple((name, 5, 0) for name in made)
    return Completion(number, failure.RETURNED, body, "b0-1", 1.0, 1.0, seconds, files)


def of(kind: type, instructions: list[Instruction]) -> list[Any]:
    return [each for each in instructions if isinstance(each, kind)]


def started(**settings: Any) -> Core:
    """A core with one node of two cores that has been greeted."""
    core = new_core(**settings)
    (hello,) = of(Launch, core.handle(events.Connected({"h:1": said("b0-1")}, (), 0.0)))
    assert (hello.parcel.kind, hello.priority, hello.feature) == ("hello", URGENT, "b0-1")
    core.handle(events.Answered(hello.parcel.number, "h:1", []))
    return core
