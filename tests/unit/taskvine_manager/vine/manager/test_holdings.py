"""What there is of results and temp files."""

from __future__ import annotations

from taskvine_manager.runtime import failure
from taskvine_manager.vine.manager.events import Adopt, Discard, Drop, Instruction, Lost, Prune, Release
from taskvine_manager.vine.manager.holdings import Holdings
from taskvine_manager.vine.manager.records import HOME, Flight


class Held:
    """Holdings, what they say, and which files invocations wait for."""

    def __init__(self) -> None:
        self.said: list[Instruction] = []
        self.needed: set[str] = set()
        self.files = Holdings(self.said.append, lambda name: name in self.needed)

    def make(self, name: str, number: int, *reads: str) -> Flight:
        flight = Flight(number)
        self.files.expect(name, flight, reads, recoverable=True)
        self.files.made(name, 10, "node")
        self.files.land(flight)
        return flight


def test_file_goes_with_what_could_make_it_again() -> None:
    held = Held()
    held.make("x", 1)
    held.files.remove("x")
    assert held.said == [Drop("x"), Release(1)]
    assert held.files.stored == 0
    assert held.files.most_stored == 10


def test_flight_that_is_under_way_is_let_go_as_it_lands() -> None:
    held = Held()
    flight = Flight(1)
    for name in "xy":
        held.files.expect(name, flight, (), recoverable=True)
    held.files.abandon("x")
    held.files.abandon("y")
    assert held.said == [Drop("x"), Drop("y")]
    held.files.land(flight)
    assert held.said[2:] == [Release(1)]


def test_long_chain_is_pruned_and_dropped_with_its_last_file() -> None:
    held = Held()
    held.make("x0", 0)
    for number in range(1, 5000):  # more than Python's stack would hold
        held.make(f"x{number}", number, f"x{number - 1}")
        held.files.remove(f"x{number - 1}")
    assert [type(said) for said in held.said] == [Prune] * 4999
    assert held.files.stored == 10
    held.said.clear()
    held.files.remove("x4999")
    assert {said.file for said in held.said if isinstance(said, Drop)} == {f"x{number}" for number in range(5000)}
    assert {said.flight for said in held.said if isinstance(said, Release)} == set(range(5000))


def test_result_in_a_file_is_kept_while_its_readers_may_be_recreated() -> None:
    held = Held()
    held.files.values.update(small=b"1", large="/spool/v")
    for number, name in enumerate("xy"):
        flight = Flight(number)
        held.files.expect(name, flight, (), ("large",), recoverable=True)
        held.files.made(name, 10, "node")
        held.files.land(flight)
    assert held.files.forget("small")
    assert held.files.forget("large")
    assert held.said == [Discard(b"1")]
    held.files.remove("x")
    assert held.said[1:] == [Drop("x"), Release(0)]
    held.files.remove("y")
    assert held.said[3:] == [Drop("y"), Release(1), Discard("/spool/v")]


def test_file_of_a_try_that_was_lost_goes_with_the_next() -> None:
    held = Held()
    lost, again = Flight(1), Flight(2)
    held.files.expect("x", lost, (), recoverable=True)
    held.files.land(lost)
    held.files.expect("x", again, (), recoverable=True)
    assert held.said == [Drop("x"), Release(1)]
    assert held.files.temps["x"].flight is again


def test_forgotten_file_stays_for_those_that_read_it() -> None:
    held = Held()
    held.make("x", 1)
    held.files.values["v"] = "/spool/v"
    held.needed = {"x", "v"}
    assert not held.files.forget("x")
    assert not held.files.forget("v")
    assert held.said == []
    held.needed = set()
    assert held.files.tidy("x")
    assert held.files.tidy("v")
    assert held.said == [Drop("x"), Release(1), Discard("/spool/v")]
    assert not held.files.tidy("x")


def test_forgotten_file_is_waited_for_while_it_is_made() -> None:
    held = Held()
    flight = Flight(1)
    held.files.expect("x", flight, (), recoverable=True)
    assert not held.files.forget("x")
    assert held.said == []
    held.files.made("x", 5, "node")
    assert held.files.tidy("x")


def test_those_who_ask_for_what_is_never_made_are_told() -> None:
    held = Held()
    held.files.expect("x", Flight(1), (), recoverable=True)
    held.files.ask("x", 7)
    held.files.abandon("x")
    lost = held.said[1]
    assert isinstance(lost, Lost)
    assert (lost.request, failure.lost_file(lost.record)) == (7, "x")
    assert held.files.asked("x") == []


def test_result_that_has_come_home_needs_no_flight() -> None:
    held = Held()
    held.files.adopt("r", "/spool/r", 99)
    assert held.said == [Adopt("r", "/spool/r")]
    assert (held.files.temps["r"].node, held.files.stored) == (HOME, 99)
    held.files.remove("r")
    assert held.said[1:] == [Drop("r")]
