"""Settings derived from fields given by name, as an executor derives them."""

from __future__ import annotations

from typing import Any

from parsl.providers import LocalProvider

from taskvine_exec.config import (
    EmbeddedSettings,
    Hardware,
    TaskVineFactoryConfig,
    TaskVineManagerConfig,
    VineSettings,
    embedded_settings,
    vine_settings,
    with_overrides,
)
from taskvine_exec.config.hardware import UNSAID
from taskvine_manager.runtime.payload import INLINE_LIMIT

#: Parsl does not annotate it.
local_provider: Any = LocalProvider


def embedded(
    *,
    mode: str = "serverless",
    launch: str = "factory",
    provider: Any = None,
    limit: Any = INLINE_LIMIT,
    libraries: Any = None,
    hardware: Hardware = UNSAID,
    **fields: Any,
) -> EmbeddedSettings:
    manager, factory = with_overrides(TaskVineManagerConfig(), TaskVineFactoryConfig(), fields)
    return embedded_settings(
        manager,
        factory,
        function_exec_mode=mode,
        worker_launch_method=launch,
        provider=provider,
        inline_limit=limit,
        libraries=libraries,
        hardware=hardware,
    )


def vine(*, launch: str = "factory", provider: Any = None, batching: bool = True, **fields: Any) -> VineSettings:
    manager, factory = with_overrides(TaskVineManagerConfig(), TaskVineFactoryConfig(), fields)
    return vine_settings(
        manager,
        factory,
        function_exec_mode="serverless",
        worker_launch_method=launch,
        provider=provider,
        batching=batching,
    )
