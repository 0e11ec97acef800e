# make test     checks and tests everything; make example runs the example. Both set up what they need in .venv.
#
# PYTHON=...    the interpreter that .venv is made from (default: the first on PATH that is recent enough)
# NO_VENV=1     use the environment of PYTHON as it is: no .venv, nothing installed (conda: see environment.yml)
# WORKERS=...   processes that run tests at the same time (default: 2; 0 for none beside the one that starts them)
# ARGS=...      passed on to pytest, run.py and the like: make unit ARGS="-k graph -x"

SHELL := /bin/sh
.DELETE_ON_ERROR:
# Two pips must not write to one environment.
.NOTPARALLEL:
.DEFAULT_GOAL := help

RECENT := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	if "$$p" -c '$(RECENT)' >/dev/null 2>&1; then echo "$$p"; break; fi; done)
WORKERS ?= 2
PIP_INSTALL := .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input

# Folders of the interpreters that pyenv has made, as in PATH.
PYENV := $(subst $(eval ) ,:,$(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.*/bin))

ifdef NO_VENV
RUN := "$(or $(PYTHON),python3)"
DEV :=
EXAMPLES :=
BENCH :=
else
# The scripts of the environment (taskvine-node and Parsl's own) are found by PATH in what we start.
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH" python
DEV := .venv/.installed-dev
BENCH := .venv/.installed-bench
# What the examples need is part of the development environment: do not install it again beside that.
EXAMPLES := $(if $(wildcard $(DEV)),$(DEV),.venv/.installed-examples)
endif

.PHONY: help venv test test-pythons lint typecheck unit explore coverage chaos soak fuzz example example-tune example-colmena example-genomics example-histograms example-inference example-climatology bench bench-dag bench-random-dag bench-shared-input bench-scheduler bench-memory bench-hooks bench-noop-apps bench-latency bench-bulk bench-metg bench-perf bench-inference bench-argument bench-dask bench-simulated bench-wfinstance docs docs-serve docs-tuning parsl-suite clients slurm-suite gridengine-suite clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile
	@echo "targets: venv test test-pythons lint typecheck unit explore coverage chaos soak fuzz example example-tune example-colmena example-genomics example-histograms example-inference example-climatology bench bench-dag bench-random-dag bench-shared-input bench-scheduler bench-memory bench-hooks bench-noop-apps bench-latency bench-bulk bench-metg bench-perf bench-inference bench-argument bench-dask bench-simulated bench-wfinstance docs docs-serve docs-tuning parsl-suite clients slurm-suite gridengine-suite clean"

venv: $(DEV)

test: lint typecheck docs unit

lint: $(DEV)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check --quiet .
	$(RUN) -c 'from importlinter.cli import lint_imports_command as main; main()' --no-cache

typecheck: $(DEV)
	$(RUN) -m mypy

unit: $(DEV)
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# Every supported Python that is found, on PATH or made by pyenv, each with the newest and the oldest supported parsl:
# make test-pythons ARGS="-f py313" for one of them alone.
test-pythons: $(DEV)
	export PATH="$$PATH:$(PYENV)"; $(RUN) -m tox run $(ARGS)

# Property tests and state machines with examples that nobody has tried yet.
explore: $(DEV)
	HYPOTHESIS_PROFILE=explore $(RUN) -m pytest tests/unit -m hypothesis $(ARGS)

coverage: $(DEV)
	$(RUN) -m coverage erase
	$(RUN) -m coverage run -m pytest $(ARGS)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

# Random DAGs while processes are killed and stopped: make chaos ARGS="--seed 7" for one of them alone, ARGS="--engine taskvine" on TaskVine.
chaos: $(DEV)
	$(RUN) tests/chaos/run.py --seeds 50 $(ARGS)

# Long runs: make soak ARGS="--engine taskvine" on TaskVine.
soak: $(DEV)
	$(RUN) tests/chaos/soak.py --calls 300000 --deaths 2000 $(ARGS)

# Mutated bytes for every decoder and socket: make fuzz ARGS="--target trees" for one of them alone.
fuzz: $(DEV)
	$(RUN) tests/fuzz/run.py $(ARGS)

example: $(EXAMPLES)
	$(RUN) examples/molecular_dynamics/run.py --mode both $(ARGS)

# How many copies of intermediate data are worth their storage, if nodes are lost.
example-tune: $(EXAMPLES)
	$(RUN) examples/tune_replication/run.py $(ARGS)

# Simulations that a model chooses, steered by Colmena.
example-colmena: build/clients/.installed
	PATH="$(CURDIR)/build/clients/bin:$$PATH" python examples/colmena_steering/run.py $(ARGS)

# A pipeline of shell commands over files.
example-genomics: $(EXAMPLES)
	$(RUN) examples/genomics/run.py $(ARGS)

# Histograms of generated events, summed in a tree.
example-histograms: $(EXAMPLES)
	$(RUN) examples/histograms/run.py $(ARGS)

# A model that each task loads, or the library once.
example-inference: $(EXAMPLES)
	$(RUN) examples/inference/run.py $(ARGS)

# xarray on nodes, by the scheduler for Dask graphs.
example-climatology: build/clients/.installed
	PATH="$(CURDIR)/build/clients/bin:$$PATH" python examples/climatology/run.py $(ARGS)

# Everything that is installed, side by side: make bench ARGS="--quick --cases a,c".
bench: $(BENCH)
	$(RUN) -m benchmarks.suite $(ARGS)

# Dependent apps and their data alone.
bench-dag: $(BENCH)
	$(RUN) -m benchmarks.suite --cases f,g $(ARGS)

bench-random-dag: $(DEV)
	$(RUN) -m benchmarks.random_dag $(ARGS)

bench-shared-input: $(DEV)
	$(RUN) -m benchmarks.shared_input $(ARGS)

# What a decision costs, from 10 to 1,000 nodes and from 10,000 to 1,000,000 tasks.
bench-scheduler: $(DEV)
	$(RUN) -m benchmarks.scheduler $(ARGS)

# Memory of every process while functions and apps come and go.
bench-memory: $(DEV)
	$(RUN) -m benchmarks.memory $(ARGS)

# What each trick with Parsl and CPython saves: make bench-hooks ARGS="--hooks records" for one of them alone.
bench-hooks: $(DEV)
	$(RUN) -m benchmarks.hooks $(ARGS)

# No-op apps beside Parsl's own limit, with hooks and without: make bench-noop-apps ARGS="--contenders null,ours".
bench-noop-apps: $(DEV)
	$(RUN) -m benchmarks.noop_apps $(ARGS)

# Latency of one app after another on both engines, step by step, beside HighThroughputExecutor.
bench-latency: $(DEV)
	$(RUN) -m benchmarks.latency $(ARGS)

# Many short calls through executor.map, beside a process pool.
bench-bulk: $(DEV)
	$(RUN) -m benchmarks.bulk $(ARGS)

# Task Bench's patterns, and the smallest tasks that pay: make bench-metg ARGS="--quick --patterns stencil".
bench-metg: $(BENCH)
	$(RUN) -m benchmarks.metg $(ARGS)

# Parsl's own parsl-perf, with this executor and with HighThroughputExecutor.
bench-perf: $(DEV)
	$(RUN) -m benchmarks.parsl_perf $(ARGS)

# Inference with a model that takes seconds to load: loaded by each task, or once by the library.
bench-inference: $(DEV)
	$(RUN) -m benchmarks.inference $(ARGS)

# One array of 100 MB as an argument of 500 calls: time, and what the node stores.
bench-argument: $(BENCH)
	$(RUN) -m benchmarks.argument $(ARGS)

# Dask graphs beside Dask's own schedulers: make bench-dask ARGS="--cases svd --contenders ours,distributed".
bench-dask: $(BENCH)
	$(RUN) -m benchmarks.dask_graphs $(ARGS)

# Real runs, and what their simulations say.
bench-simulated: $(DEV)
	$(RUN) -m benchmarks.simulated $(ARGS)

# Instances of WfCommons with tasks that sleep, and their simulations: make bench-wfinstance ARGS="INSTANCE.json --scale 0.1".
bench-wfinstance: $(DEV)
	$(RUN) -m benchmarks.wfinstance $(ARGS)

# The documentation, in site/: make docs-serve shows it at http://127.0.0.1:8000 while you write.
docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

docs-serve: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs serve $(ARGS)

# Renew the tables of parameters in the documentation.
docs-tuning: $(DEV)
	PYTHONPATH=manager:tune $(RUN) -m taskvine_tune.documentation docs/reference/tuning.md

# It makes an environment of its own: Parsl's tests need an older pytest than ours. ARGS="--engine taskvine", "--dag"
parsl-suite:
	"$(or $(PYTHON),python3)" tests/parsl_suite/run.py $(ARGS)

# Programs that drive the executor (Globus Compute, Colmena, Dask and others), in an environment of their own: make clients ARGS="-k colmena".
clients: build/clients/.installed
	PATH="$(CURDIR)/build/clients/bin:$$PATH" python -m pytest tests/clients $(ARGS)

build/clients/.installed: setup.cfg pyproject.toml
	"$(or $(PYTHON),python3)" -m venv --clear build/clients
	build/clients/bin/python -m pip install --quiet --disable-pip-version-check --no-input --editable '.[clients,test]'
	@touch $@

# A real Slurm in namespaces of this machine, with accounting and without: as root, with Debian's slurm-wlm, slurmdbd, munge
# and mariadb-server, and with TaskVine. make slurm-suite ARGS="-k hello" for one case alone;
# TASKVINE_EXEC_SLURM_KILLS=20 make slurm-suite ARGS="-k random_moments" kills each kind of process so often.
slurm-suite: $(DEV)
	$(RUN) -m pytest tests/slurm $(ARGS)

# A real Grid Engine of one node in namespaces of this machine: as root, with Debian's gridengine-master, gridengine-exec and
# gridengine-client, and with TaskVine.
gridengine-suite: $(DEV)
	$(RUN) -m pytest tests/gridengine $(ARGS)

.venv/.created:
	@"$(PYTHON)" -c '$(RECENT)' >/dev/null 2>&1 || { \
		echo 'make: "$(or $(PYTHON),python3)" is not Python 3.10 or newer with the venv and ensurepip modules;' >&2; \
		echo 'make: name one that is: make PYTHON=/path/to/python3.12 ...' >&2; \
		exit 1; }
	"$(PYTHON)" -m venv --clear .venv
	@touch $@

.venv/.installed-dev: .venv/.created setup.cfg pyproject.toml
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@

.venv/.installed-examples: .venv/.created setup.cfg pyproject.toml
	$(PIP_INSTALL) --editable '.[examples]'
	@touch $@

.venv/.installed-bench: .venv/.created setup.cfg pyproject.toml
	$(PIP_INSTALL) --editable '.[bench]'
	@touch $@

clean:
	rm -rf .venv .tox .venv-parsl-suite build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis htmlcov .coverage .coverage.* site runinfo
	find . -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
