"""The settings of the TaskVine engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from taskvine_manager.node.config import NodeConfig


@dataclass(frozen=True, kw_only=True)
class VineConfig:
    """Settings of the engine.

    Parameters
    ----------
    max_retries : int or None
        Retries of a task whose worker was lost; None for no limit.
    uniform : bool
        Whether all nodes are alike.
    slots : int
        Tasks that a node is expected to run at once.
    tune : dict of str to float
        Tuning parameters that TaskVine knows.
    nodes : NodeConfig
        Settings for the supervisors.
    python : str
        Interpreter for the supervisors, if it exists on their node; otherwise ``python3``.
    port : int
        Port to listen at; 0 for any free one.
    name : str or None
        Name under which TaskVine registers with its catalog server; None to not register.
    password_file : str or None
        File with the password that workers must know.
    ssl : tuple of str or bool
        Paths of key and certificate, or whether to create them.
    log : str
        Parent of the directory of TaskVine's logs.
    local : bool
        Whether nodes are on this machine: large values are then named by path.
    this_machine : bool
        Whether workers of other machines are kept out: nothing listens on a network then.
    admission_command : tuple of str
        Command that starts the process that admits workers, without the descriptor of its socket.
    batching : bool
        Whether short tasks share parcels.
    peer_transfers : bool
        Whether workers send files to each other.
    wait_for_nodes : int
        Workers that must have joined before anything runs.
    address : str
        Address of this machine for the workers of ``vine_factory``.
    factory_command : tuple of str
        Command that starts ``vine_factory``, without the address; empty for no factory.
    factory_scratch : str
        The directory in which its jobs run.
    node_command : tuple of str
        Command that starts a worker on this machine, without the address; empty if the engine starts none.
    min_nodes, max_nodes : int
        Limits for the number of workers that the engine starts.
    idle_timeout : float
        Seconds without work after which such a worker is dismissed.
    """

    max_retries: int | None = 1
    uniform: bool = True
    slots: int = 1
    tune: dict[str, float] = field(default_factory=dict)
    nodes: NodeConfig
    python: str
    port: int = 0
    name: str | None = None
    password_file: str | None = None
    ssl: tuple[str, str] | bool = False
    log: str
    local: bool = True
    this_machine: bool = False
    admission_command: tuple[str, ...] = ()
    batching: bool = True
    peer_transfers: bool = True
    wait_for_nodes: int = 0
    address: str = "localhost"
    factory_command: tuple[str, ...] = ()
    factory_scratch: str = ""
    node_command: tuple[str, ...] = ()
    min_nodes: int = 0
    max_nodes: int = 0
    idle_timeout: float = 0.0
