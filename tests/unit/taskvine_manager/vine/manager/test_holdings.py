"""Results and temp files that exist, and their uses."""

from __future__ import annotations

from taskvine_manager.runtime import failure
from taskvine_manager.vine.manager.events import HOME, Adopt, Discard, Drop, Instruction, Lost, Prune, Release
from taskvine_manager.vine.manager.holdings import Holdings
from taskvine_manager.vine.manager.sent import SentParcel


class Held:
    """Holdings, their instructions, the tasks that wait for files, and the files that were removed unread."""

    def __init__(self) -> None:
        self.said: list[Instruction] = []
        self.needed: set[str] = set()
        self.gone: list[str] = []
        self.files = Holdings(self.said.append, self.readers, self.gone.append)

    def readers(self, name: str) -> list[int]:
        return [1] if name in self.needed else []

    def make(self, name: str, number: int, *reads: str) -> SentParcel:
        sent = SentParcel(number, reads=reads)
        self.files.expect(name, sent, recoverable=True)
        self.files.made(name, 10, "node")
        self.files.release(sent)
        return sent


def test_removed_file_releases_its_parcel() -> None:
    held = Held()
    held.make("x", 1)
    held.files.remove("x")
    assert held.said == [Drop("x"), Release(1)]
    assert held.files.stored == 0
    assert held.files.most_stored == 10


def test_running_parcel_is_released_when_it_ends() -> None:
    held = Held()
    sent = SentParcel(1)
    for name in "xy":
        held.files.expect(name, sent, recoverable=True)
    held.files.abandon("x")
    held.files.abandon("y")
    assert held.said == [Drop("x"), Drop("y")]
    held.files.release(sent)
    assert held.said[2:] == [Release(1)]


def test_long_chain_is_pruned_and_dropped_with_its_last_file() -> None:
    held = Held()
    held.make("x0", 0)
    for number in range(1, 5000):  # deeper than Python's stack allows
        held.make(f"x{number}", number, f"x{number - 1}")
        held.files.remove(f"x{number - 1}")
    assert [type(said) for said in held.said] == [Prune] * 4999
    assert held.files.stored == 10
    held.said.clear()
    held.files.remove("x4999")
    assert {said.file for said in held.said if isinstance(said, Drop)} == {f"x{number}" for number in range(5000)}
    assert {said.parcel for said in held.said if isinstance(said, Release)} == set(range(5000))


def test_result_in_a_file_is_kept_while_its_readers_may_be_recreated() -> None:
    held = Held()
    held.files.keep("small", b"1")
    held.files.keep("large", "/spool/v")
    for number, name in enumerate("xy"):
        sent = SentParcel(number, reads_by_path=("large",))
        held.files.expect(name, sent, recoverable=True)
        held.files.made(name, 10, "node")
        held.files.release(sent)
    held.files.forget("small")
    held.files.forget("large")
    assert held.gone == ["small", "large"]
    assert held.said == [Discard(b"1")]
    held.files.remove("x")
    assert held.said[1:] == [Drop("x"), Release(0)]
    held.files.remove("y")
    assert held.said[3:] == [Drop("y"), Release(1), Discard("/spool/v")]


def test_file_of_a_lost_attempt_is_released_with_the_next() -> None:
    held = Held()
    lost, again = SentParcel(1), SentParcel(2)
    held.files.expect("x", lost, recoverable=True)
    held.files.release(lost)
    held.files.expect("x", again, recoverable=True)
    assert held.said == [Drop("x"), Release(1)]
    assert held.files.temps["x"].parcel is again


def test_forgotten_file_stays_for_those_that_read_it() -> None:
    held = Held()
    held.make("x", 1)
    held.files.keep("v", "/spool/v")
    held.needed = {"x", "v"}
    held.files.forget("x")
    held.files.forget("v")
    assert held.said == held.gone == []
    held.needed = set()
    held.files.tidy("x")
    held.files.tidy("v")
    assert held.said == [Drop("x"), Release(1), Discard("/spool/v")]
    assert held.gone == ["x", "v"]
    held.files.tidy("x")
    assert held.gone == ["x", "v"]


def test_forgotten_file_is_waited_for_while_it_is_made() -> None:
    held = Held()
    sent = SentParcel(1)
    held.files.expect("x", sent, recoverable=True)
    held.files.forget("x")
    assert held.said == []
    held.files.made("x", 5, "node")
    held.files.tidy("x")
    assert held.gone == ["x"]


def test_forgotten_file_without_readers_is_waited_for() -> None:
    held = Held()
    held.files.expect("x", SentParcel(1), recoverable=True)
    held.needed = {"x"}
    held.files.forget("x")
    held.needed = set()
    held.files.tidy("x")
    assert held.said == []
    held.files.made("x", 5, "node")
    held.files.tidy("x")
    assert held.gone == ["x"]


def test_request_for_a_file_that_is_never_made_is_answered() -> None:
    held = Held()
    held.files.expect("x", SentParcel(1), recoverable=True)
    held.files.ask("x", 7)
    held.files.abandon("x")
    lost = held.said[1]
    assert isinstance(lost, Lost)
    assert (lost.request, failure.lost_file(lost.record)) == (7, "x")
    assert held.files.asked("x") == []


def test_result_at_home_needs_no_parcel() -> None:
    held = Held()
    held.files.adopt("r", "/spool/r", 99)
    assert held.said == [Adopt("r", "/spool/r")]
    assert (held.files.temps["r"].node, held.files.stored) == (HOME, 99)
    held.files.remove("r")
    assert held.said[1:] == [Drop("r")]
