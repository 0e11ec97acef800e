"""The core alone: events in, instructions out."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from taskvine_manager.runtime import failure
from taskvine_manager.vine.manager import events
from taskvine_manager.vine.manager.events import Finish, Launch, Staged
from taskvine_manager.vine.manager.sent import Errand
from taskvine_manager.wire.messages import Completion, FileUse, Invocation, Library, Profile
from tests.unit.taskvine_manager.vine.manager.cores import PROFILE, new_core, of, returned, said, started, submitted


def test_tasks_are_launched_only_in_a_cycle() -> None:
    core = started()
    assert core.handle(submitted(Invocation(1, 0, b""))) == []
    (launch,) = core.handle(events.Cycle())
    assert (launch.parcel.kind, launch.parcel.brief, launch.feature) == ("run", True, "b0-1")
    assert launch.parcel.invocations == (tuple(Invocation(1, 0, b"")),)
    assert launch.parcel.functions == (("f", b"function"),)


def test_answer_finishes_a_task_and_releases_its_parcel() -> None:
    core = started()
    core.handle(submitted(Invocation(1, 0, "/spool/arguments")))
    (launch,) = core.handle(events.Cycle())
    done = returned(1)
    assert core.handle(events.Answered(launch.parcel.number, "h:1", [done])) == [
        Finish(done),
        events.Discard("/spool/arguments"),
        events.Release(launch.parcel.number),
    ]
    assert core.workload.tasks == {}


def test_kind_with_large_results_gets_an_answer_file() -> None:
    core = started()
    brief = []
    for body in (b"x" * 1000, b"", b""):
        core.handle(submitted(Invocation(1, 0, b"")))
        (launch,) = core.handle(events.Cycle())
        brief.append(launch.parcel.brief)
        core.handle(events.Answered(launch.parcel.number, "h:1", [returned(1, body=body)]))
    assert brief == [True, False, False]


def test_minimum_running_time_of_a_batch_is_its_longest() -> None:
    core = started()
    core.handle(submitted(Invocation(1, 0, b"")))
    (launch,) = core.handle(events.Cycle())
    assert launch.running_time_min == 0.0
    core.handle(events.Answered(launch.parcel.number, "h:1", [returned(1, seconds=0.001)]))
    times = [None, 20.0, 5.0]
    for number, seconds in enumerate(times):
        profile = PROFILE._replace(number=number, running_time_min=seconds)
        core.handle(
            submitted(*(Invocation(10 * (number + 1) + each, number, b"") for each in range(2)), profile=profile)
        )
    launches = of(Launch, core.handle(events.Cycle()))
    for launch in launches:
        said = [times[item[1]] or 0.0 for item in launch.parcel.invocations]
        assert launch.running_time_min == max(said)
    assert sum(len(launch.parcel.invocations) for launch in launches) == 6
    assert any(len({item[1] for item in launch.parcel.invocations}) > 1 for launch in launches)


def test_late_answer_changes_nothing() -> None:
    core = started(max_retries=0)
    core.handle(submitted(Invocation(1, 0, b"")))
    (launch,) = core.handle(events.Cycle())
    core.handle(events.Placed({launch.parcel.number: "h:1"}))
    instructions = core.handle(events.Connected({}, ("h:1",), 1.0))
    assert [type(each) for each in instructions][:1] == [events.Abort]
    assert of(Finish, instructions)[0].completion.outcome == failure.LOST
    for event in (
        events.Answered(launch.parcel.number, "h:1", [returned(1)]),
        events.Failed(launch.parcel.number, "forsaken"),
        events.Refused(launch.parcel.number, b""),
        events.Placed({launch.parcel.number: "h:1"}),
    ):
        assert core.handle(event) == []


def test_failed_launch_has_a_reason() -> None:
    core = started()
    core.handle(submitted(Invocation(1, 0, b"", (FileUse("local", "a", "/no/a"),))))
    (launch,) = core.handle(events.Cycle())
    assert launch.inputs == (Staged("local", "/no/a", "i0"),)
    record = failure.lost("file-missing", "it is not there", path="/no/a")
    (finish,) = of(Finish, core.handle(events.Refused(launch.parcel.number, record)))
    assert finish.completion.body == record


def test_every_end_of_a_parcel_frees_its_resources() -> None:
    core = started(max_retries=None)
    profile = PROFILE._replace(cores=2.0)
    for number, end in enumerate(
        (
            lambda parcel, number: events.Answered(parcel, "h:1", [returned(number)]),
            lambda parcel, number: events.Failed(parcel, "input missing"),
            lambda parcel, number: events.Refused(parcel, b""),
            lambda parcel, number: events.Cancelled((number,)),
        )
    ):
        core.handle(submitted(Invocation(number, 0, b""), profile=profile))
        (launch,) = of(Launch, core.handle(events.Cycle()))
        core.handle(end(launch.parcel.number, number))
        assert core.fleet.nodes["h:1"].room.busy.cores == 0.0


@pytest.mark.parametrize("made", [True, False])
def test_values_travel_with_arguments_and_files_by_taskvine(made: bool) -> None:
    core = started()
    core.handle(submitted(Invocation(1, 0, b"", (), (FileUse("value", "", "r1"),))))
    (launch,) = core.handle(events.Cycle())
    assert launch.outputs == (Staged("temp", "r1", "o0"),)
    done = returned(1, *(["r1"] if made else []), body="" if made else b"small")
    instructions = core.handle(events.Answered(launch.parcel.number, "h:1", [done]))
    assert Finish(done, "r1") in instructions
    assert (events.Drop("r1") in instructions) is not made
    core.handle(submitted(Invocation(2, 0, b"", (FileUse("value", "", "r1"),))))
    (reading,) = core.handle(events.Cycle())
    assert (reading.parcel.values, reading.near) == ((None, True) if made else ({"r1": b"small"}, False))


def test_cancelled_task_that_fits_no_node_does_not_fail() -> None:
    core = new_core()
    core.handle(submitted(Invocation(1, 0, b""), profile=PROFILE._replace(cores=64.0)))
    core.handle(events.Cancelled((1,)))
    assert of(Finish, core.handle(events.Connected({"h:1": said("b0-1")}, (), 0.0))) == []
    assert core.workload.done == 0


def test_forgotten_file_without_readers_is_removed_once_made() -> None:
    core = started()
    use = FileUse("temp", "x", "x@1")
    core.handle(submitted(Invocation(1, 0, b"", (), (use,)), Invocation(2, 0, b"", (use,))))
    (launch,) = core.handle(events.Cycle())
    core.handle(events.Forgotten(("x@1",)))
    core.handle(events.Cancelled((2,)))
    done = returned(1, "x@1")
    number = launch.parcel.number
    told = core.handle(events.Answered(number, "h:1", [done]))
    assert told == [Finish(done), events.Drop("x@1"), events.Release(number)]


def test_forgotten_file_of_a_cancelled_task_leaves_no_record() -> None:
    core = started()
    core.handle(submitted(Invocation(1, 0, b"", (), (FileUse("temp", "x", "x@1"),))))
    core.handle(events.Cancelled((1,)))
    core.handle(events.Forgotten(("x@1",)))
    assert core.files.unwanted == set()


def test_missing_library_is_installed_again() -> None:
    core = started(max_retries=1)
    core.handle(submitted(Invocation(1, 0, b"")))
    (launch,) = core.handle(events.Cycle())
    instructions = core.handle(events.Failed(launch.parcel.number, "missing library"))
    assert instructions[0] == events.Reinstall()
    assert of(events.RunAgain, instructions)[0].number == 1


PROFILES = (
    PROFILE,
    PROFILE._replace(number=1, recoverable=False),
    PROFILE._replace(number=2, cores=2.0, category="large"),
    PROFILE._replace(number=3, cores=64.0, category="hopeless"),
    PROFILE._replace(number=4, category="model", library=Library("model", 1, None, 1)),
    PROFILE._replace(number=5, category="other", library=Library("other", None, 2000.0, 0.5)),
    PROFILE._replace(number=6, category="part", gpus=0.4),
    PROFILE._replace(number=7, category="memory", gpu_memory=600.0),
)


class Cluster(RuleBasedStateMachine):
    """Whatever happens, each task finishes once, no file is lost, and everything sent is released.

    After each event, the core checks its invariants.
    """

    @initialize(max_retries=st.sampled_from([None, 0, 1]), uniform=st.booleans())
    def begin(self, max_retries: int | None, uniform: bool) -> None:
        self.core = new_core(max_retries=max_retries, uniform=uniform, idle_timeout=5.0)
        self.numbers = itertools.count(1)
        self.addresses = itertools.count(1)
        self.nodes: set[str] = set()
        self.out: dict[int, Launch] = {}
        self.held: Counter[int] = Counter()
        self.declared: set[str] = set()
        self.files: list[str] = []
        self.open: set[int] = set()
        self.asked: dict[int, str] = {}
        self.now = 0.0

    def tell(self, event: events.Event) -> None:
        for each in self.core.handle(event):
            if isinstance(each, Launch):
                assert each.parcel.number not in self.out
                for staged in each.inputs:
                    assert staged.kind != "temp" or staged.source in self.declared
                self.declared |= {staged.source for staged in each.outputs if staged.kind == "temp"}
                self.out[each.parcel.number] = each
                self.held[each.parcel.number] = 1
            elif isinstance(each, events.Abort):
                del self.out[each.parcel]
            elif isinstance(each, events.Release):
                assert each.parcel not in self.out
                self.held.pop(each.parcel, None)
            elif isinstance(each, events.Drop):
                self.declared.discard(each.file)
            elif isinstance(each, Finish):
                self.open.remove(each.completion.number)
            elif isinstance(each, events.Locate | events.Lost):
                del self.asked[each.request]

    @rule()
    def join(self) -> None:
        number = next(self.addresses)
        self.nodes.add(f"h:{number}")
        self.tell(events.Connected({f"h:{number}": said(f"b{number}-{number}")}, (), self.now))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.nodes)))
        self.nodes.discard(address)
        self.tell(events.Connected({}, (address,), self.now))

    @rule(count=st.integers(2, 9))
    def submit_many(self, count: int) -> None:
        numbers = list(itertools.islice(self.numbers, count))
        self.open.update(numbers)
        self.tell(submitted(*(Invocation(number, 0, b"") for number in numbers)))

    @rule(
        makes=st.sampled_from(["", "temp", "value"]),
        reads=st.booleans(),
        replicas=st.sampled_from([0, 2]),
        profile=st.sampled_from(PROFILES),
        data=st.data(),
    )
    def submit(self, makes: str, reads: bool, replicas: int, profile: Profile, data: st.DataObject) -> None:
        number = next(self.numbers)
        read = data.draw(st.sampled_from(self.files)) if reads and self.files else ""
        inputs = (FileUse("temp" if read.startswith("temp") else "value", "in", read),) if read else ()
        name = f"{makes}@{number}"
        outputs = (FileUse(makes, "out", name, replicas if makes == "temp" else 0),) if makes else ()
        if makes:
            self.files.append(name)
        self.open.add(number)
        self.tell(submitted(Invocation(number, profile.number, b"", inputs, outputs), profile=profile))

    @rule(is_placed=st.booleans())
    def turn(self, is_placed: bool = True) -> None:
        self.tell(events.Cycle())
        placed = {
            number: address
            for number, launch in self.out.items()
            for address in self.nodes
            if launch.feature == self.core.fleet.nodes[address].name
        }
        if is_placed:
            self.tell(events.Placed(placed))

    @precondition(lambda self: self.out)
    @rule(
        data=st.data(),
        how=st.sampled_from(["returned", "raised", "cut short", "forsaken", "input missing", "refused"]),
        seconds=st.sampled_from([0.0001, 0.5]),
    )
    def end(self, data: st.DataObject, how: str, seconds: float) -> None:
        self.end_one(data.draw(st.sampled_from(sorted(self.out))), how, seconds)

    @rule()
    def serve(self) -> None:
        """End all parcels quickly; then launch what fits."""
        for number in list(self.out):
            self.end_one(number, "returned", 0.0001)
        self.turn()

    def end_one(self, number: int, how: str, seconds: float) -> None:
        launch = self.out.pop(number)
        address = next(sent.where for sent in self.core.parts.sent if sent.number == number) or "h:0"
        if how == "refused":
            self.tell(events.Refused(number, failure.lost("file-missing", "gone")))
        elif how in ("returned", "raised", "cut short"):
            outcome = {"returned": failure.RETURNED, "raised": failure.RAISED}.get(how, failure.LOST)
            body = failure.lost("file-lost", "it was cut short", name="temp@1") if how == "cut short" else b"N."
            made = tuple((staged.source, 5, 0) for staged in launch.outputs) if how == "returned" else ()
            completions = [
                Completion(item[0], outcome, body, "b0-1", 1.0, 1.0, seconds, made)
                for item in launch.parcel.invocations
            ]
            self.tell(events.Answered(number, address, completions))
        else:
            self.tell(events.Failed(number, how))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        self.open.discard(number)
        self.tell(events.Cancelled((number,)))

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.files))
        self.files.remove(name)
        self.tell(events.Forgotten((name,)))

    @precondition(lambda self: self.files)
    @rule(data=st.data(), how=st.sampled_from(["lost", "not remade", "cut short", "wanted"]))
    def find_a_file(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from(self.files))
        event: dict[str, events.Event] = {
            "lost": events.FilesLost((name,)),
            "not remade": events.NotRemade(name, "its task keeps failing"),
            "cut short": events.CutShort(name),
            "wanted": events.Wanted(name, 0),
        }
        self.tell(event[how])

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        request = next(self.numbers)
        self.asked[request] = data.draw(st.sampled_from(self.files))
        self.tell(events.Asked(request, self.asked[request]))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.nodes)))
        self.tell(events.Draining(self.core.fleet.nodes[address].info.block))

    @rule(seconds=st.sampled_from([0.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(events.Clock(self.now))

    @invariant()
    def every_open_task_is_known(self) -> None:
        assert self.core.workload.tasks.keys() == self.open

    @invariant()
    def every_request_waits_or_is_answered(self) -> None:
        assert {request for asked in self.core.files.requests.values() for request in asked} == self.asked.keys()

    @invariant()
    def nothing_is_held_in_vain(self) -> None:
        kept = {temp.parcel.number for temp in self.core.files.temps.values() if temp.parcel is not None}
        kept |= {temp.parcel.number for temp in self.core.files.pruned.values() if temp.parcel is not None}
        assert self.held.keys() == self.out.keys() | kept
        assert self.declared == self.core.files.temps.keys() | self.core.files.pruned.keys()
        assert {sent.number for sent in self.core.parts.sent} == self.out.keys()


TestCluster = Cluster.TestCase


TestCluster.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_request_waits_for_the_producer() -> None:
    core = started()
    core.handle(submitted(Invocation(1, 0, b"", (), (FileUse("temp", "x", "x@1"),))))
    (launch,) = core.handle(events.Cycle())
    assert core.handle(events.Asked(7, "x@1")) == []
    instructions = core.handle(events.Answered(launch.parcel.number, "h:1", [returned(1, "x@1")]))
    assert events.Locate(7, "x@1") in instructions
    assert core.handle(events.Wanted("never@0", 0))[0].well is False


def test_unrecoverable_file_is_lost() -> None:
    core = started()
    profile = PROFILE._replace(recoverable=False)
    core.handle(submitted(Invocation(1, 0, b"", (), (FileUse("temp", "x", "x@1"),)), profile=profile))
    (launch,) = core.handle(events.Cycle())
    core.handle(events.Answered(launch.parcel.number, "h:1", [returned(1, "x@1")]))
    assert list(core.files.irreplaceable()) == ["x@1"]
    core.handle(submitted(Invocation(2, 0, b"", (FileUse("temp", "x", "x@1"),))))
    for event in (events.FilesLost(("x@1",)), submitted(Invocation(3, 0, b"", (FileUse("temp", "x", "x@1"),)))):
        (finish,) = of(Finish, core.handle(event))
        record = pickle.loads(finish.completion.body)
        assert (record["kind"], record["name"], record["node"]) == ("file-lost", "x@1", "b0-1")
    assert list(core.files.irreplaceable()) == []


def test_every_event_and_every_errand_has_a_handler() -> None:
    core = new_core()
    assert core.handlers.keys() == set(events.Event.__subclasses__())
    assert core.errands.keys() == set(get_args(Errand))
