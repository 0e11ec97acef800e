"""Cached files that a node has lost or that are damaged."""

from __future__ import annotations

import pytest

from taskvine_manager.runtime import failure
from taskvine_manager.vine.manager import events
from taskvine_manager.vine.manager.core import Core
from taskvine_manager.vine.manager.events import Finish, Launch
from taskvine_manager.vine.manager.workload import MOST_RENEWALS
from taskvine_manager.wire.messages import Completion, FileUse, Invocation
from tests.unit.taskvine_manager.vine.manager.cores import PROFILE, of, returned, said, started, submitted


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


def with_temps(core: Core, *names: str, recoverable: bool = True) -> None:
    """Have a node make temp files."""
    profile = PROFILE._replace(number=1, recoverable=recoverable)
    for number, name in enumerate(names, 100):
        core.handle(submitted(Invocation(number, 1, b"", (), (FileUse("temp", name, name),)), profile=profile))
        (launch,) = core.handle(events.Cycle())
        core.handle(events.Answered(launch.parcel.number, "h:1", [returned(number, name)]))


def reader(core: Core, *names: str) -> Launch:
    """Submit a call that reads these files and a file of the user; it runs on a node."""
    uses = (*(FileUse("temp", name, name) for name in names), FileUse("local", "given", "/given"))
    core.handle(submitted(Invocation(1, 0, b"", uses)))
    (launch,) = core.handle(events.Cycle())
    core.handle(events.Placed({launch.parcel.number: "h:1"}))
    assert isinstance(launch, Launch)
    return launch


def probes(core: Core, launch: Launch) -> dict[str, int]:
    """Return the parcels that look for each input on the node that gave a call up."""
    sent = of(Launch, core.handle(events.Failed(launch.parcel.number, "forsaken")))
    assert {(probe.parcel.kind, probe.feature, len(probe.inputs)) for probe in sent} == {("hello", "b0-1", 1)}
    return {probe.inputs[0].source: probe.parcel.number for probe in sent}


def test_inputs_of_a_given_up_task_are_examined() -> None:
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


def test_functions_and_shared_arguments_are_examined() -> None:
    core = started(local=False)
    call = Invocation(1, 0, "/spool/sharing1-a", (FileUse("local", "given", "/given"),))
    core.handle(events.Submitted((("f", "/spool/function"),), (PROFILE,), [call]))
    (launch,) = core.handle(events.Cycle())
    core.handle(events.Placed({launch.parcel.number: "h:1"}))
    assert isinstance(launch, Launch)
    sent = probes(core, launch)
    assert sorted(sent) == ["/given", "/spool/function", "/spool/sharing1-a.0"]
    told = [each for parcel in sent.values() for each in core.handle(events.Failed(parcel, "forsaken"))]
    assert {each.file for each in of(events.Renew, told)} == set(sent)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_producer_node_decides_on_an_unrecoverable_file(elsewhere: bool) -> None:
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


def test_task_with_all_inputs_is_charged() -> None:
    core = started(max_retries=0)
    with_temps(core, "a")
    sent = probes(core, reader(core, "a"))
    told = [each for parcel in sent.values() for each in core.handle(events.Answered(parcel, "h:1", []))]
    assert of(events.Renew, told) == []
    (finish,) = of(Finish, told)
    assert failure.lost_kind(finish.completion.body) == "node-lost"


def test_node_lost_during_examination_damaged_nothing() -> None:
    core = started(max_retries=0)
    with_temps(core, "a")
    probes(core, reader(core, "a"))
    told = core.handle(events.Connected({}, ("h:1",), 1.0))
    assert of(events.Renew, told) == []
    assert len(of(Finish, told)) == 1


def test_task_that_is_cancelled_meanwhile_stays_so() -> None:
    core = started()
    with_temps(core, "a")
    sent = probes(core, reader(core, "a"))
    core.handle(events.Cancelled((1,)))
    for parcel in sent.values():
        core.handle(events.Failed(parcel, "forsaken"))
    assert core.handle(events.Cycle()) == []
    assert core.workload.tasks == {}


@pytest.mark.parametrize("recoverable", [True, False])
def test_truncated_input_is_recreated_a_few_times(recoverable: bool) -> None:
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


def test_file_truncated_on_its_way_home_is_recreated() -> None:
    core = started()
    with_temps(core, "a")
    assert core.handle(events.CutShort("a")) == [events.Renew("a", True)]
    (launch,) = of(Launch, core.handle(events.Wanted("a", 0)))
    told = core.handle(events.Failed(launch.parcel.number, "forsaken"))
    assert of(events.Renew, told) == [events.Renew("a", True)]
    assert of(events.Fetched, told) == [events.Fetched(launch.parcel.number, "a", False)]
