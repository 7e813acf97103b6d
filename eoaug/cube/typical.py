"""The typical value of a band and its spread, from which the unit of a generator follows where no constant is known.

One pair of numbers for a whole scene, from a sample whose places depend on the size of the cube alone: chunks, windows
and workers do not change it.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.model import CubeBand

__all__ = ["typical_of"]

_DATES, _WINDOWS, _WINDOW_PX = 4, 3, 32
"""A sample: windows of an edge of so many pixels, so many along each axis, on so many dates."""
_QUARTILES = 1.349
"""Distance of the quartiles of a normal distribution, in standard deviations."""


def typical_of(band: CubeBand) -> tuple[float, float]:
    """Return a typical physical value of a band, and the size of its variation.

    Median and distance of the quartiles of a sample of at most 36,864 pixels, also of a lazy band, of which at most 36
    windows are read. The size is rounded to a power of two and the value to a multiple of it, so that crops of one
    scene mostly agree.

    Parameters
    ----------
    band
        Any band; nodata and NaN do not count. Without a valid pixel in the sample: (0, 1).
    """
    windows = {
        str(i): ((f"y{i}", f"x{i}"), band.data[index]) for i, index in enumerate(_windows(band.data.shape))
    }
    # All windows of a lazy band in one go: they share blocks.
    stored = np.concatenate([window.values.ravel() for window in xr.Dataset(windows).load().values()])
    values = _physical(band, stored)
    if not values.size:
        return 0.0, 1.0
    low, middle, high = (float(v) for v in np.quantile(values, (0.25, 0.5, 0.75)))
    spread = (high - low) / _QUARTILES or float(values.std())
    if not spread > 0:
        return middle, 1.0
    unit = float(2.0 ** np.round(np.log2(spread)))
    return round(middle / unit) * unit, unit


def _windows(shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
    dates, *axes = (
        np.unique(np.linspace(0, max(size - edge, 0), count).astype(int)).tolist()
        for size, edge, count in zip(
            shape, (1, _WINDOW_PX, _WINDOW_PX), (_DATES, _WINDOWS, _WINDOWS), strict=True
        )
    )
    return [
        (date, slice(row, row + _WINDOW_PX), slice(col, col + _WINDOW_PX))
        for date, row, col in product(dates, *axes)
    ]


def _physical(band: CubeBand, stored: NDArray[Any]) -> NDArray[np.float64]:
    valid = np.isfinite(stored)
    if band.nodata is not None:
        valid &= stored != band.nodata
    return band.scaling(stored[valid])
