"""More replicas of temp files: of those that a leaving node alone has, and of those of which the user wants several.

TaskVine has one number of replicas for all files, and does not empty a node before it leaves.
"""

from __future__ import annotations

from collections.abc import Mapping

from taskvine_manager.record import events as recorded
from taskvine_manager.vine.manager.events import Staged
from taskvine_manager.vine.manager.fleet import VineNode
from taskvine_manager.vine.manager.holdings import Holdings
from taskvine_manager.vine.manager.sent import Copy, Rescue, SentParcel, SentParcels


class Replication:
    """Makes nodes copy temp files, by parcels that bring the files and do nothing else.

    Parameters
    ----------
    files : Holdings
        The temp files.
    sent : SentParcels
        The parcels that TaskVine has.
    nodes : mapping of str to VineNode
        The connected workers by address.
    details : list, optional
        Takes events for the record of the run.
    """

    def __init__(
        self,
        files: Holdings,
        sent: SentParcels,
        nodes: Mapping[str, VineNode],
        details: list[recorded.Event] | None = None,
    ) -> None:
        self._details = details
        self._files = files
        self._sent = sent
        self._nodes = nodes

    def rescue(self, node: VineNode, others: list[VineNode]) -> bool:
        """Make another node copy the files that only this one has; return whether there are any."""
        precious = self._files.only_on(node.name)
        if precious and others:
            target = others[0]
            wanted = [(name, temp) for name, temp in precious if temp.rescue != target.address]
            for _, temp in wanted:
                temp.rescue = target.address
            if wanted:
                inputs = tuple(Staged("temp", name, f"i{count}") for count, (name, _) in enumerate(wanted))
                self._sent.hello(target, Rescue(tuple(name for name, _ in wanted)), inputs)
                for name, _ in wanted:
                    self._starts(name, target, node.name)
        return bool(precious)

    def rescued(self, sent: SentParcel, errand: Rescue, *, well: bool) -> None:
        """Note that a node has copied the files of a leaving node, or has failed to."""
        node = self._nodes.get(str(sent.pinned))
        for name in errand.files:
            self._ended(name, node, well=well)
        for temp in filter(None, map(self._files.temps.get, errand.files)):
            temp.rescue = ""
            if well and node is not None:
                temp.node = node.name

    def replicate_all(self) -> None:
        """Replicate all files of which the user wants several replicas, after nodes have joined or left."""
        for name in [name for name, temp in self._files.temps.items() if temp.replicas > 1]:
            self.replicate(name)

    def replicate(self, name: str) -> None:
        """Make more nodes copy a file, up to the replicas that the user wants."""
        temp = self._files.temps[name]
        if temp.replicas < 2 or not temp.node or temp.gone:
            return
        temp.copies &= self._nodes.keys()
        if temp.copies and temp.node not in [node.name for node in self._nodes.values()]:
            temp.node = self._nodes[temp.copies.pop()].name
        free = [
            node
            for node in self._nodes.values()
            if not node.draining and node.ours and node.name != temp.node and node.address not in temp.copies
        ]
        for node in free[: temp.replicas - 1 - len(temp.copies)]:
            temp.copies.add(node.address)
            self._sent.hello(node, Copy(name), (Staged("temp", name, "i0"),))
            self._starts(name, node, temp.node)

    def copied(self, sent: SentParcel, errand: Copy, *, well: bool) -> None:
        """Note that a node has copied a file, or has failed to."""
        self._ended(errand.file, self._nodes.get(str(sent.pinned)), well=well)
        if not well and (temp := self._files.temps.get(errand.file)) is not None:
            temp.copies.discard(str(sent.pinned))

    # --- for the record ---

    def _starts(self, name: str, node: VineNode, source: str) -> None:
        if self._details is not None:
            self._details.append(recorded.TransferStarted(name, node.name, source, for_task=False))

    def _ended(self, name: str, node: VineNode | None, *, well: bool) -> None:
        """Record the end of a copy; that of a copy to a lost node is in the node's end."""
        if self._details is None or node is None:
            return
        temp = self._files.temps.get(name)
        size = temp.size if temp is not None and well else 0
        self._details.append(
            recorded.TransferEnded(name, node.name, size, 0.0, "" if well else "TaskVine failed to copy")
        )
        if temp is not None and well:
            self._details.append(recorded.Made(name, node.name, size))
