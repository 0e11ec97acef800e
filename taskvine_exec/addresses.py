"""The default address at which workers on other machines reach the manager."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket

import psutil

logger = logging.getLogger(__name__)

_ELSEWHERE = "192.0.2.1"
"""An address that no machine has (RFC 5737). Nothing is sent to it; it only selects the default route."""


def of_this_machine() -> str:
    """Choose the IPv4 address of this machine that other machines can most probably reach.

    The choices, in order: the address of this machine's host name, the address of its default route, any address other
    than the loopback interface's. If there is none, return the loopback address, which only workers on this machine can
    reach.
    """
    candidates = [name for name in (_of_name(), _of_route()) if name is not None]
    own = [address for address in _of_interfaces() if not ipaddress.ip_address(address).is_loopback]
    chosen = next((address for address in candidates if address in own), next(iter(own), None))
    if chosen is None:
        logger.warning("this machine has no network: only workers on it can connect")
        return "127.0.0.1"
    if len(own) > 1:
        others = ", ".join(address for address in own if address != chosen)
        logger.info("workers connect to %s; give another address if they do not reach it (%s)", chosen, others)
    return chosen


def _of_name() -> str | None:
    with contextlib.suppress(OSError):
        return socket.gethostbyname(socket.gethostname())
    return None


def _of_route() -> str | None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((_ELSEWHERE, 1))
        return str(probe.getsockname()[0])
    return None


def _of_interfaces() -> list[str]:
    up = {name for name, status in psutil.net_if_stats().items() if status.isup}
    interfaces = psutil.net_if_addrs().items()
    return [each.address for name, found in interfaces if name in up for each in found if each.family == socket.AF_INET]
