"""Replicas of temp files beyond TaskVine's usual number."""

from __future__ import annotations

from taskvine_manager.vine.manager.events import Instruction, Launch
from taskvine_manager.vine.manager.fleet import VineNode
from taskvine_manager.vine.manager.holdings import Holdings
from taskvine_manager.vine.manager.replication import Replication
from taskvine_manager.vine.manager.sent import Copy, Rescue, SentParcel, SentParcels
from taskvine_manager.vine.worker.worker import MARK


class Archive:
    """A temp file on one of three nodes, and the parcels that copy it to others."""

    def __init__(self, *, replicas: int) -> None:
        self.said: list[Instruction] = []
        self.files = Holdings(self.said.append, lambda name: [], lambda name: None)
        self.sent = SentParcels(self.said.append)
        self.nodes = {
            f"h:{number}": VineNode(f"h:{number}", {"arch": f"{MARK}b{number}-1"}, 1, 0.0) for number in "012"
        }
        self.replication = Replication(self.files, self.sent, self.nodes)
        self.files.expect("x", SentParcel(99), recoverable=True, replicas=replicas)
        self.files.made("x", 10, "b0-1")

    def launched(self) -> list[tuple[str | None, SentParcel]]:
        """Return the nodes and parcels of the new launches."""
        launches = [each for each in self.said if isinstance(each, Launch)]
        self.said.clear()
        found = [(launch.feature, self.sent.take(launch.parcel.number)) for launch in launches]
        return [(feature, sent) for feature, sent in found if sent is not None]


def test_rescue_names_the_node_that_has_copied_the_files() -> None:
    archive = Archive(replicas=0)
    leaving, *others = archive.nodes.values()
    assert archive.replication.rescue(leaving, [])
    assert archive.launched() == []
    for _ in range(2):  # the same copy is not ordered twice
        assert archive.replication.rescue(leaving, others)
    ((feature, sent),) = archive.launched()
    assert (feature, sent.errand) == ("b1-1", Rescue(("x",)))
    archive.replication.rescued(sent, Rescue(("x",)), well=False)
    assert archive.replication.rescue(leaving, others), "it has failed, and is asked again"
    ((_, sent),) = archive.launched()
    archive.replication.rescued(sent, Rescue(("x",)), well=True)
    assert archive.files.temps["x"].node == "b1-1"
    assert not archive.replication.rescue(leaving, others)


def test_replicas_reach_the_configured_number() -> None:
    archive = Archive(replicas=3)
    archive.replication.replicate_all()
    (first, sent), (second, _) = archive.launched()
    assert {first, second} == {"b1-1", "b2-1"}
    archive.replication.replicate_all()
    assert archive.launched() == []
    archive.replication.copied(sent, Copy("x"), well=False)
    archive.replication.replicate("x")
    ((again, _),) = archive.launched()
    assert again == first


def test_replica_replaces_a_lost_original() -> None:
    archive = Archive(replicas=2)
    archive.replication.replicate("x")
    assert [feature for feature, _ in archive.launched()] == ["b1-1"]
    del archive.nodes["h:0"]
    archive.replication.replicate_all()
    assert archive.files.temps["x"].node == "b1-1"
    assert [feature for feature, _ in archive.launched()] == ["b2-1"]


def test_draining_nodes_get_no_replicas() -> None:
    archive = Archive(replicas=3)
    archive.nodes["h:1"].draining = True
    archive.replication.replicate("x")
    assert [feature for feature, _ in archive.launched()] == ["b2-1"]
