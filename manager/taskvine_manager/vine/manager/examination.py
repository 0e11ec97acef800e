"""The search for an input that a node has lost.

A worker gives a task up if a file is missing from its cache. TaskVine does not say which file, and would send the task
there for ever. Each cached input is therefore read on that node by a parcel of its own, a probe.
"""

from __future__ import annotations

from taskvine_manager.runtime import failure
from taskvine_manager.vine.manager import failures
from taskvine_manager.vine.manager.events import Launch, Staged
from taskvine_manager.vine.manager.fleet import Fleet
from taskvine_manager.vine.manager.holdings import Holdings
from taskvine_manager.vine.manager.sent import Case, Probe, SentParcel, SentParcels
from taskvine_manager.vine.manager.tasks import State
from taskvine_manager.vine.manager.workload import Workload
from taskvine_manager.vine.parcels import Parcel


class Examination:
    """Finds out which inputs a node has lost, and retries the tasks that it gave up.

    Parameters
    ----------
    files : Holdings
        The temp files.
    fleet : Fleet
        The workers.
    sent : SentParcels
        The parcels that TaskVine has.
    workload : Workload
        The unfinished tasks.
    """

    def __init__(self, files: Holdings, fleet: Fleet, sent: SentParcels, workload: Workload) -> None:
        self._files = files
        self._fleet = fleet
        self._sent = sent
        self._workload = workload

    def begin(self, sent: SentParcel) -> bool:
        """Examine the inputs of a parcel that its node gave up; return whether there is anything to find out."""
        node = self._fleet.nodes.get(str(sent.where))
        tasks = [task for task in sent.tasks.values() if task.state is not State.DONE]
        needed = {use.source for task in tasks for use in task.invocation.inputs}
        over = {use.source for task in sent.tasks.values() for use in task.invocation.inputs} - needed
        files = [file for file in sent.given if file not in over]  # includes functions and shared arguments
        if not tasks or not files or node is None:
            return False
        case = Case(tasks, len(files))
        for task in tasks:
            task.move(State.EXAMINED)
        for file in files:
            probe, inputs = Probe(file, case), (Staged(sent.given[file], file, "i0"),)
            if node.ours:
                self._sent.hello(node, probe, inputs, brief=True)
            else:
                parcel = Parcel("hello", self._sent.number(), brief=True)
                self._sent.launch(SentParcel(parcel.number, errand=probe), Launch(parcel, inputs, near=True))
        return True

    def probed(self, sent: SentParcel, probe: Probe, *, well: bool) -> None:
        """Note whether a node has an input; once all are examined, renew the missing ones and retry the tasks."""
        case, where = probe.case, str(sent.where)
        # If the node was lost meanwhile, the failure says nothing about the file.
        well = well or where not in self._fleet.nodes
        temp = self._files.temps.get(probe.file)
        if not well and temp is not None and not temp.recoverable:
            # A transfer may have failed for other reasons: ask the node that created the file.
            maker = next((node for node in self._fleet.nodes.values() if node.name == temp.node), None)
            if maker is not None and maker.ours and maker.address != where:
                self._sent.hello(maker, probe, (Staged("temp", probe.file, "i0"),), brief=True)
                return
        case.open -= 1
        if not well:
            case.bad.append(probe.file)
        if case.open:
            return
        for file in case.bad:
            self._files.renew(file)
        for task in case.tasks:
            if task.state is State.DONE:
                continue
            if case.bad:
                words = f"its node had lost {', '.join(sorted(case.bad))}"
                self._workload.retry_renewed(task, failure.lost("file-lost", words, name=case.bad[0]))
            else:
                self._workload.retry(task, failures.record(failures.FORSAKEN, task.attempts + 1))
