"""A function slot: a process, forked from its library, that runs one task after another.

The slot reads one packet at a time from a ``SOCK_SEQPACKET`` socket. Packets that it has not read stay in the socket,
where the node can take them back. A long task at the head of a queue therefore delays no other, and a crash affects
only the task that runs. Packets are pickled tuples; see :func:`serve`.
"""

from __future__ import annotations

import pickle
import socket
import sys
import time
from typing import Any

from taskvine_manager.runtime import exits, failure, payload, values
from taskvine_manager.runtime.execution import call, load_or_explain, no_directory
from taskvine_manager.runtime.functions import Functions
from taskvine_manager.runtime.heap import Heap
from taskvine_manager.runtime.limits import SHORT, Limits, Room
from taskvine_manager.runtime.stage import Stage

PACKET_LIMIT = 160 * 1024
"""Largest packet in bytes: below Linux's default socket buffer (net.core.wmem_default, 212,992)."""


def serve(
    channel: socket.socket,
    scratch: str,
    spool: str,
    limit: int = payload.INLINE_LIMIT,
    memory: float = 0.0,
    directory: str | None = None,
    own: float = 0.0,
) -> None:
    """Read packets and answer them until the node closes the socket, or this process cannot be used any more.

    Packets read are

    - ``("f", key, encoded function)``;
    - ``("d", keys)``: functions to forget;
    - ``("c", id, key, encoded arguments, sandbox or None, results or None)``: a task to run. ``results`` is an encoded
      dict of the encoded results that the arguments refer to.

    Packets sent are

    - ``("r", id, outcome, body, started, seconds, left)``: the answer to a task; ``left`` is from :meth:`Stage.left`;
    - ``("u", id)``: the function of a task never came, because the node took it back just before;
    - ``("l", key)``: a function is loaded, and a task that calls it starts now. Sent only if tasks have a memory limit;
    - ``("e", id or None, MB, fresh)``: the last packet; the process ends. If a task is named, it has not started,
      because the process holds ``MB`` of memory, more than the limit. A fresh process has run nothing and has loaded
      only this function, so any other slot would need as much memory.

    Parameters
    ----------
    channel : socket.socket
        Connected to the node.
    scratch, spool : str
        Directories in which tasks run, and for large results.
    limit : int
        Largest encoded result, in bytes, that is not written to a file.
    memory : float
        Memory limit in MB of this slot's tasks; 0 for none.
    directory : str, optional
        The user's directory, in which tasks run. Default: a task's sandbox, or ``scratch`` if it has none.
    own : float
        See :class:`~taskvine_manager.runtime.limits.Room`.
    """
    stage = Stage(scratch, directory)
    functions = Functions()
    room = Room(memory, own)
    limits = Limits()
    heap = Heap(is_kept=not memory)
    buffer = memoryview(bytearray(PACKET_LIMIT))
    try:
        while size := heap.receive(channel, buffer):
            packet = pickle.loads(buffer[:size])
            if packet[0] == "f":
                functions.add(packet[1], packet[2])
            elif packet[0] == "d":
                functions.forget(packet[1])
            elif not _answer(channel, packet, functions, room, limits, heap, stage, spool, limit):
                break
    except (BrokenPipeError, ConnectionResetError):
        pass
    exits.run()
    stage.leave()


def _answer(
    channel: socket.socket,
    packet: tuple[Any, ...],
    functions: Functions,
    room: Room,
    limits: Limits,
    heap: Heap,
    stage: Stage,
    spool: str,
    limit: int,
) -> bool:
    """Run a task and answer it; return whether this process can run another task."""
    _, number, key, arguments, call_sandbox, results = packet

    def refuse(record: bytes) -> bool:
        if results is not None:
            payload.discard(results)
        channel.send(pickle.dumps(("r", number, failure.LOST, record, time.time(), 0.0, ())))
        return True

    is_new = functions.get(key) is None
    if is_new:
        if key not in functions:
            channel.send(pickle.dumps(("u", number)))
            return True
        loaded = load_or_explain(functions, key)
        if isinstance(loaded, bytes):
            room.used = True  # modules that it imported before the failure use memory
            stage.restore(SHORT)
            return refuse(loaded)
        # If a module keeps an exception raised during its import, this frame stays alive and would keep the function.
        del loaded
    if room.limit:
        if excess := room.excess(look=is_new):
            channel.send(pickle.dumps(("e", number, excess, not room.used and len(functions) == 1)))
            return False
        if is_new:
            channel.send(pickle.dumps(("l", key)))
        room.used = True
    try:
        stage.enter(call_sandbox)
    except OSError as error:
        return refuse(no_directory(error))
    if results is not None:
        values.provide(payload.decode(results))
        payload.discard(results)
    ending = call(functions[key], arguments, spool, limits, limit)
    channel.send(pickle.dumps(("r", number, *ending, stage.left(call_sandbox))))
    try:
        stage.restore(ending[-1])  # after the answer, which need not wait for it
        heap.used(ending[-1], has_file=isinstance(ending[1], str))
        if not limits.lowered:
            return True
    except OSError:
        sys.excepthook(*sys.exc_info())
    channel.send(pickle.dumps(("e", None, 0.0, False)))
    return False
