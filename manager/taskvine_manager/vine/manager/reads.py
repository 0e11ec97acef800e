"""Temp files that the user has asked for, read from nodes in pieces.

To fetch a file through TaskVine would block the manager until all of it is there.
"""

from __future__ import annotations

from taskvine_manager.vine.manager.events import Fetched, Launch, Say, Staged, Wanted
from taskvine_manager.vine.manager.holdings import Holdings
from taskvine_manager.vine.manager.sent import Fetch, SentParcel, SentParcels
from taskvine_manager.vine.parcels import Parcel

PIECE = 4 << 20
"""Bytes of a file that are fetched at a time; each piece blocks the manager for about ten milliseconds."""


class Reads:
    """Parcels that read pieces of files; ``open`` counts them.

    Parameters
    ----------
    say : callable
        Takes instructions for the shell.
    files : Holdings
        The temp files.
    sent : SentParcels
        The parcels that TaskVine has.
    """

    def __init__(self, say: Say, files: Holdings, sent: SentParcels) -> None:
        self._say = say
        self._files = files
        self._sent = sent
        self.open = 0

    def wanted(self, event: Wanted) -> None:
        """Make a node read a piece of a file; if no node has the file, TaskVine recreates it."""
        sent = SentParcel(self._sent.number(), errand=Fetch(event.file))
        if event.file not in self._files.temps:  # it was forgotten meanwhile
            self._say(Fetched(sent.number, event.file, False))
            return
        self.open += 1
        parcel = Parcel("read", sent.number, staged={event.file: "i0"}, numbers=(event.offset, PIECE))
        self._sent.launch(sent, Launch(parcel, (Staged("temp", event.file, "i0"),), near=True))

    def ended(self, sent: SentParcel, errand: Fetch, *, well: bool, record: bytes = b"") -> None:
        """Report that a piece has arrived, or not; ``record`` may say why not."""
        self.open -= 1
        self._say(Fetched(sent.number, errand.file, well, record))

    def give_up(self, file: str, record: bytes) -> None:
        """Report that a file cannot be read: TaskVine would try to recreate it for ever."""
        for sent in [sent for sent in self._sent if sent.node is None and sent.errand == Fetch(file)]:
            self.ended(sent, Fetch(file), well=False, record=record)
            self._sent.withdraw(sent)
            self._files.release(sent)
