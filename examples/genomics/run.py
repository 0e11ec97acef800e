"""A pipeline of shell commands over files, as in genomics: sequencing, filtering, alignment, merging, and variants.

Each sample has short reads of a genome that differs from the reference in a few places. Bash apps filter the reads,
align them, and merge the alignments of each sample. A last app for each sample calls its variants. Intermediate files
are temp files: they stay on nodes.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import parsl
from parsl.data_provider.files import File

from taskvine_exec import local_config

BASES = "ACGT"
READ = 80
"""Length of a read."""
SEED = 20
"""Length of the beginning of a read that finds its place in the reference."""


def make_genome(length: int) -> str:
    """Return the reference."""
    rng = random.Random(1)
    return "".join(rng.choice(BASES) for _ in range(length))


def make_variants(sample: int, genome: str, count: int) -> dict[int, str]:
    """Return the places where a sample differs from the reference, counted from 1, and its bases there."""
    rng = random.Random(1000 + sample)
    places = sorted(rng.sample(range(READ, len(genome) - READ), count))
    return {place + 1: rng.choice(BASES.replace(genome[place], "")) for place in places}


@parsl.python_app
def sequence(variants: dict[int, str], reads: int, length: int, seed: int, inputs: Any = (), outputs: Any = ()) -> None:
    """Write reads of a sample, one a line, each with a quality. Some are bad: all their bases are random."""
    import random

    rng = random.Random(seed)
    with open(inputs[0]) as file:
        genome = list(file.read().strip())
    for place, base in variants.items():
        genome[place - 1] = base
    with open(outputs[0], "w") as file:
        for _ in range(reads):
            start = rng.randrange(len(genome) - length)
            is_bad = rng.random() < 0.1
            read = "".join(rng.choices("ACGT", k=length)) if is_bad else "".join(genome[start : start + length])
            file.write(f"{read} {rng.randrange(0, 20) if is_bad else rng.randrange(20, 40)}\n")


@parsl.bash_app
def filter_reads(inputs: Any = (), outputs: Any = ()) -> str:
    """Drop reads of low quality."""
    return f"awk '$2 >= 20 {{print $1}}' {inputs[0].filepath} > {outputs[0].filepath}"


@parsl.bash_app
def align(seed: int, inputs: Any = (), outputs: Any = ()) -> str:
    """Find the place of each read by its first or its last bases, and write it in front of the read, sorted."""
    program = (
        "NR == FNR {genome = $1; for (i = 1; i <= length(genome) - k + 1; i++) at[substr(genome, i, k)] = i; next} "
        "{n = length($1); head = substr($1, 1, k); tail = substr($1, n - k + 1)} "
        "head in at {print at[head], $1; next} "
        "tail in at {print at[tail] - n + k, $1}"
    )
    reference, reads = (file.filepath for file in inputs)
    return f"awk -v k={seed} '{program}' {reference} {reads} | sort -n > {outputs[0].filepath}"


@parsl.bash_app
def merge(inputs: Any = (), outputs: Any = ()) -> str:
    """Merge sorted alignments."""
    return f"sort -n -m {' '.join(file.filepath for file in inputs)} > {outputs[0].filepath}"


@parsl.bash_app
def call_variants(inputs: Any = (), outputs: Any = ()) -> str:
    """Write the places where most reads differ from the reference, and the base that they have."""
    program = (
        "NR == FNR {genome = $1; next} "
        "{for (i = 1; i <= length($2); i++) {place = $1 + i - 1; count[place, substr($2, i, 1)]++; depth[place]++}} "
        'END {split("A C G T", bases); for (place in depth) for (b in bases) '
        "if (bases[b] != substr(genome, place, 1) && depth[place] >= 4 && count[place, bases[b]] > 0.6 * depth[place]) "
        "print place, bases[b]}"
    )
    reference, alignments = (file.filepath for file in inputs)
    return f"awk '{program}' {reference} {alignments} | sort -n > {outputs[0].filepath}"


def analyse(options: argparse.Namespace, directory: Path) -> tuple[int, int]:
    """Run the pipeline for all samples; return how many variants there are, and how many were called rightly."""
    genome = make_genome(options.length)
    (directory / "reference").write_text(genome + "\n")
    reference = File(str(directory / "reference"))
    called = {}
    for sample in range(options.samples):
        variants = make_variants(sample, genome, options.variants)
        alignments = []
        for part in range(options.parts):
            name = f"taskvinetemp:///sample{sample}-part{part}"
            (reads,) = sequence(
                variants,
                options.reads,
                READ,
                sample * options.parts + part,
                inputs=[reference],
                outputs=[File(f"{name}.reads")],
            ).outputs
            (good,) = filter_reads(inputs=[reads], outputs=[File(f"{name}.good")]).outputs
            alignments += align(SEED, inputs=[reference, good], outputs=[File(f"{name}.sorted")]).outputs
        (merged,) = merge(inputs=alignments, outputs=[File(f"taskvinetemp:///sample{sample}.merged")]).outputs
        result = File(str(directory / f"sample{sample}.variants"))
        called[sample] = call_variants(inputs=[reference, merged], outputs=[result]).outputs[0]
    right = 0
    for sample, future in called.items():
        lines = Path(future.result().filepath).read_text().splitlines()
        found = {int(place): base for place, base in map(str.split, lines)}
        right += len(found.items() & make_variants(sample, genome, options.variants).items())
    return options.samples * options.variants, right


def main() -> None:
    """Run the pipeline and say what it found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--samples", type=int, default=4, help="samples (default: %(default)s)")
    add("--parts", type=int, default=8, help="files of reads of each sample (default: %(default)s)")
    add("--reads", type=int, default=2000, help="reads in each file (default: %(default)s)")
    add("--length", type=int, default=50_000, help="bases of the genome (default: %(default)s)")
    add("--variants", type=int, default=20, help="variants of each sample (default: %(default)s)")
    add("--engine", default="embedded", choices=("embedded", "taskvine"))
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        parsl.load(local_config(engine=options.engine, run_dir=f"{directory}/runinfo")),
    ):
        begin = time.perf_counter()
        total, right = analyse(options, Path(directory))
        seconds = time.perf_counter() - begin
    tasks = options.samples * (3 * options.parts + 2)
    print(f"{right} of {total} variants found by {tasks} tasks in {seconds:.1f} s")


if __name__ == "__main__":
    main()
