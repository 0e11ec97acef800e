"""Lost temp files, and TaskVine's attempts to recreate them.

TaskVine runs the task of a lost file again, for ever if that fails, and does not report it. Its attempts are therefore
counted while a file that is needed stays lost.
"""

from __future__ import annotations

from collections.abc import Iterable

from taskvine_manager.runtime import failure
from taskvine_manager.vine.manager.events import HOME, CutShort, FilesLost, NotRemade
from taskvine_manager.vine.manager.shell import Shell

MOST_RECOVERIES = 20
"""Tasks that TaskVine may run again, beyond two for each temp file, before the engine gives the lost files up."""
VAIN_RECOVERIES = 2
"""Tasks that TaskVine may run again without recreating any file, before the engine renews their inputs too."""


class Recoveries:
    """Tells the core which files are lost, and which are recreated in vain.

    Parameters
    ----------
    shell : Shell
        TaskVine, its files and parcels, and the core.
    """

    def __init__(self, shell: Shell) -> None:
        self._vine, self._store, self._traffic = shell.vine, shell.store, shell.traffic
        self._files, self._handle = shell.core.files, shell.handle
        self._stuck: set[str] = set()
        self._recoveries = 0
        self._missing: set[str] = set()
        self._missed_at = 0

    def see_lost(self, names: Iterable[str]) -> None:
        """Tell the core which of these files, which must not be recreated, are on no worker."""
        if lost := tuple(name for name in names if not self._store.replicas(name)):
            self._handle(FilesLost(lost))

    def see_stuck(self, *, changed: bool) -> bool:
        """Fail the readers of lost files that TaskVine tries to recreate in vain.

        Parameters
        ----------
        changed : bool
            Whether workers have joined or left since the last call.

        Returns
        -------
        bool
            Whether files that parcels wait for are lost.
        """
        lost = {name for name in self._traffic.awaited() if self._is_lost(name)}
        if not lost:
            self._stuck = self._missing = lost
            return False
        recoveries = self._vine.recoveries
        if changed or lost != self._stuck:
            self._stuck, self._recoveries = lost, recoveries
        too_many = recoveries - self._recoveries > MOST_RECOVERIES + 2 * len(self._store)
        missing, there = self._lineage_of(lost)
        if changed or missing != self._missing:
            self._missing, self._missed_at = missing, recoveries
        elif recoveries - self._missed_at > VAIN_RECOVERIES:
            # Their inputs may be missing on a worker without TaskVine knowing it.
            self._missed_at = recoveries + MOST_RECOVERIES
            for name in sorted(there):
                self._handle(CutShort(name))
        for name in sorted(lost):
            reason = self._why_not_remade(name)
            if reason is None and too_many:
                reason = "its task keeps failing, or an input of that task is lost"
            if reason is not None:
                self._handle(NotRemade(name, reason))
        return True

    def _is_lost(self, name: str) -> bool:
        temp = self._files.temps.get(name)
        return temp is not None and bool(temp.node) and temp.node != HOME and not self._store.on_workers(name)

    def _lineage_of(self, files: set[str]) -> tuple[set[str], set[str]]:
        """Return the files to recreate for lost ones, these included, and the existing files that are read for that."""
        left, missing, there = list(files), set(files), set()
        while left:
            name = left.pop()
            lineage = self._files.lineage(name)
            there.update(self._files.given(name))
            for each in set(lineage[1] if lineage is not None else ()) - missing:
                if self._store.on_workers(each):
                    there.add(each)
                else:
                    missing.add(each)
                    left.append(each)
        return missing, there

    def _why_not_remade(self, file: str) -> str | None:
        """Return why TaskVine failed to recreate a file, or one that it is created from; None if nothing has failed."""
        left, known = [file], {file}
        while left:
            name = left.pop()
            lineage = self._files.lineage(name)
            if lineage is None:
                continue
            parcel, reads = lineage
            failed = self._traffic.failed_again(parcel)
            if (spoiled := failure.lost_file(failed)) is not None:
                self._handle(CutShort(spoiled))
            elif failed is not None:
                return failure.brief(failed)
            lost = [each for each in reads if each not in known and not self._store.on_workers(each)]
            known.update(lost)
            left += lost
        return None
