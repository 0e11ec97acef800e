"""The methods that run on nodes: a costly simulation, and a model that learns it. Nothing of Colmena or Parsl.

A candidate is a row of features. Its true value is a smooth function of them, which the simulation finds by a slow
iteration. The model is a set of linear fits of random cosines, each to its own sample of the data. Their mean is the
prediction, and their spread says how certain it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FEATURES = 4
MEMBERS = 8
WAVES, SHARPNESS = 300, 1.5


def make_candidates(count: int, seed: int) -> np.ndarray:
    """Return all candidates: one row each, with features from -1 to 1."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, FEATURES))


def simulate(candidates: np.ndarray, number: int, steps: int) -> list[float]:
    """Relax a candidate by many small steps; return its number and its value."""
    features = candidates[number]
    target = np.exp(-4 * np.square(features - 0.4).sum()) + 0.5 * np.exp(-8 * np.square(features + 0.5).sum())
    value = 0.0
    for _ in range(steps):
        value += 0.01 * (target - value)
    return [number, float(value)]


def train(candidates: np.ndarray, known: list[list[float]], seed: int) -> dict[str, Any]:
    """Fit the model to simulated values; return what :func:`rank` needs."""
    random = np.random.default_rng(seed)
    directions = SHARPNESS * random.normal(size=(FEATURES, WAVES))
    phases = random.uniform(0, 2 * np.pi, WAVES)
    rows = np.array([int(number) for number, _ in known])
    values = np.array([value for _, value in known])
    waves = np.cos(candidates[rows] @ directions + phases)
    weights = []
    for _ in range(MEMBERS):
        chosen = random.integers(0, len(rows), len(rows))
        sample = waves[chosen]
        weights.append(np.linalg.solve(sample.T @ sample + 0.01 * np.eye(WAVES), sample.T @ values[chosen]))
    return {"directions": directions, "phases": phases, "weights": np.array(weights)}


def rank(candidates: np.ndarray, model: dict[str, Any], count: int) -> list[int]:
    """Return the numbers of the most promising candidates, the best first."""
    waves = np.cos(candidates @ model["directions"] + model["phases"])
    predicted = waves @ model["weights"].T
    promise = predicted.mean(axis=1) + predicted.std(axis=1)
    return [int(number) for number in np.argsort(-promise)[:count]]
