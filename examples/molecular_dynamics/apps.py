"""The functions that run on the nodes.

They are plain functions of a module that does not import Parsl. A node finds them by name, and each slot imports their
modules once. Files arrive and leave by their paths in the task's sandbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import physics

if TYPE_CHECKING:
    from parsl import File


def segment(
    index: int,
    temperature: float,
    steps: int,
    seed: tuple[int, int, int],
    inputs: Sequence[File] = (),
    outputs: Sequence[File] = (),
) -> None:
    """Run one segment of a replica.

    Parameters
    ----------
    index : int
        Number of the segment in its replica, from 0.
    temperature : float
        Temperature of the replica (K).
    steps : int
        Number of time steps.
    seed : tuple of int
        Seed of this segment only.
    inputs : sequence of File
        The structure file for the first segment, the previous segment's trajectory for all others.
    outputs : sequence of File
        The trajectory to write.
    """
    source = inputs[0].filepath
    state = physics.read_structure(source) if index == 0 else physics.load_trajectory(source).final
    trajectory = physics.run_segment(state, temperature=temperature, steps=steps, seed=seed)
    physics.save_trajectory(outputs[0].filepath, trajectory)


def analysis(temperature: float, inputs: Sequence[File] = ()) -> physics.Analysis:
    """Analyse one replica on a node that has its trajectories.

    Parameters
    ----------
    temperature : float
        Temperature of the replica (K).
    inputs : sequence of File
        The trajectories of all its segments, in order.

    Returns
    -------
    physics.Analysis
        A few small arrays, the only data that is sent back.
    """
    trajectories = [physics.load_trajectory(file.filepath) for file in inputs]
    return physics.analyse(trajectories, temperature=temperature)
