"""Simulated time, and the bandwidth that transfers share.

The model of bandwidth: every machine has a port with a number of bytes per second in each direction, divided evenly
among the transfers in that direction. A transfer runs at the smaller of its two shares. The unused rest of the larger
share is not given to others: no rate is above that of max-min fairness, and some rates are below it if ports are loaded
unevenly. In return, a transfer that begins or ends changes only the transfers that share a port with it, and its cost
does not grow with the number of machines. The network between the ports has no limit.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Clock", "Network", "Port", "Transfer"]


class Clock:
    """Simulated seconds, and a schedule of actions; actions at the same time run in the order in which they were
    scheduled.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._agenda: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0

    def after(self, seconds: float, action: Callable[..., None], *arguments: object) -> None:
        """Schedule an action, in seconds from now."""
        self._count += 1
        heapq.heappush(self._agenda, (self.now + seconds, self._count, action, arguments))

    def step(self) -> bool:
        """Run the next action; return False if there is none."""
        if not self._agenda:
            return False
        self.now, _, action, arguments = heapq.heappop(self._agenda)
        action(*arguments)
        return True


@dataclass(eq=False, slots=True)
class Port:
    """A machine's connection: bytes per second in each direction, and the transfers in progress."""

    bandwidth: float
    sending: dict[Transfer, None] = field(default_factory=dict)
    receiving: dict[Transfer, None] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Transfer:
    """A transfer in progress from one port to another; ``left`` bytes were left at the time ``since``."""

    source: Port
    target: Port
    left: float
    since: float
    finished: Callable[[], None]
    failed: Callable[[], None]
    rate: float = 0.0
    version: int = 0


class Network:
    """Transfers between ports; the module's docstring describes the model."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def begin(
        self, source: Port, target: Port, size: int, finished: Callable[[], None], failed: Callable[[], None]
    ) -> None:
        """Send bytes; call ``finished`` when all have arrived, or ``failed`` if the source is cut off before."""
        transfer = Transfer(source, target, float(size), self._clock.now, finished, failed)
        source.sending[transfer] = None
        target.receiving[transfer] = None
        self._share(source, target)

    def cut(self, port: Port) -> None:
        """Remove a machine, with the transfers to it and from it."""
        cut = [*port.sending, *port.receiving]
        for transfer in cut:
            self._remove(transfer)
        for transfer in cut:
            self._share(transfer.source, transfer.target)
        for transfer in cut:
            if transfer.source is port:
                transfer.failed()

    def _remove(self, transfer: Transfer) -> None:
        transfer.version += 1
        transfer.source.sending.pop(transfer, None)
        transfer.target.receiving.pop(transfer, None)

    def _share(self, source: Port, target: Port) -> None:
        """Adjust the rates of transfers after the number of transfers at these two ends has changed."""
        for transfer in {**source.sending, **target.receiving}:
            sender, receiver = transfer.source, transfer.target
            rate = min(sender.bandwidth / len(sender.sending), receiver.bandwidth / len(receiver.receiving))
            if rate != transfer.rate:
                self._set_rate(transfer, rate)

    def _set_rate(self, transfer: Transfer, rate: float) -> None:
        now = self._clock.now
        passed = now - transfer.since
        if passed > 0:
            transfer.left = max(0.0, transfer.left - passed * transfer.rate)
        transfer.since = now
        transfer.rate = rate
        transfer.version += 1
        seconds = 0.0 if math.isinf(rate) else transfer.left / rate
        self._clock.after(seconds, self._end, transfer, transfer.version)

    def _end(self, transfer: Transfer, version: int) -> None:
        if transfer.version != version:
            return  # its rate has changed since, or it was cut off
        self._remove(transfer)
        self._share(transfer.source, transfer.target)
        transfer.finished()
