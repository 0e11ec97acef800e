"""The simulated shell carries out every instruction of the scheduler."""

from __future__ import annotations

from typing import get_args

from taskvine_manager.scheduling.events import Discard, Instruction, Release
from taskvine_tune.simulation.engine import Simulation
from taskvine_tune.simulation.model import Cluster
from taskvine_tune.simulation.workloads import generate
from taskvine_tune.tuning import TuneParameters

NEVER = {Discard, Release}
"""Simulated tasks have no files of arguments, and no simulated node is asked to leave."""


def test_every_instruction_has_an_action() -> None:
    simulation = Simulation(generate("chain", tasks=1), Cluster(1, 1), TuneParameters(), seed=0, window=1)
    assert set(simulation.actions) == set(get_args(Instruction)) - NEVER
