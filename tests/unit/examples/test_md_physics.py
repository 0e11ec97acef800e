"""The physics of the molecular dynamics example, and its command line."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("ase")
pytest.importorskip("matplotlib")
pytest.importorskip("rich")

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "molecular_dynamics"
MODULES = ("physics", "apps", "report", "workflow", "run")


@pytest.fixture(scope="module")
def example() -> Iterator[SimpleNamespace]:
    """Import the modules of the example as its script does: from its own directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        # Their names are so general that another example may use them too.
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def physics(example: SimpleNamespace) -> ModuleType:
    """The module under test."""
    module: ModuleType = example.physics
    return module


@pytest.fixture(scope="module")
def cluster(physics: Any) -> Any:
    """The structure that every replica starts from."""
    return physics.read_structure(EXAMPLE / "gold_nanoparticle.xyz")


@pytest.fixture(scope="module")
def short(physics: Any, cluster: Any) -> list[Any]:
    """A replica of three short segments."""
    trajectories: list[Any] = []
    for index in range(3):
        start = trajectories[-1].final if trajectories else cluster
        trajectories.append(physics.run_segment(start, temperature=500.0, steps=11, seed=(1, 0, index)))
    return trajectories


# --- dynamics ---


def test_structure_is_relaxed_icosahedron(physics: Any, cluster: Any) -> None:
    """55 gold atoms, 12 neighbours around the central one, and no forces."""
    from ase import Atoms
    from ase.calculators.emt import EMT

    atoms = Atoms(numbers=cluster.numbers, positions=cluster.positions, calculator=EMT())
    assert atoms.get_chemical_formula() == "Au55"
    radii = np.linalg.norm(cluster.positions, axis=1)
    assert np.count_nonzero(radii < 1e-6) == 1
    assert np.count_nonzero((radii > 2.5) & (radii < 3.2)) == 12
    assert np.abs(atoms.get_forces()).max() < 1e-3


def test_frames_are_sampled_and_final_state_follows_the_last_step(physics: Any, short: list[Any]) -> None:
    trajectory = short[0]
    assert trajectory.positions.shape == (11 // physics.SAMPLE_EVERY, 55, 3)
    assert trajectory.potential.shape == trajectory.kinetic.shape == (11 // physics.SAMPLE_EVERY,)
    # Eleven steps are not a multiple of two: the last step comes after the last frame.
    assert not np.array_equal(trajectory.final_positions, trajectory.positions[-1])


def test_segment_is_the_same_in_another_process(physics: Any, cluster: Any, short: list[Any], tmp_path: Path) -> None:
    """Equal byte for byte, although this process has run other segments before."""
    here, there = tmp_path / "here", tmp_path / "there"
    again = physics.run_segment(cluster, temperature=500.0, steps=11, seed=(1, 0, 0))
    physics.save_trajectory(here, again)
    script = (
        "import sys, physics\n"
        "start = physics.read_structure('gold_nanoparticle.xyz')\n"
        "done = physics.run_segment(start, temperature=500.0, steps=11, seed=(1, 0, 0))\n"
        "physics.save_trajectory(sys.argv[1], done)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(there)], cwd=EXAMPLE, check=True, timeout=60)
    assert here.read_bytes() == there.read_bytes()
    assert np.array_equal(again.positions, short[0].positions)


def test_seed_decides_the_noise(physics: Any, cluster: Any, short: list[Any]) -> None:
    other = physics.run_segment(cluster, temperature=500.0, steps=11, seed=(1, 1, 0))
    assert not np.array_equal(other.positions, short[0].positions)


def test_stored_state_continues_like_the_one_in_memory(physics: Any, short: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "a name without suffix"
    physics.save_trajectory(path, short[0])
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    loaded = physics.load_trajectory(path)
    continued = physics.run_segment(loaded.final, temperature=500.0, steps=11, seed=(1, 0, 1))
    assert np.array_equal(continued.positions, short[1].positions)
    assert np.array_equal(continued.final_momenta, short[1].final_momenta)


def test_thermostat_reaches_its_temperature(physics: Any, cluster: Any) -> None:
    """After equilibration, kinetic and potential energy are those of the canonical ensemble."""
    temperature, n_atoms = 400.0, len(cluster.numbers)
    start = physics.run_segment(cluster, temperature=temperature, steps=200, seed=(7, 0, 0))
    production = physics.run_segment(start.final, temperature=temperature, steps=300, seed=(7, 0, 1))
    # The standard error of these 300 steps, correlated over about 100 fs, is some 3 %.
    assert physics.kinetic_temperature(production.kinetic, n_atoms) == pytest.approx(temperature, rel=0.1)
    # Below melting the cluster is nearly harmonic: 3/2 k_B T of potential energy per atom above the minimum.
    from ase import Atoms, units
    from ase.calculators.emt import EMT

    minimum = Atoms(numbers=cluster.numbers, positions=cluster.positions, calculator=EMT()).get_potential_energy()
    thermal = (production.potential.mean() - minimum) / n_atoms
    assert thermal == pytest.approx(1.5 * units.kB * temperature, rel=0.25)


# --- analysis ---


def test_pair_distances(physics: Any) -> None:
    positions = np.random.default_rng(0).normal(size=(4, 5, 3))
    expected = [[np.linalg.norm(frame[i] - frame[j]) for i, j in combinations(range(5), 2)] for frame in positions]
    assert physics.pair_distances(positions) == pytest.approx(np.array(expected))


def test_lindemann_index_of_a_rigid_body_is_zero(physics: Any, cluster: Any) -> None:
    """Turning and moving the whole cluster changes no distance."""
    frames = []
    for angle in np.linspace(0.0, 3.0, 20):
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        frames.append(cluster.positions @ turn + 5 * angle)
    assert physics.lindemann_index(physics.pair_distances(np.array(frames))) < 1e-12


def test_lindemann_index_is_the_formula(physics: Any) -> None:
    positions = np.random.default_rng(1).normal(size=(30, 4, 3))
    total = 0.0
    for i, j in combinations(range(4), 2):
        r = [float(np.sqrt(sum((frame[i][k] - frame[j][k]) ** 2 for k in range(3)))) for frame in positions]
        mean, square = sum(r) / len(r), sum(x * x for x in r) / len(r)
        total += (square - mean**2) ** 0.5 / mean
    assert physics.lindemann_index(physics.pair_distances(positions)) == pytest.approx(2 / (4 * 3) * total)


def test_rdf_counts_every_neighbour(physics: Any, short: list[Any]) -> None:
    """The sum of g times density times shell volume is the number of neighbours, N - 1."""
    distances = physics.pair_distances(short[0].positions)
    edges = physics.RDF_EDGES
    assert distances.max() < edges[-1]
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    neighbours = physics.radial_distribution(distances, 55) * physics.BULK_DENSITY * shells
    assert neighbours.sum() == pytest.approx(54)


def test_rdf_of_a_dimer(physics: Any) -> None:
    """Two atoms 2.5 Å apart: one neighbour each, in one shell."""
    edges = np.array([0.0, 2.0, 3.0, 4.0])
    g = physics.radial_distribution(np.full((7, 1), 2.5), 2, edges)
    assert g == pytest.approx([0, 1 / (physics.BULK_DENSITY * 4 / 3 * np.pi * (27 - 8)), 0])


def test_heat_capacity_of_harmonic_fluctuations(physics: Any) -> None:
    """The potential energy of N atoms in harmonic wells has the variance 3N/2 (k_B T)²: 3 k_B per atom in all."""
    from ase import units

    thermal = units.kB * 300.0
    potential = np.random.default_rng(2).gamma(shape=1.5 * 55, scale=thermal, size=200_000)
    assert physics.heat_capacity(potential, 300.0, 55) == pytest.approx(3.0, rel=0.01)


def test_analysis_leaves_equilibration_out(physics: Any, short: list[Any]) -> None:
    result = physics.analyse(short, temperature=500.0)
    assert result.segment_potential.shape == result.segment_total.shape == (2,)
    assert result.segment_potential[0] == pytest.approx(short[1].potential.mean() / 55)
    assert result.identical(physics.analyse([short[1], *short[1:]], temperature=500.0))
    assert not result.identical(physics.analyse([short[0], *short[:2]], temperature=500.0))
    with pytest.raises(ValueError, match="none is left"):
        physics.analyse(short[:1], temperature=500.0)


# --- report ---


def test_running_tasks_counts_from_dispatch_to_finish(example: SimpleNamespace) -> None:
    times = [
        example.report.TaskTimes(submitted=10.0, dispatched=11.0, started=11.5, finished=14.0, node="a"),
        example.report.TaskTimes(submitted=10.5, dispatched=12.0, started=12.5, finished=13.0, node="b"),
    ]
    moments, running = example.report.running_tasks(times)
    assert moments.tolist() == [0, 1, 2, 3, 4]
    assert running.tolist() == [0, 1, 2, 1, 0]


def test_difference_in_the_last_bit_is_found(example: SimpleNamespace, short: list[Any]) -> None:
    from dataclasses import replace

    good = example.physics.analyse(short, temperature=500.0)
    bad = replace(good, lindemann=np.nextafter(good.lindemann, 1.0))
    one = example.report.ModeRun("L1", 1.0, (), 0, (good, good))
    other = example.report.ModeRun("L2", 1.0, (), 0, (good, bad))
    assert example.report.disagreements(one, one) == []
    assert example.report.disagreements(one, other) == [1]


# --- command line ---


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--mode", "L3"], "invalid choice"),
        (["--replicas", "0"], "at least 1"),
        (["--segments", "1"], "at least 2"),
        (["--steps", "9"], "at least 10"),
        (["--steps", "many"], "invalid integer value"),
        (["--nodes", "0"], "at least 1"),
        (["--replication", "0"], "at least 1"),
        (["--replication", "3", "--nodes", "2"], "needs as many nodes"),
        (["--seed", "-1"], "at least 0"),
        (["--executor", "htex"], "invalid choice"),
    ],
)
def test_command_line_refuses(
    example: SimpleNamespace, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        example.run.parse_arguments(arguments)
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err


def test_command_line_defaults(example: SimpleNamespace) -> None:
    parsed = example.run.parse_arguments([])
    assert (parsed.mode, parsed.executor, parsed.nodes) == ("both", "ours", 2)


def test_example_runs_without_our_executor(tmp_path: Path) -> None:
    """Run the whole workflow on Parsl's threads, in a new process as a user does."""
    command = [sys.executable, str(EXAMPLE / "run.py"), "--executor", "threads", "--output", str(tmp_path)]
    size = ["--replicas", "2", "--segments", "2", "--steps", "10"]
    # A terminal of fixed width, so that lines of the output break at the same places.
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(command + size, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "L1 and L2 agree to the last bit in all 2 replicas" in done.stdout
    for figure in ("physics.png", "modes.png"):
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
