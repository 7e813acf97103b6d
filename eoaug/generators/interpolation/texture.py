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
"""Standard deviations of the octaves in pixels; equal variances give the power spectrum of a landscape."""


def texture(
    origin: tuple[int, int],
    shape: tuple[int, int, int],
    *,
    seed: int = 0,
    member: int = 0,
    time: int = 0,
    correlation: float = 0.8,
) -> Float32Array:
    """Return a window of an infinite Gaussian random field of mean 0 and standard deviation 1.

    A null model: it has the power spectrum of a landscape down to the pixel, but no structure.

    Parameters
    ----------
    origin
        Absolute index (row, column) of the first pixel.
    shape
        (bands, rows, columns).
    seed, member, time
        Key of the field: fields that differ in any of them are independent.
    correlation
        Correlation of any two bands, 0 to 1.

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
    """Return the standard deviation of the sum of the octaves, which filter the same noise."""
    size = taps[-1].size
    padded = [np.pad(octave, (size - octave.size) // 2) for octave in taps]
    return float(np.sqrt(sum(np.sum(first * second) ** 2 for first in padded for second in padded)))
