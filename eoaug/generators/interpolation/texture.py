"""Gaussian texture with the spectrum of a landscape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug.raster import noise
from eoaug.raster.arrays import Float32Array

__all__ = ["texture"]


_OCTAVES_PX = (1.0, 3.0, 9.0)
"""Standard deviations of the texture's octaves; equal variances make the spectrum of a landscape."""


def texture(
    origin: tuple[int, int],
    shape: tuple[int, int, int],
    *,
    seed: int = 0,
    member: int = 0,
    time: int = 0,
    correlation: float = 0.8,
) -> Float32Array:
    """Return a Gaussian random field of a window of the infinite plane: mean 0, standard deviation 1.

    A null model: the spectrum of a landscape down to the pixel, and no landscape.

    Parameters
    ----------
    origin
        Absolute index (row, column) of the first pixel.
    shape
        (bands, rows, columns).
    seed, member, time
        Identity; any two that differ give independent fields.
    correlation
        Of any two bands, 0 to 1.

    Returns
    -------
    float32 of ``shape``; two windows agree bit for bit where they overlap.
    """
    C, H, W = shape
    taps = [_gaussian_taps(sigma) for sigma in _OCTAVES_PX]
    pad = taps[-1].size // 2
    window = (H + 2 * pad, W + 2 * pad)
    start = (origin[0] - pad, origin[1] - pad)
    white = np.zeros((C, *window))
    for name, planes, share in (("shared", 1, correlation), ("own", C, 1 - correlation)):
        if share > 0:
            drawn = noise.normal(
                start, (planes, *window), seed=seed, stream=f"classical {name}", member=member, time=time
            )
            white += np.sqrt(share) * drawn.astype(np.float64)
    field = np.zeros(shape)
    for octave in taps:
        rows = ndimage.correlate1d(white, octave, axis=-2)[..., pad : pad + H, :]
        field += ndimage.correlate1d(rows, octave, axis=-1)[..., pad : pad + W]
    return (field / _octaves_std(taps)).astype(np.float32)


def _gaussian_taps(sigma_px: float) -> NDArray[np.float64]:
    offset = np.arange(-int(3 * sigma_px), int(3 * sigma_px) + 1)
    taps = np.exp(-0.5 * (offset / sigma_px) ** 2)
    # Unit variance of white noise after both axes.
    return np.asarray(taps / np.sqrt(np.sum(taps**2)))


def _octaves_std(taps: Sequence[NDArray[np.float64]]) -> float:
    """Return the standard deviation of the sum of the octaves, which are made of the same noise."""
    size = taps[-1].size
    padded = [np.pad(one, (size - one.size) // 2) for one in taps]
    return float(np.sqrt(sum(np.sum(one * other) ** 2 for one in padded for other in padded)))
