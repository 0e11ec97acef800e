"""As how many gpus a task counts for the managers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskvine_manager import gpu_shares
from taskvine_manager.node.devices import Devices, Gpus
from taskvine_manager.wire.messages import Library


@pytest.mark.parametrize(
    ("asked", "memory", "memories", "portion", "most"),
    [
        (0.0, 0.0, (), 0.0, math.inf),
        (1.0, 0.0, (), 1.0, 2),
        (3.0, 0.0, (), 3.0, 0),
        (0.25, 0.0, (), 0.25, 8),
        (0.6, 0.0, (), 0.6, 2),  # one on each
        (0.25, 600.0, (1000.0, 1000.0), 0.6, 2),
        (0.0, 250.0, (1000.0, 1000.0), 0.25, 8),
        (1.0, 600.0, (1000.0, 500.0), 1.0, 1),
        (1.0, 600.0, (500.0, 500.0), 1.0, 0),
        (0.0, 600.0, (), 0.0, 0),  # their memory is not known
    ],
)
def test_tasks_count_by_their_part_or_memory(
    asked: float, memory: float, memories: tuple[float, ...], portion: float, most: float
) -> None:
    assert gpu_shares.portion(asked, memory, 2, memories) == pytest.approx(portion)
    assert gpu_shares.most(asked, memory, 2, memories) == most


@given(
    st.sampled_from([0.0, 1.0, 2.0]) | st.floats(0.01, 0.99),
    st.sampled_from([0.0, 100.0, 333.0, 1500.0]),
    st.lists(st.sampled_from([500.0, 1000.0, 2000.0]), min_size=1, max_size=4),
)
def test_manager_counts_what_the_node_can_hold(asked: float, memory: float, memories: list[float]) -> None:
    """The manager sends a node as many tasks of one kind as its devices take at once."""
    if not asked and not memory:
        return
    devices, gpus = Devices(map(str, range(len(memories))), memories), Gpus(asked, memory)
    held = 0
    while (names := devices.pick(gpus)) is not None:
        devices.take(gpus, names)
        held += 1
    assert gpu_shares.most(asked, memory, len(memories), memories) == held
    assert gpu_shares.portion(asked, memory, len(memories), memories) * held <= len(memories) + 1e-9


def test_errors_name_what_is_asked_for_and_the_largest_gpu() -> None:
    assert gpu_shares.requested({"cores": 1.0, "gpus": None}, None) == {"cores": 1.0}
    assert gpu_shares.requested({"gpus": None}, Library("m", 1, None, 0.5, 600.0)) == {"gpus": 0.5, "gpu_memory": 600.0}
    assert gpu_shares.largest([500.0, 1000.0]) == {"gpu_memory": 1000.0}
    assert gpu_shares.largest([]) == {}
