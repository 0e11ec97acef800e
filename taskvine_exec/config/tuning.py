"""Tuning parameters of the configuration: loaded, checked, and chosen for an engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from parsl.errors import ConfigurationError

from taskvine_exec.config.rules import Rule, is_path, refuse
from taskvine_exec.config.settings import EngineSettings, VineSettings
from taskvine_manager.parameters import PARAMETERS, Engine, own
from taskvine_manager.parameters.taskvine import ENFORCE_WORKER_EVICTION_INTERVAL
from taskvine_manager.runtime.payload import INLINE_LIMIT
from taskvine_tune.errors import TuningError
from taskvine_tune.tuning import Source, TuneParameters

logger = logging.getLogger(__name__)

SOURCE = Rule(
    "a dict, a TuneParameters, or the path of a TOML, YAML or JSON file",
    lambda value: isinstance(value, Mapping) or is_path(value),
)


def load(
    source: Source | None, *, nodes: int | None = None, peer_transfers: bool, running: bool = False
) -> TuneParameters:
    """Load and check tuning parameters.

    Parameters
    ----------
    source
        The parameters, in any form of ``tune_parameters``. None: no parameters.
    nodes
        Largest possible number of nodes. None: unknown.
    peer_transfers
        Whether nodes copy files from one another.
    running
        Whether the executor runs already. Some parameters can then not be changed.
    """
    try:
        tune = TuneParameters.load({} if source is None else source)
        return tune.check(nodes=nodes, peer_transfers=peer_transfers, running=running)
    except TuningError as error:
        raise ConfigurationError(f"tune_parameters: {error}") from error


def retuned(
    source: Source, settings: EngineSettings, in_force: TuneParameters
) -> tuple[TuneParameters, dict[str, float]]:
    """Check tuning parameters for a running executor.

    Parameters
    ----------
    source
        The new parameters, in any form of ``tune_parameters``.
    settings
        The settings that the executor was started with.
    in_force
        All parameters set so far, at the start and later.

    Returns
    -------
    tuning : TuneParameters
        All parameters now in force.
    given : dict
        The parameters to send to the engine, by name with dashes.

    Raises
    ------
    ConfigurationError
        If a parameter is not valid, contradicts the parameters in force or the settings, or cannot change after the
        start.
    """
    SOURCE.check("tune_parameters", source)
    tune = load(source, peer_transfers=True, running=True)
    tuning = load({**in_force, **tune}, nodes=settings.most_nodes, peer_transfers=settings.enable_peer_transfers)
    if isinstance(settings, VineSettings):
        refuse_batches(tune, settings.batching)
    warn_of_ignored(tune, settings.engine)
    return tuning, sent(tune, settings.engine)


def sent(tune: TuneParameters, engine: Engine) -> dict[str, float]:
    """Return the parameters to send to an engine. TaskVine gets only those that it acts on, as floats."""
    if engine == "embedded":
        return tune.to_dict()
    acting = [name for name in tune if PARAMETERS[name].on("taskvine").support.acts]
    given = {name: float(tune[name]) for name in acting if not PARAMETERS[name].ours}
    for name in (own.BATCH.name, own.AWAKE.name, own.RECORD_DETAILS.name):  # our own code acts on these
        if name in tune:
            given[name] = float(tune[name])
    native = ENFORCE_WORKER_EVICTION_INTERVAL.name
    if own.LOSS_INTERVAL.name in tune and not given.get(native):
        seconds = tune[own.LOSS_INTERVAL.name]
        given[native] = float(max(1, round(seconds)) if seconds else 0)
    return given


def warn_of_ignored(tune: TuneParameters, engine: Engine) -> None:
    """Warn of every parameter that has no effect on an engine."""
    for parameter in tune.ignored_by(engine):
        note = parameter.on(engine).note
        why = f": {note}" if note else ""
        name = "TaskVine" if engine == "taskvine" else engine
        logger.warning("tuning parameter %r has no effect on the %s engine%s", parameter.name, name, why)


def refuse_batches(tune: TuneParameters, batching: bool) -> None:
    """Raise if batches are asked for, but the executor has ``batching=False``."""
    if not batching and (batch := own.BATCH.of(tune)) > 1:
        refuse(f"tune_parameters: {own.BATCH.name}", batch, "left out, 0 or 1 with batching=False")


def slots(library: Mapping[str, Any], tune: TuneParameters) -> int | None:
    """Resolve the two names of a library's number of slots. None: neither is set."""
    configured, tuned = int(library.get("num_slots") or 0), int(own.LIBRARY_SLOTS.of(tune))
    if configured and tuned and configured != tuned:  # 0 is "not set", as in TaskVine
        name = f"tune_parameters: {own.LIBRARY_SLOTS.name}"
        refuse(name, tuned, f"equal to num_slots of library_config, {configured}")
    return configured or tuned or None


def inline_limit(argument: int, tune: TuneParameters) -> int:
    """Resolve the two names of one setting. An argument equal to the default counts as not given."""
    tuned = int(tune.get(own.INLINE_LIMIT.name, argument))
    if INLINE_LIMIT != argument != tuned:
        name = f"tune_parameters: {own.INLINE_LIMIT.name}"
        refuse(name, tuned, f"equal to the executor's inline_limit, {argument}")
    return tuned
