"""The core alone: events in, instructions out."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from taskvine_manager.runtime import failure
from taskvine_manager.vine.manager import events
from taskvine_manager.vine.manager.core import Core
from taskvine_manager.vine.manager.events import Finish, Instruction, Launch, Staged
from taskvine_manager.vine.manager.sent import URGENT
from taskvine_manager.vine.manager.workload import MOST_RENEWALS
from taskvine_manager.vine.worker.worker import MARK
from taskvine_manager.wire.messages import L2, Completion, FileUse, Invocation, Profile

PROFILE = Profile(0, "f", "app", L2, None, None, None, None, 0.0, "app")


def said(name: str, cores: int = 2) -> dict[str, Any]:
    return {"arch": MARK + name, "cores_total": cores, "memory_total": 4000, "disk_total": 9000, "gpus_total": 0}


def submitted(*invocations: Invocation, profile: Profile = PROFILE) -> events.Submitted:
    return events.Submitted((("f", b"function"),), (profile,), list(invocations))


def returned(number: int, *made: str, body: bytes | str = b"N.", seconds: float = 0.5) -> Completion:
    files = tuple((name, 5, 0) for name in made)
    return Completion(number, failure.RETURNED, body, "b0-1", 1.0, 1.0, seconds, files)


def of(kind: type, instructions: list[Instruction]) -> list[Any]:
    return [each for each in instructions if isinstance(each, kind)]


def started(**settings: Any) -> Core:
    """A core with one node of two cores that has been greeted."""
    core = Core(**settings)
    (hello,) = of(Launch, core.handle(events.Connected({"h:1": said("b0-1")}, (), 0.0)))
    assert (hello.parcel.kind, hello.priority, hello.feature) == ("hello", URGENT, "b0-1")
    core.handle(events.Answered(hello.parcel.number, "h:1", []))
    return core


def test_nothing_is_launched_before_the_turn() -> None:
    core = started()
    assert core.handle(submitted(Invocation(1, 0, b""))) == []
    (launch,) = core.handle(events.Cycle())
    assert (launch.parcel.kind, launch.parcel.brief, launch.feature) == ("run", True, "b0-1")
    assert launch.parcel.invocations == (tuple(Invocation(1, 0, b"")),)
    assert launch.parcel.functions == (("f", b"function"),)


def test_answer_finishes_a_call_and_lets_its_task_go() -> None:
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


def test_kind_that_is_known_for_large_results_has_a_file_for_its_answer() -> None:
    core = started()
    brief = []
    for body in (b"x" * 1000, b"", b""):
        core.handle(submitted(Invocation(1, 0, b"")))
        (launch,) = core.handle(events.Cycle())
        brief.append(launch.parcel.brief)
        core.handle(events.Answered(launch.parcel.number, "h:1", [returned(1, body=body)]))
    assert brief == [True, False, False]


def test_least_running_time_of_a_batch_is_that_of_its_longest() -> None:
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


def test_late_answer_of_a_flight_that_is_over_changes_nothing() -> None:
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


def test_what_cannot_be_launched_fails_with_its_reason() -> None:
    core = started()
    core.handle(submitted(Invocation(1, 0, b"", (FileUse("local", "a", "/no/a"),))))
    (launch,) = core.handle(events.Cycle())
    assert launch.inputs == (Staged("local", "/no/a", "i0"),)
    record = failure.lost("file-missing", "it is not there", path="/no/a")
    (finish,) = of(Finish, core.handle(events.Refused(launch.parcel.number, record)))
    assert finish.completion.body == record


def test_room_is_given_back_however_a_flight_ends() -> None:
    core = started(max_retries=None)
    profile = PROFILE._replace(cores=2.0)
    for number, end in enumerate(
        (
            lambda flight, number: events.Answered(flight, "h:1", [returned(number)]),
            lambda flight, number: events.Failed(flight, "input missing"),
            lambda flight, number: events.Refused(flight, b""),
            lambda flight, number: events.Cancelled((number,)),
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


def test_large_result_that_has_come_home_is_kept_for_its_readers() -> None:
    core = started(local=False)
    first = Invocation(1, 0, b"")
    core.handle(submitted(first))
    (launch,) = core.handle(events.Cycle())
    core.handle(events.Answered(launch.parcel.number, "h:1", [returned(1, body=b"small")]))
    core.handle(submitted(Invocation(2, 0, b"", (), (FileUse("value", "", "r2"),))))
    (launch,) = core.handle(events.Cycle())
    assert launch.outputs == ()
    done = returned(2, body="/spool/value")
    instructions = core.handle(events.Answered(launch.parcel.number, "h:1", [done], spooled={"/spool/value": 99}))
    assert events.Adopt("r2", "/spool/value") in instructions
    assert core.files.temps["r2"].size == core.files.most_stored == 99


def test_cancelled_task_that_fits_no_node_does_not_fail() -> None:
    core = Core()
    core.handle(submitted(Invocation(1, 0, b""), profile=PROFILE._replace(cores=64.0)))
    core.handle(events.Cancelled((1,)))
    assert of(Finish, core.handle(events.Connected({"h:1": said("b0-1")}, (), 0.0))) == []
    assert core.workload.done == 0


def test_missing_library_is_installed_again() -> None:
    core = started(max_retries=1)
    core.handle(submitted(Invocation(1, 0, b"")))
    (launch,) = core.handle(events.Cycle())
    instructions = core.handle(events.Failed(launch.parcel.number, "missing library"))
    assert instructions[0] == events.Reinstall()
    assert of(events.Again, instructions)[0].number == 1


class Cluster(RuleBasedStateMachine):
    """Whatever happens, each call finishes once, nothing is lost, and what is given out is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Core(max_retries=1)
        self.numbers = itertools.count(1)
        self.addresses = itertools.count(1)
        self.nodes: set[str] = set()
        self.out: dict[int, Launch] = {}
        self.held: Counter[int] = Counter()
        self.declared: set[str] = set()
        self.files: list[str] = []
        self.open: set[int] = set()
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

    @rule(makes=st.booleans(), reads=st.booleans(), data=st.data())
    def submit(self, makes: bool, reads: bool, data: st.DataObject) -> None:
        number = next(self.numbers)
        inputs = (FileUse("temp", "in", data.draw(st.sampled_from(self.files))),) if reads and self.files else ()
        outputs = (FileUse("temp", "out", f"x@{number}"),) if makes else ()
        if makes:
            self.files.append(f"x@{number}")
        self.open.add(number)
        self.tell(submitted(Invocation(number, 0, b"", inputs, outputs)))

    @rule()
    def turn(self) -> None:
        self.tell(events.Cycle())
        placed = {
            number: address
            for number, launch in self.out.items()
            for address in self.nodes
            if launch.feature == self.core.fleet.nodes[address].name
        }
        self.tell(events.Placed(placed))

    @precondition(lambda self: self.out)
    @rule(
        data=st.data(),
        how=st.sampled_from(["returned", "raised", "forsaken", "input missing", "refused"]),
        seconds=st.sampled_from([0.0001, 0.5]),
    )
    def end(self, data: st.DataObject, how: str, seconds: float) -> None:
        self.end_one(data.draw(st.sampled_from(sorted(self.out))), how, seconds)

    @rule()
    def serve(self) -> None:
        """All that is out returns, quickly; then what there is room for is launched."""
        for number in list(self.out):
            self.end_one(number, "returned", 0.0001)
        self.turn()

    def end_one(self, number: int, how: str, seconds: float) -> None:
        launch = self.out.pop(number)
        address = self.core._sent.get(number).where or "h:0"
        if how == "refused":
            self.tell(events.Refused(number, failure.lost("file-missing", "gone")))
        elif how in ("returned", "raised"):
            outcome = failure.RETURNED if how == "returned" else failure.RAISED
            made = tuple((staged.source, 5, 0) for staged in launch.outputs) if how == "returned" else ()
            completions = [
                Completion(item[0], outcome, b"N.", "b0-1", 1.0, 1.0, seconds, made)
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

    @invariant()
    def every_open_call_is_known(self) -> None:
        assert self.core.workload.tasks.keys() == self.open

    @invariant()
    def nothing_is_held_in_vain(self) -> None:
        kept = {temp.parcel.number for temp in self.core.files.temps.values() if temp.parcel is not None}
        kept |= {temp.parcel.number for temp in self.core.files._pruned.values() if temp.parcel is not None}
        assert self.held.keys() == self.out.keys() | kept
        assert self.declared == self.core.files.temps.keys() | self.core.files._pruned.keys()
        for node in self.core.fleet.nodes.values():
            if not any(launch.feature == node.name for launch in self.out.values()):
                assert (node.room.busy.cores, node.room.batches) == (0.0, 0)


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_request_for_what_is_yet_to_be_made_is_kept() -> None:
    core = started()
    core.handle(submitted(Invocation(1, 0, b"", (), (FileUse("temp", "x", "x@1"),))))
    (launch,) = core.handle(events.Cycle())
    assert core.handle(events.Asked(7, "x@1")) == []
    instructions = core.handle(events.Answered(launch.parcel.number, "h:1", [returned(1, "x@1")]))
    assert events.Locate(7, "x@1") in instructions
    assert core.handle(events.Wanted("never@0", 0))[0].well is False


def test_file_that_is_not_to_be_made_again_is_lost_for_good() -> None:
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


# --- cached files that a node has lost or spoiled ---


def with_temps(core: Core, *names: str, recoverable: bool = True) -> None:
    """Have a node make temp files."""
    profile = PROFILE._replace(number=1, recoverable=recoverable)
    for number, name in enumerate(names, 100):
        core.handle(submitted(Invocation(number, 1, b"", (), (FileUse("temp", name, name),)), profile=profile))
        (launch,) = core.handle(events.Cycle())
        core.handle(events.Answered(launch.parcel.number, "h:1", [returned(number, name)]))


def reader(core: Core, *names: str) -> Launch:
    """A call that reads them and a file of the user's, and is on a node."""
    uses = (*(FileUse("temp", name, name) for name in names), FileUse("local", "given", "/given"))
    core.handle(submitted(Invocation(1, 0, b"", uses)))
    (launch,) = core.handle(events.Cycle())
    core.handle(events.Placed({launch.parcel.number: "h:1"}))
    assert isinstance(launch, Launch)
    return launch


def probes(core: Core, launch: Launch) -> dict[str, int]:
    """The flights that look for each input on the node that gave a call up."""
    sent = of(Launch, core.handle(events.Failed(launch.parcel.number, "forsaken")))
    assert {(probe.parcel.kind, probe.feature, len(probe.inputs)) for probe in sent} == {("hello", "b0-1", 1)}
    return {probe.inputs[0].source: probe.parcel.number for probe in sent}


def test_each_input_of_a_call_that_was_given_up_is_looked_for() -> None:
    core = started(max_retries=0)
    with_temps(core, "a", "b")
    sent = probes(core, reader(core, "a", "b"))
    assert sorted(sent) == ["/given", "a", "b"]
    assert core.handle(events.Cycle()) == [], "it waits for what is found"
    assert core.handle(events.Answered(sent["b"], "h:1", [])) == [events.Release(sent["b"])]
    core.handle(events.Failed(sent["a"], "forsaken"))
    found = core.handle(events.Failed(sent["/given"], "forsaken"))
    assert of(events.Renew, found) == [events.Renew("a", True), events.Renew("/given", True)]
    assert of(Finish, found) == []
    (launch,) = core.handle(events.Cycle())
    assert launch.parcel.kind == "run"
    core.handle(events.Answered(launch.parcel.number, "h:1", [returned(1)]))
    assert (core.workload.tasks, core.workload.retried) == ({}, 0)


def test_functions_and_shared_arguments_are_looked_for_too() -> None:
    core = started(local=False)
    call = Invocation(1, 0, "/spool/sharing1-a", (FileUse("local", "given", "/given"),))
    core.handle(events.Submitted((("f", "/spool/function"),), (PROFILE,), [call]))
    (launch,) = core.handle(events.Cycle())
    core.handle(events.Placed({launch.parcel.number: "h:1"}))
    assert isinstance(launch, Launch)
    sent = probes(core, launch)
    assert sorted(sent) == ["/given", "/spool/function", "/spool/sharing1-a.0"]
    told = [each for flight in sent.values() for each in core.handle(events.Failed(flight, "forsaken"))]
    assert {each.file for each in of(events.Renew, told)} == set(sent)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_node_that_made_what_must_not_be_made_again_has_the_last_word(elsewhere: bool) -> None:
    core = started()
    with_temps(core, "a", recoverable=False)
    core.handle(events.Connected({"h:2": said("b0-2")}, (), 0.0))
    launch = reader(core, "a")
    if elsewhere:  # a transfer from the node that made it may have failed
        core.files.temps["a"].node = "b0-2"
    sent = probes(core, launch)
    core.handle(events.Answered(sent["/given"], "h:1", []))
    told = core.handle(events.Failed(sent["a"], "forsaken"))
    if not elsewhere:
        assert of(events.Renew, told) == [events.Renew("a", False)]
        return
    (probe,) = of(Launch, told)
    assert probe.feature == "b0-2"
    assert of(events.Renew, core.handle(events.Answered(probe.parcel.number, "h:2", []))) == []


def test_call_whose_inputs_are_all_there_is_charged_as_before() -> None:
    core = started(max_retries=0)
    with_temps(core, "a")
    sent = probes(core, reader(core, "a"))
    told = [each for flight in sent.values() for each in core.handle(events.Answered(flight, "h:1", []))]
    assert of(events.Renew, told) == []
    (finish,) = of(Finish, told)
    assert failure.lost_kind(finish.completion.body) == "node-lost"


def test_node_that_goes_while_it_is_looked_at_has_spoiled_nothing() -> None:
    core = started(max_retries=0)
    with_temps(core, "a")
    probes(core, reader(core, "a"))
    told = core.handle(events.Connected({}, ("h:1",), 1.0))
    assert of(events.Renew, told) == []
    assert len(of(Finish, told)) == 1


def test_call_that_is_cancelled_meanwhile_stays_so() -> None:
    core = started()
    with_temps(core, "a")
    sent = probes(core, reader(core, "a"))
    core.handle(events.Cancelled((1,)))
    for flight in sent.values():
        core.handle(events.Failed(flight, "forsaken"))
    assert core.handle(events.Cycle()) == []
    assert core.workload.tasks == {}


@pytest.mark.parametrize("recoverable", [True, False])
def test_input_that_is_not_whole_is_made_again_a_few_times(recoverable: bool) -> None:
    core = started(max_retries=0)
    with_temps(core, "a", recoverable=recoverable)
    launch, renewed = reader(core, "a"), 0
    record = failure.lost("file-lost", "a: it was cut short", name="a")
    while True:
        cut = Completion(1, failure.LOST, record, "b0-1", 1.0, 0.0, 0.0)
        told = core.handle(events.Answered(launch.parcel.number, "h:1", [cut]))
        assert of(events.Renew, told) == [events.Renew("a", recoverable)]
        renewed += 1
        if finished := of(Finish, told):
            break
        (launch,) = core.handle(events.Cycle())
    assert finished[0].completion.body == record
    assert renewed == MOST_RENEWALS + 1


def test_file_that_was_found_cut_short_while_it_came_home_is_made_again() -> None:
    core = started()
    with_temps(core, "a")
    assert core.handle(events.CutShort("a")) == [events.Renew("a", True)]
    (launch,) = of(Launch, core.handle(events.Wanted("a", 0)))
    told = core.handle(events.Failed(launch.parcel.number, "forsaken"))
    assert of(events.Renew, told) == [events.Renew("a", True)]
    assert of(events.Fetched, told) == [events.Fetched(launch.parcel.number, "a", False)]
