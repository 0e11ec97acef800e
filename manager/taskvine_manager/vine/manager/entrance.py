"""TaskVine's manager, and the port at which workers reach it: its own, or that of the process that admits them."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
from typing import Any

from taskvine_manager.engine_api import NodesFail
from taskvine_manager.parameters.taskvine import (
    ATTEMPT_SCHEDULE_DEPTH,
    KEEPALIVE_INTERVAL,
    KEEPALIVE_TIMEOUT,
    PERF_LOG_INTERVAL,
    TRANSIENT_ERROR_INTERVAL,
)
from taskvine_manager.patience import INTERVAL, TIMEOUT
from taskvine_manager.vine.manager import admission, listening, port
from taskvine_manager.vine.manager.config import VineConfig
from taskvine_manager.vine.worker.worker import ADDRESS

logger = logging.getLogger(__name__)

MUST_TUNE = {
    PERF_LOG_INTERVAL.name: 1e6,  # when it is due while a library is removed, the manager aborts
    TRANSIENT_ERROR_INTERVAL.name: 1,  # seconds without work after a worker's failure; 15 by default
    ATTEMPT_SCHEDULE_DEPTH.name: 1000,  # for the sentinels: one cycle looks at every task
    # The user may set these two. With TaskVine's defaults, a lost host is noticed after seventeen minutes.
    KEEPALIVE_INTERVAL.name: int(INTERVAL),
    KEEPALIVE_TIMEOUT.name: int(TIMEOUT),
}


def takes_direct(config: VineConfig) -> bool:
    """Return whether supervisors may connect to the manager directly.

    The calls that they get are unknown to TaskVine, and both ``vine_factory`` and the catalog count TaskVine's.
    """
    return config.name is None and not config.factory_command


class Entrance:
    """TaskVine's manager (``vine``), which listens only where the expected workers can connect (at ``port``).

    Parameters
    ----------
    base : str
        The run's private directory.
    config : VineConfig
        Settings of the engine.
    vine : module
        ``ndcctools.taskvine``, or its replacement in a test.
    """

    def __init__(self, base: str, config: VineConfig, vine: Any) -> None:
        self._address = os.path.join(base, ADDRESS)
        self._host = config.address
        self.direct: socket.socket | None = None
        """Socket over which the process that admits workers hands direct connections over."""
        ssl = config.ssl if isinstance(config.ssl, tuple) else (port.make_key(base) if config.ssl else None)
        # Not with a name: the catalog server reports TaskVine's own port, and whether TaskVine itself uses TLS.
        admits = config.name is None and bool(config.admission_command)
        admits = admits and (not config.this_machine or ssl is not None)
        self.vine = port.VinePort(vine, config, None if admits else ssl)
        for parameter, value in MUST_TUNE.items():
            self.vine.tune(parameter, value)
        self._admission: subprocess.Popen[bytes] | None = None
        own = config.this_machine and config.name is None
        self.port = self.vine.port
        if admits:
            self._admit(config, ssl)
        elif own:
            self.vine.listen_on_loopback(same_port=True)
            self.port = self.vine.port
        logger.info("TaskVine accepts workers of %s at port %d", "this machine" if own else "any machine", self.port)

    def _admit(self, config: VineConfig, ssl: tuple[str, str] | None) -> None:
        """Start the process that listens in TaskVine's place."""
        assert config.password_file is not None
        self.vine.listen_on_loopback(same_port=False)
        log = os.path.join(config.log, "manager.log")
        self.direct, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        direct = theirs.fileno() if takes_direct(config) else None
        told = admission.AdmissionConfig(
            port=self.vine.port, password_file=config.password_file, ssl=ssl, log=log, direct=direct
        )
        host = listening.LOOPBACK if config.this_machine else ""
        with theirs, listening.listen(host, self.port, fixed=bool(config.port)) as listener:
            self.port = listener.getsockname()[1]
            self._admission = admission.start(list(config.admission_command), listener, told)

    def publish(self) -> None:
        """Write the port where workers on this machine look for it, so that the file appears whole."""
        partial_path = f"{self._address}.partial"
        with open(os.open(partial_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(str(self.port))
        os.rename(partial_path, self._address)

    def check(self) -> None:
        """Check that workers can connect.

        Raises
        ------
        NodesFail
            If the process that admits them has ended.
        """
        if self._admission is not None and (status := self._admission.poll()) is not None:
            raise NodesFail(f"the process that admits workers ended with status {status}: see manager.log", "")

    def trouble(self) -> str:
        """Say where workers connect."""
        return f"nodes connect to {self._host}, port {self.port}"

    def close(self) -> None:
        """Release the workers, and accept no more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._address)
        with contextlib.suppress(Exception):
            self.vine.close()  # new workers find nobody
        if self.direct is not None:
            self.direct.close()
        if self._admission is not None and self._admission.stdin is not None:
            self._admission.stdin.close()  # it ends once it has passed on TaskVine's last messages

    def kill(self) -> None:
        """Kill the process that admits workers if it does not end in time."""
        if self._admission is not None:
            try:
                self._admission.wait(admission.LAST_SECONDS)
            except subprocess.TimeoutExpired:
                self._admission.kill()
                self._admission.wait()
