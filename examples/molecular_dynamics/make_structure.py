"""Make ``gold_nanoparticle.xyz``, the structure from which every replica of the example starts.

The structure is a Mackay icosahedron (A. L. Mackay, Acta Cryst. 15, 916 (1962)): ``shells`` shells around a central
atom, 13, 55, 147, ... atoms. It is relaxed with the effective medium theory of K. W. Jacobsen, P. Stoltze and
J. K. Nørskov, Surf. Sci. 366, 394 (1996), so that the dynamics does not start with the strain of the ideal solid.

The file is part of the repository; run this script only to make another size::

    python make_structure.py --shells 4 --output gold_nanoparticle.xyz
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ase import Atoms
from ase.calculators.emt import EMT
from ase.cluster import Icosahedron
from ase.io import write
from ase.optimize import FIRE

HERE = Path(__file__).resolve().parent

FORCE_TOLERANCE = 1e-4
"""Largest force left on any atom after relaxation (eV/Å)."""


def make_cluster(shells: int) -> Atoms:
    """Build and relax an icosahedral gold cluster.

    Parameters
    ----------
    shells : int
        Number of shells, the central atom included: 3 gives 55 atoms, 4 gives 147.

    Returns
    -------
    ase.Atoms
        The relaxed cluster, its centre of mass in the origin (positions in Å), without a calculator.
    """
    built = Icosahedron("Au", noshells=shells)
    # A plain Atoms drops the crystallographic bookkeeping of ase.cluster, which does not belong in the file.
    cluster = Atoms(built.get_chemical_symbols(), positions=built.get_positions())
    cluster.calc = EMT()
    FIRE(cluster, logfile=None).run(fmax=FORCE_TOLERANCE, steps=2000)
    cluster.calc = None
    cluster.positions -= cluster.get_center_of_mass()
    return cluster


def main() -> None:
    """Write the structure file."""
    parser = argparse.ArgumentParser(description="Make the gold nanoparticle the replicas start from.")
    parser.add_argument("--shells", type=int, default=3, help="shells of the icosahedron: 3 is 55 atoms (default)")
    parser.add_argument("--output", type=Path, default=HERE / "gold_nanoparticle.xyz", help="file to write")
    arguments = parser.parse_args()
    cluster = make_cluster(arguments.shells)
    comment = f"Au{len(cluster)} Mackay icosahedron relaxed with EMT"
    write(arguments.output, cluster, format="xyz", comment=comment, fmt="%14.8f")
    print(f"{arguments.output}: {comment}")


if __name__ == "__main__":
    main()
