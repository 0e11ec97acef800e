"""The choice of the address that other machines reach."""

from __future__ import annotations

import logging
import socket
from types import SimpleNamespace

import psutil
import pytest

from taskvine_exec import addresses


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """The addresses of a machine: of its name, of its default route, and of its interfaces that are up."""
    says: dict[str, str | None] = {
        "name": None,
        "route": None,
        "lo": "127.0.0.1",
        "eth0": "10.0.0.7",
        "ib0": "10.1.0.7",
    }

    def interfaces() -> dict[str, list[SimpleNamespace]]:
        six = SimpleNamespace(family=socket.AF_INET6, address="fe80::1")
        return {
            name: [six, SimpleNamespace(family=socket.AF_INET, address=address)]
            for name, address in [*says.items(), ("down0", "10.9.0.7")]
            if name not in ("name", "route") and address
        }

    def address_of_name(_: str) -> str:
        if (address := says["name"]) is None:
            raise OSError("the name has no address")
        return address

    class Probe:
        """A socket whose own address is that of the default route."""

        def __init__(self, *_: int) -> None: ...

        def __enter__(self) -> Probe:
            return self

        def __exit__(self, *_: object) -> None: ...

        def connect(self, _: tuple[str, int]) -> None:
            if says["route"] is None:
                raise OSError("there is no route")

        def getsockname(self) -> tuple[str | None, int]:
            return says["route"], 1

    monkeypatch.setattr(addresses.socket, "gethostbyname", address_of_name)
    monkeypatch.setattr(addresses.socket, "socket", Probe)
    monkeypatch.setattr(addresses.psutil, "net_if_addrs", interfaces)
    up = {name: SimpleNamespace(isup=name != "down0") for name in ("lo", "eth0", "ib0", "down0")}
    monkeypatch.setattr(addresses.psutil, "net_if_stats", lambda: up)
    return says


@pytest.mark.parametrize(
    ("says", "chosen"),
    [
        ({"name": "10.1.0.7", "route": "10.0.0.7"}, "10.1.0.7"),
        ({"name": "127.0.1.1", "route": "10.1.0.7"}, "10.1.0.7"),  # as on Debian
        ({"name": "192.0.2.9", "route": "10.1.0.7"}, "10.1.0.7"),  # of a router in front of it
        ({"name": None, "route": None}, "10.0.0.7"),
        ({"name": None, "route": "127.0.0.1"}, "10.0.0.7"),
    ],
)
def test_address_is_chosen(machine: dict[str, str | None], says: dict[str, str | None], chosen: str) -> None:
    machine.update(says)
    assert addresses.of_this_machine() == chosen


def test_choice_among_several_is_logged(machine: dict[str, str | None], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, addresses.logger.name):
        addresses.of_this_machine()
        assert "10.0.0.7; give another address if they do not reach it (10.1.0.7)" in caplog.text


def test_loopback_without_a_network(machine: dict[str, str | None], caplog: pytest.LogCaptureFixture) -> None:
    machine.update(eth0=None, ib0=None)
    assert addresses.of_this_machine() == "127.0.0.1"
    assert "no network" in caplog.text


def test_this_machine_has_an_address() -> None:
    own = {each.address for found in psutil.net_if_addrs().values() for each in found}
    assert addresses.of_this_machine() in own
