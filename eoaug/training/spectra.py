"""Fits the mixture of `eoaug.generators.translation.spectral_mixture` to pixels of Sentinel-2 cubes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.translation.spectral_mixture import SpectralMixture

__all__ = ["fit_mixture", "write_mixture"]

_ROUNDS, _CLUSTER_ROUNDS = 60, 15
_FLOOR = 1e-6
"""Least variance of a component, in units of the root of reflectance."""


def fit_mixture(
    reflectance: NDArray[np.floating], bands: Sequence[str], *, components: int = 8, seed: int = 0
) -> SpectralMixture:
    """Return a mixture by expectation maximisation (Dempster et al. 1977).

    Parameters
    ----------
    reflectance
        Shape (n, C), pixels of clear land and water with all bands measured.
    bands
        Common names of the C bands.
    components, seed
        Number of Gaussians, and the seed of the pixels that they begin at.
    """
    x = np.sqrt(np.maximum(np.asarray(reflectance, np.float64), 0) + 0.01)
    rng = np.random.default_rng(seed)
    shares = np.eye(components)[_clusters(x / x.std(axis=0), components, rng)]
    eye = _FLOOR * np.eye(x.shape[1])
    for _ in range(_ROUNDS):
        counts = shares.sum(axis=0) + 1e-9
        means = shares.T @ x / counts[:, None]
        weights = counts / counts.sum()
        covariances = np.stack(
            [
                ((x - m) * s[:, None]).T @ (x - m) / n + eye
                for m, s, n in zip(means, shares.T, counts, strict=True)
            ]
        )
        logs = np.stack([_log_density(x, m, c) for m, c in zip(means, covariances, strict=True)], axis=1)
        logs += np.log(weights)
        shares = np.exp(logs - logs.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
    return SpectralMixture(tuple(bands), weights, means, covariances)


def _clusters(x: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the cluster of every pixel by k-means."""
    centres = x[rng.choice(len(x), count, replace=False)]
    for _ in range(_CLUSTER_ROUNDS):
        nearest = ((x[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        centres = np.stack(
            [x[nearest == k].mean(axis=0) if (nearest == k).any() else centres[k] for k in range(count)]
        )
    return np.asarray(nearest)


def _log_density(
    x: NDArray[np.float64], mean: NDArray[np.float64], covariance: NDArray[np.float64]
) -> NDArray[np.float64]:
    away = x - mean
    density: NDArray[np.float64] = -0.5 * (away * np.linalg.solve(covariance, away.T).T).sum(axis=1)
    return np.asarray(density - 0.5 * np.linalg.slogdet(covariance)[1])


def write_mixture(mixture: SpectralMixture, path: Path) -> None:
    """Write a mixture as JSON, to five significant digits."""

    def short(values: NDArray[np.float64]) -> object:
        return json.loads(json.dumps(values.tolist()), parse_float=lambda text: float(f"{float(text):.5g}"))

    content = {
        "bands": list(mixture.bands),
        "weights": short(mixture.weights),
        "means": short(mixture.means),
        "covariances": short(mixture.covariances),
    }
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
