"""The record of a run on disk, so that the manager need not keep its history in memory.

The file is a stream of msgpack arrays, appended in batches. If the manager was killed, the last one may be incomplete.
Each array begins with its tag. Times are in seconds since the epoch, sizes in bytes, and strings may hold surrogates
(paths need not be text).

========================================= ==========================================================================
``["run", version, time, facts]``         the first entry; ``facts`` is a dict: ``engine``, ``tune_parameters``, and
                                          ``details`` (whether there are ``"events"``), ``pid`` and ``host`` of the
                                          manager, and plain data from the user's process; old records lack the last
                                          four
``["profiles", profiles]``                each with the fields of :class:`~taskvine_manager.wire.messages.Profile`
``["submitted", time, invocations]``      each ``[number, profile, bytes of arguments, inputs, outputs]``, the last two
                                          with the fields of :class:`~taskvine_manager.wire.messages.FileUse`
``["done", time, completions]``           each ``[number, outcome, node, dispatched, started, seconds, bytes of result,
                                          made, kind]``. ``outcome`` is 0 (returned), 1 (raised) or 2 (lost, ``kind``
                                          says how). ``made`` is a list of ``[file, bytes]``. Unknown times are 0
``["again", time, numbers, reason]``      tasks that are run again after they had a node or had ended
``["cancelled", time, numbers]``
``["forgotten", time, files]``            files that will not be asked for again
``["nodes", time, nodes]``                all nodes from now on, each a dict of the fields of
                                          :class:`~taskvine_manager.wire.messages.NodeInfo`
``["tuned", time, parameters]``
``["events", time, events]``              the details: each ``[tag, ...]`` with the fields of its type in
                                          :mod:`~taskvine_manager.record.events`
``["end", time]``                         the manager ended without being killed
========================================= ==========================================================================

A reader skips unknown tags and unknown fields at the end of an entry. Versions that differ only by such additions have
the same number.

- :mod:`~taskvine_manager.record.events`: the types of events;
- :mod:`~taskvine_manager.record.writer`: the file as the manager writes it;
- :mod:`~taskvine_manager.record.reader`: the file as others read it.
"""

from taskvine_manager.record.reader import Done, Record, Submitted, Tail, entries, read_record
from taskvine_manager.record.writer import VERSION, Recorder

__all__ = ["VERSION", "Done", "Record", "Recorder", "Submitted", "Tail", "entries", "read_record"]
