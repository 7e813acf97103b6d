"""Samples of a band at fixed places, and its typical value and spread, from which follows the unit of a generator.

One answer for a whole scene: the places depend on the size of the cube alone, so chunks, windows and workers do not change
it.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import xarray as xr

from eoaug.cube.model import CubeBand
from eoaug.raster.arrays import Float64Array

__all__ = ["sampled_windows", "typical_of"]

_DATES, _WINDOWS, _WINDOW_PX = 4, 3, 32
"""A sample: windows of an edge of so many pixels, so many along each axis, on so many dates."""
_QUARTILES = 1.349
"""Distance of the quartiles of a normal distribution, in standard deviations."""


def typical_of(band: CubeBand) -> tuple[float, float]:
    """Return a typical physical value of a band, and the size of its variation.

    Median and distance of the quartiles of a sample. The size is rounded to a power of two and the value to a multiple
    of it, so that crops of one scene mostly agree.

    Parameters
    ----------
    band
        Any band; nodata and NaN do not count. Without a valid pixel in the sample: (0, 1).
    """
    values = np.concatenate([window.ravel() for _, _, window in sampled_windows(band)])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, middle, high = (float(v) for v in np.quantile(values, (0.25, 0.5, 0.75)))
    spread = (high - low) / _QUARTILES or float(values.std())
    if not spread > 0:
        return middle, 1.0
    unit = float(2.0 ** np.round(np.log2(spread)))
    return round(middle / unit) * unit, unit


def sampled_windows(band: CubeBand, edge_px: int = _WINDOW_PX) -> list[tuple[int, int, Float64Array]]:
    """Return windows of a band: row and column of the first pixel, and physical values, NaN where missing.

    At most 36: three along each axis, on four dates. Only these are read of a lazy band.
    """
    places, stored = [], {}
    for number, (date, row, col) in enumerate(_places(band.data.shape, edge_px)):
        places.append((row, col))
        part = band.data[date, row : row + edge_px, col : col + edge_px]
        stored[str(number)] = ((f"y{number}", f"x{number}"), part)
    # All windows of a lazy band in one go: they share blocks.
    loaded = [window.values for window in xr.Dataset(stored).load().values()]
    windows = []
    for (row, col), numbers in zip(places, loaded, strict=True):
        valid = np.isfinite(numbers)
        if band.nodata is not None:
            valid &= numbers != band.nodata
        windows.append((row, col, np.where(valid, band.scaling(np.where(valid, numbers, 0)), np.nan)))
    return windows


def _places(shape: tuple[int, ...], edge_px: int) -> list[tuple[int, int, int]]:
    """Return date, row and column of windows, evenly over an array."""
    starts = [
        np.unique(np.linspace(0, max(size - edge, 0), count).astype(int)).tolist()
        for size, edge, count in zip(shape, (1, edge_px, edge_px), (_DATES, _WINDOWS, _WINDOWS), strict=True)
    ]
    return list(product(*starts))
