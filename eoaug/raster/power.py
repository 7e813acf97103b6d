"""Images of decibels as power and back, band by band: a sensor averages power."""

from __future__ import annotations

import numpy as np

from eoaug.raster.arrays import Float64Array

__all__ = ["decibels_of", "multiplied", "power_of"]

_PER_DECIBEL = np.log(10) / 10
_DARKEST = 1e-12
"""Power in place of what kernels with negative weights leave below 0."""
_MOST_DECIBELS = 10.0
"""Largest correction of power in one pass: kernels with negative weights can leave none to compare with."""


def power_of(images: Float64Array, units: tuple[float, ...]) -> Float64Array:
    """Return images (..., C, H, W) with power in place of decibels.

    Parameters
    ----------
    images
        Any finite values.
    units
        Size of one unit of the images in decibels, one per band or one for all; 0 for bands that are returned as they are.
    """
    if not any(units):
        return images
    scale = _by_band(units) * _PER_DECIBEL
    return np.asarray(np.where(scale > 0, np.exp(images * scale), images))


def decibels_of(images: Float64Array, units: tuple[float, ...]) -> Float64Array:
    """Undo `power_of`."""
    if not any(units):
        return images
    scale = _by_band(units) * _PER_DECIBEL
    decibels = np.log(np.maximum(images, _DARKEST)) / np.where(scale > 0, scale, 1)
    return np.asarray(np.where(scale > 0, decibels, images))


def multiplied(linear: Float64Array, residual: Float64Array, units: tuple[float, ...]) -> Float64Array:
    """Return the correction of linear bands, and of bands of decibels the residual itself, which multiplies power."""
    if not any(units):
        return linear
    own = _by_band(units)
    most = _MOST_DECIBELS / np.where(own > 0, own, 1)
    return np.asarray(np.where(own > 0, np.clip(residual, -most, most), linear))


def _by_band(units: tuple[float, ...]) -> Float64Array:
    return np.array(units, np.float64)[:, None, None]
