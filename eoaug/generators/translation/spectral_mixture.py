"""Reflectances of one pixel as a mixture of Gaussians: any bands from any others, where a cube never measured them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SpectralMixture", "shipped_mixture"]

_FILE = Path(__file__).parent / "spectra.json"
_OFFSET = 0.01
"""Added to reflectance before the square root, in which its noise is nearly uniform."""
_NOISE = 1e-5
"""Variance of the noise of a measured band, in units of the root."""


@dataclass(frozen=True, eq=False)
class SpectralMixture:
    """A mixture of K Gaussians of the roots of C reflectances.

    The conditional mean is a nonlinear regression of any bands on any others (Gaussian mixture regression, Ghahramani and
    Jordan 1994, NIPS 6).
    """

    bands: tuple[str, ...]
    """Common names."""
    weights: NDArray[np.float64]
    """Shape (K,)."""
    means: NDArray[np.float64]
    """Shape (K, C)."""
    covariances: NDArray[np.float64]
    """Shape (K, C, C)."""

    def estimate(
        self, reflectance: NDArray[Any], given: Sequence[str], wanted: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the expected reflectance of bands and its standard deviation, each of shape (wanted, n).

        Parameters
        ----------
        reflectance
            Shape (given, n), all measured.
        given, wanted
            Names among `bands`.
        """
        roots = np.sqrt(np.maximum(np.asarray(reflectance, np.float64), 0) + _OFFSET)
        source, target = ([self.bands.index(name) for name in names] for names in (given, wanted))
        logs, means, variances = [], [], []
        for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True):
            own = covariance[np.ix_(source, source)] + _NOISE * np.eye(len(source))
            across = covariance[np.ix_(source, target)]
            away = roots - mean[source, None]
            solved = np.linalg.solve(own, away)
            logs.append(np.log(weight) - 0.5 * (away * solved).sum(axis=0) - 0.5 * np.linalg.slogdet(own)[1])
            means.append(mean[target, None] + across.T @ solved)
            left = covariance[np.ix_(target, target)] - across.T @ np.linalg.solve(own, across)
            variances.append(np.maximum(np.diag(left), 0))
        shares = np.exp(np.stack(logs) - np.max(logs, axis=0))
        shares /= shares.sum(axis=0)
        each = np.stack(means)
        expected = np.einsum("kn,ktn->tn", shares, each)
        spread = np.einsum("kn,ktn->tn", shares, (each - expected) ** 2 + np.stack(variances)[:, :, None])
        # d(root^2) = 2 root d(root)
        return expected**2 - _OFFSET, 2 * np.abs(expected) * np.sqrt(spread)


@lru_cache(maxsize=1)
def shipped_mixture() -> SpectralMixture:
    """Return the mixture of the package, fitted to Sentinel-2 Level-2A pixels (`eoaug.training.spectra`)."""
    stored = json.loads(_FILE.read_text(encoding="utf-8"))
    arrays = (np.asarray(stored[name], np.float64) for name in ("weights", "means", "covariances"))
    return SpectralMixture(tuple(stored["bands"]), *arrays)
