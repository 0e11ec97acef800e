"""Simulated time, and bandwidth that transfers share."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_tune.simulation.network import Clock, Network, Port


class Wires:
    """A network, and the times at which transfers ended."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.network = Network(self.clock)
        self.ended: dict[Any, float] = {}
        self.failed: dict[Any, float] = {}

    def send(self, name: Any, source: Port, target: Port, size: int, at: float = 0.0) -> None:
        def finished() -> None:
            self.ended[name] = self.clock.now

        def failed() -> None:
            self.failed[name] = self.clock.now

        self.clock.after(at, self.network.begin, source, target, size, finished, failed)

    def run(self) -> None:
        while self.clock.step():
            pass


def test_simultaneous_events_keep_their_order() -> None:
    clock, seen = Clock(), list[Any]()
    for name in "abc":
        clock.after(1.0, seen.append, name)
    clock.after(0.5, lambda: clock.after(0.5, seen.append, "d"))
    while clock.step():
        pass
    assert seen == ["a", "b", "c", "d"]
    assert clock.now == 1.0
    assert not clock.step()


def test_transfer_has_the_lower_bandwidth_of_its_ends() -> None:
    wires = Wires()
    wires.send("a", Port(100.0), Port(10.0), 50)
    wires.run()
    assert wires.ended == {"a": 5.0}


def test_port_is_shared_evenly() -> None:
    wires, source = Wires(), Port(10.0)
    wires.send("long", source, Port(math.inf), 100)
    wires.send("short", source, Port(math.inf), 20, at=2.0)
    wires.run()
    # The first has sent 20 of 100 when the second comes, and 20 of 40 in the next 4 s; then it is alone again.
    assert wires.ended == {"short": 6.0, "long": 12.0}


def test_directions_of_a_port_are_independent() -> None:
    wires, here, there = Wires(), Port(10.0), Port(10.0)
    wires.send("out", here, there, 100)
    wires.send("in", there, here, 100)
    wires.run()
    assert wires.ended == {"out": 10.0, "in": 10.0}


def test_empty_or_unlimited_transfer_takes_no_time() -> None:
    wires = Wires()
    wires.send("nothing", Port(1.0), Port(1.0), 0, at=3.0)
    wires.send("unlimited", Port(math.inf), Port(math.inf), 10**12, at=4.0)
    wires.run()
    assert wires.ended == {"nothing": 3.0, "unlimited": 4.0}


def test_cut_port_fails_its_transfers() -> None:
    wires, gone, other = Wires(), Port(10.0), Port(10.0)
    wires.send("from", gone, Port(10.0), 100)
    wires.send("to", other, gone, 100)
    wires.send("beside", other, Port(10.0), 100)
    wires.clock.after(2.0, wires.network.cut, gone)
    wires.run()
    assert wires.failed == {"from": 2.0}
    assert wires.ended == {"beside": 11.0}  # half of the port for 2 s, then all of it
    assert not any((other.sending, gone.sending, gone.receiving))


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=8),
    starts=st.lists(st.floats(0, 50), min_size=8, max_size=8),
)
def test_busy_port_uses_its_bandwidth(sizes: list[int], starts: list[float]) -> None:
    """All bytes arrive, and a source never sends faster than its port, and never idles while it has work."""
    wires, source = Wires(), Port(10.0)
    for place, (size, start) in enumerate(zip(sizes, starts, strict=False)):
        wires.send(place, source, Port(math.inf), size, at=start)
    wires.run()
    busy = 0.0
    for size, start in sorted(zip(sizes, starts, strict=False), key=lambda each: each[1]):
        busy = max(busy, start) + size / 10.0
    assert max(wires.ended.values()) == pytest.approx(busy)
