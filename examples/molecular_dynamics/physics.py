"""Molecular dynamics of a gold nanoparticle, and the analysis of its trajectories; independent of Parsl.

One *segment* is a stretch of Langevin dynamics. It starts from a :class:`State` and yields a :class:`Trajectory`, which
holds the sampled frames and the state from which the next segment starts. All random numbers of a segment come from a
generator that the caller seeds. Therefore a segment's numbers depend only on its arguments, not on the process or node
that runs it. (They also depend on the processor type, by which numpy picks its vector instructions.)

Units are those of ASE unless said otherwise: Å, eV, unified atomic mass units, K.

References
----------
.. [1] K. W. Jacobsen, P. Stoltze, J. K. Nørskov, Surf. Sci. 366, 394 (1996): the effective medium theory (EMT).
.. [2] E. Vanden-Eijnden, G. Ciccotti, Chem. Phys. Lett. 429, 310 (2006): the integrator of ``ase.md.Langevin``.
.. [3] Y. Zhou, M. Karplus, K. D. Ball, R. S. Berry, J. Chem. Phys. 116, 2323 (2002): the distance-fluctuation
   criterion for melting.
.. [4] M. P. Allen, D. J. Tildesley, Computer Simulation of Liquids, 2nd ed., Oxford (2017), chapter 2:
   temperature, heat capacity and radial distribution function as averages over a trajectory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.io import read
from ase.md.langevin import Langevin

FloatArray = npt.NDArray[np.float64]

TIME_STEP_FS = 8.0
"""Time step (fs). It may be long because gold is heavy: without a thermostat, at about 800 K, 8 fs conserve the total
energy of the cluster to better than 0.1 meV per atom."""

FRICTION_PER_FS = 0.005
"""Langevin friction (1/fs): a relaxation time of 200 fs thermalises within a segment and barely slows diffusion."""

SAMPLE_EVERY = 2
"""Steps between two frames of a trajectory."""

EQUILIBRATION_SEGMENTS = 1
"""Segments at the start of every replica that are left out of the averages."""

BULK_DENSITY = 4.0 / 4.08**3
"""Atoms per Å³ of bulk gold: four in an fcc cell of 4.08 Å. The reference density of g(r)."""

RDF_EDGES: FloatArray = np.linspace(0.0, 16.0, 161)
"""Edges of the bins of g(r) (Å). They reach beyond the diameter of the molten 55-atom cluster, about 14 Å."""


@dataclass(frozen=True)
class State:
    """State of the cluster between two segments.

    Attributes
    ----------
    numbers : ndarray of int, shape (n_atoms,)
        Atomic numbers.
    positions : ndarray, shape (n_atoms, 3)
        Positions (Å).
    momenta : ndarray, shape (n_atoms, 3), or None
        Momenta (ASE units, sqrt(u eV)). If None, the segment draws them from the Maxwell-Boltzmann distribution.
    """

    numbers: npt.NDArray[np.int64]
    positions: FloatArray
    momenta: FloatArray | None = None


@dataclass(frozen=True)
class Trajectory:
    """The sampled frames of one segment, and the momenta after its last step.

    Attributes
    ----------
    numbers : ndarray of int, shape (n_atoms,)
        Atomic numbers.
    positions : ndarray, shape (n_frames, n_atoms, 3)
        Positions of each frame (Å).
    potential : ndarray, shape (n_frames,)
        Potential energy of the cluster (eV), relative to the same number of atoms in bulk fcc gold.
    kinetic : ndarray, shape (n_frames,)
        Kinetic energy of the cluster (eV).
    final_positions, final_momenta : ndarray, shape (n_atoms, 3)
        State from which the next segment starts (Å, sqrt(u eV)).
    """

    numbers: npt.NDArray[np.int64]
    positions: FloatArray
    potential: FloatArray
    kinetic: FloatArray
    final_positions: FloatArray
    final_momenta: FloatArray

    @property
    def final(self) -> State:
        """State after the last step."""
        return State(self.numbers, self.final_positions, self.final_momenta)


@dataclass(frozen=True)
class Analysis:
    """Results from all trajectories of one replica; every field is an array, so that they can be compared bit by bit.

    Attributes
    ----------
    temperature : ndarray, shape ()
        Temperature of the thermostat (K).
    measured_temperature : ndarray, shape ()
        Kinetic temperature averaged over production (K).
    segment_potential, segment_total : ndarray, shape (n_production_segments,)
        Mean potential and total energy per atom in each segment of production (eV), relative to bulk fcc gold.
    heat_capacity : ndarray, shape ()
        Heat capacity per atom (units of k_B), see :func:`heat_capacity`.
    lindemann : ndarray, shape ()
        Lindemann index, see :func:`lindemann_index`.
    rdf : ndarray, shape (n_bins,)
        Radial distribution function over the bins ``RDF_EDGES``, see :func:`radial_distribution`.
    """

    temperature: FloatArray
    measured_temperature: FloatArray
    segment_potential: FloatArray
    segment_total: FloatArray
    heat_capacity: FloatArray
    lindemann: FloatArray
    rdf: FloatArray

    def identical(self, other: Analysis) -> bool:
        """Return whether all numbers equal those of another analysis to the last bit."""
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))


def read_structure(path: str | os.PathLike[str]) -> State:
    """Read a cluster from an xyz file.

    Parameters
    ----------
    path : str or path-like
        File in plain xyz format (Å).

    Returns
    -------
    State
        The atoms without momenta.
    """
    # The format is named because the file may have lost its suffix on the way to a node.
    atoms = read(os.fspath(path), format="xyz")
    assert isinstance(atoms, Atoms)
    return State(np.asarray(atoms.numbers, dtype=np.int64), atoms.get_positions())


def save_trajectory(path: str | os.PathLike[str], trajectory: Trajectory) -> None:
    """Write a trajectory in numpy's npz format under exactly the given name."""
    # To an open file: numpy.savez would append ".npz" to a name without it.
    with open(path, "wb") as stream:
        np.savez(stream, **{f.name: getattr(trajectory, f.name) for f in fields(trajectory)})


def load_trajectory(path: str | os.PathLike[str]) -> Trajectory:
    """Read a trajectory that :func:`save_trajectory` has written."""
    with np.load(path) as stored:
        return Trajectory(**{f.name: stored[f.name] for f in fields(Trajectory)})


def run_segment(state: State, *, temperature: float, steps: int, seed: Sequence[int]) -> Trajectory:
    """Run Langevin dynamics with EMT forces [1]_ [2]_.

    Parameters
    ----------
    state : State
        Initial state.
    temperature : float
        Temperature of the thermostat (K).
    steps : int
        Number of time steps of ``TIME_STEP_FS``.
    seed : sequence of int
        Seed of this segment only, such as (seed of the run, replica, segment). Segments with different seeds draw
        independent noise, and do not need the state of another segment's generator.

    Returns
    -------
    Trajectory
        A frame after every ``SAMPLE_EVERY`` steps.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(seed))))
    atoms = Atoms(numbers=state.numbers, positions=state.positions)
    if state.momenta is None:
        # Maxwell-Boltzmann: each component of a momentum is normal with variance m k_B T.
        width = np.sqrt(atoms.get_masses() * units.kB * temperature)
        atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * width[:, np.newaxis])
    else:
        atoms.set_momenta(state.momenta)
    atoms.calc = EMT()
    # The centre of mass is not fixed: that would bias the temperature of a small cluster, and the analysis does not
    # depend on where the cluster drifts.
    dynamics = Langevin(
        atoms,
        TIME_STEP_FS * units.fs,
        temperature_K=temperature,
        friction=FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=rng,
    )
    frames = steps // SAMPLE_EVERY
    positions = np.empty((frames, len(atoms), 3))
    potential = np.empty(frames)
    kinetic = np.empty(frames)
    for frame in range(frames):
        dynamics.run(SAMPLE_EVERY)
        positions[frame] = atoms.positions
        potential[frame] = atoms.get_potential_energy()
        kinetic[frame] = atoms.get_kinetic_energy()
    dynamics.run(steps % SAMPLE_EVERY)
    return Trajectory(state.numbers, positions, potential, kinetic, atoms.get_positions(), atoms.get_momenta())


def pair_distances(positions: FloatArray) -> FloatArray:
    """Compute the distances of all pairs of atoms in every frame.

    Parameters
    ----------
    positions : ndarray, shape (n_frames, n_atoms, 3)
        Positions (Å).

    Returns
    -------
    ndarray, shape (n_frames, n_pairs)
        Distances (Å) of the pairs i < j.
    """
    first, second = np.triu_indices(positions.shape[1], k=1)
    # One Cartesian component at a time: all at once would need three times the memory.
    squared = np.zeros((positions.shape[0], len(first)))
    for component in range(3):
        squared += (positions[:, first, component] - positions[:, second, component]) ** 2
    return np.sqrt(squared)


def lindemann_index(distances: FloatArray) -> float:
    r"""Compute the root-mean-square fluctuation of the distances, averaged over all pairs of atoms [3]_.

    .. math::

        \delta = \frac{2}{N(N-1)} \sum_{i<j}
                 \frac{\sqrt{\langle r_{ij}^2\rangle - \langle r_{ij}\rangle^2}}{\langle r_{ij}\rangle}

    In a solid cluster, atoms only vibrate, and the index is below about 0.1. When atoms change places, the index jumps.
    As they diffuse, it grows with the length of the trajectory until it saturates.

    Parameters
    ----------
    distances : ndarray, shape (n_frames, n_pairs)
        Distances of all pairs (Å), see :func:`pair_distances`.

    Returns
    -------
    float
        The index (dimensionless).
    """
    # numpy's two-pass standard deviation: the difference of squares in the formula would have rounding noise of
    # 1e-8 where nothing moves.
    return float(np.mean(np.std(distances, axis=0) / np.mean(distances, axis=0)))


def radial_distribution(distances: FloatArray, n_atoms: int, edges: FloatArray = RDF_EDGES) -> FloatArray:
    r"""Compute the radial distribution function of a finite cluster, normalised per atom.

    .. math::

        g(r) = \frac{1}{\rho_0 V_{\mathrm{shell}}(r)} \frac{1}{N} \Big\langle \sum_{i \neq j}
               [r_{ij} \in \text{shell}] \Big\rangle, \qquad
        V_{\mathrm{shell}} = \tfrac{4}{3}\pi (r_+^3 - r_-^3)

    This is the definition for liquids [4]_ with one difference: a cluster has no well-defined volume, so the density of
    bulk gold, :math:`\rho_0`, replaces N/V. Hence :math:`\sum g \rho_0 V_{\mathrm{shell}} = N - 1`, the number of
    neighbours of an atom. Beyond the cluster's diameter, g falls to 0, not to 1.

    Parameters
    ----------
    distances : ndarray, shape (n_frames, n_pairs)
        Distances of all pairs (Å).
    n_atoms : int
        Number of atoms.
    edges : ndarray, shape (n_bins + 1,)
        Edges of the shells (Å); pairs beyond the last edge are not counted.

    Returns
    -------
    ndarray, shape (n_bins,)
        g(r), dimensionless.
    """
    counts, _ = np.histogram(distances, bins=edges)
    shells = 4.0 / 3.0 * np.pi * (edges[1:] ** 3 - edges[:-1] ** 3)
    # Each pair i < j stands for two neighbours: j of i, and i of j.
    neighbours: FloatArray = 2.0 * counts / (len(distances) * n_atoms)
    return neighbours / (BULK_DENSITY * shells)


def kinetic_temperature(kinetic: FloatArray, n_atoms: int) -> float:
    r"""Compute the temperature from all 3N degrees of freedom: :math:`2\langle E_k\rangle / 3 N k_B` [4]_.

    Parameters
    ----------
    kinetic : ndarray, shape (n_frames,)
        Kinetic energy of the cluster (eV), including that of its centre of mass, which is thermalised too.
    n_atoms : int
        Number of atoms.

    Returns
    -------
    float
        Temperature (K).
    """
    return float(np.mean(kinetic) / (1.5 * n_atoms * units.kB))


def heat_capacity(potential: FloatArray, temperature: float, n_atoms: int) -> float:
    r"""Compute the heat capacity per atom from energy fluctuations in the canonical ensemble [4]_.

    .. math::

        \frac{C_V}{N k_B} = \frac{3}{2}
            + \frac{\langle E_p^2\rangle - \langle E_p\rangle^2}{N (k_B T)^2}

    The kinetic part is known exactly to be 3/2, and is independent of the potential part. Using the exact value halves
    the noise. A harmonic solid has a heat capacity of 3.

    Parameters
    ----------
    potential : ndarray, shape (n_frames,)
        Potential energy of the cluster (eV).
    temperature : float
        Temperature of the thermostat (K).
    n_atoms : int
        Number of atoms.

    Returns
    -------
    float
        Heat capacity per atom, in units of the Boltzmann constant.
    """
    return float(1.5 + np.var(potential) / (n_atoms * (units.kB * temperature) ** 2))


def analyse(trajectories: Sequence[Trajectory], *, temperature: float) -> Analysis:
    """Analyse all segments of one replica except the first ``EQUILIBRATION_SEGMENTS``.

    Parameters
    ----------
    trajectories : sequence of Trajectory
        The segments, in the order in which they were run.
    temperature : float
        Temperature of the thermostat (K).

    Returns
    -------
    Analysis
        Averages over production: a few kilobytes, whatever the size of the trajectories.

    Raises
    ------
    ValueError
        If no segment of production is left.
    """
    production = trajectories[EQUILIBRATION_SEGMENTS:]
    if not production:
        raise ValueError(f"{len(trajectories)} segment(s): none is left after equilibration")
    n_atoms = len(production[0].numbers)
    potential = np.concatenate([t.potential for t in production])
    kinetic = np.concatenate([t.kinetic for t in production])
    distances = np.concatenate([pair_distances(t.positions) for t in production])
    return Analysis(
        temperature=np.asarray(temperature, dtype=np.float64),
        measured_temperature=np.asarray(kinetic_temperature(kinetic, n_atoms)),
        segment_potential=np.array([np.mean(t.potential) for t in production]) / n_atoms,
        segment_total=np.array([np.mean(t.potential + t.kinetic) for t in production]) / n_atoms,
        heat_capacity=np.asarray(heat_capacity(potential, temperature, n_atoms)),
        lindemann=np.asarray(lindemann_index(distances)),
        rdf=radial_distribution(distances, n_atoms),
    )
