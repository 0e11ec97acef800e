"""Where nodes run, how many there can be, and their size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from parsl.errors import ConfigurationError
from parsl.launchers import SrunLauncher
from parsl.providers import CondorProvider, LocalProvider, SlurmProvider

from tests.unit.taskvine_exec.config.derived import embedded, local_provider, vine


def test_sources_of_the_node_size_have_an_order() -> None:
    provider = local_provider()
    provider.cores_per_node = 2
    provider.mem_per_node = 1.5

    def size(**settings: Any) -> tuple[int | None, float | None]:
        found = embedded(launch="provider", **({"provider": provider} | settings))
        return found.node_cores, found.node_memory

    assert size(worker_options="--cores=4 --memory=100", cores=8, memory=200) == (8, 200)
    assert size(worker_options="--cores=4 --memory=100", cores=0) == (4, 100)
    assert size() == (2, 1536)
    assert size(provider=local_provider()) == (None, None)


@pytest.mark.parametrize(("name", "value"), [("cores_per_node", 0), ("cores_per_node", "2"), ("mem_per_node", 0)])
def test_impossible_provider_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"provider\.{name}="):
        embedded(launch="provider", provider=SimpleNamespace(**{name: value}))


def test_library_must_fit_its_node() -> None:
    with pytest.raises(ConfigurationError, match=r"library_config\['cores'\]=8 .*at most the 4"):
        embedded(cores=4, library_config={"cores": 8})
    with pytest.raises(ConfigurationError, match=r"library_config\['gpus'\]=1 .*at most the 0"):
        embedded(gpus=0, library_config={"gpus": 1})
    assert embedded(cores=4, library_config={"cores": 4}).library_cores == 4


@pytest.mark.parametrize("launch", ["provider", "manual", "factory"])
def test_local_providers_are_accepted(launch: str) -> None:
    class Own(LocalProvider):
        pass

    own: Any = Own
    for provider in (None, local_provider(), own(), SimpleNamespace()):
        embedded(launch=launch, provider=provider)


def test_remote_providers_are_refused() -> None:
    class Site(CondorProvider):
        pass

    with pytest.raises(ConfigurationError, match=r"provider=Site .*engine='taskvine'"):
        embedded(launch="provider", provider=Site())
    for name in ("KubernetesProvider", "AWSProvider", "GoogleCloudProvider", "AzureProvider"):
        provider = type("Mine", (type(name, (), {}),), {})()
        with pytest.raises(ConfigurationError, match="provider=Mine starts workers on other machines"):
            embedded(launch="provider", provider=provider)


def test_local_provider_of_several_nodes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="LocalProvider with nodes_per_block=2"):
        embedded(launch="provider", provider=local_provider(nodes_per_block=2))


@pytest.mark.parametrize(
    ("provider", "launch", "local"),
    [
        (local_provider(), "provider", True),
        (local_provider(launcher=SrunLauncher()), "provider", False),
        (SlurmProvider(), "provider", False),
        (None, "manual", False),
        (None, "factory", True),
    ],
)
def test_nodes_on_this_machine_are_recognised(provider: Any, launch: str, local: bool) -> None:
    assert vine(launch=launch, provider=provider).local is local
