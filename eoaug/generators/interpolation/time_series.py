"""Interpolation in time, corrected from clear pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["temporal"]


def temporal(
    values: Float32Array,
    known: BoolArray,
    times: NDArray[np.int64],
    target: int,
    wide: Float32Array | None = None,
) -> Float32Array:
    """Return the estimate of one date from the others and from its own clear pixels.

    Each pixel is linear in time between the nearest known dates, or keeps the nearest one where only one
    side is known; what the clear pixels of the target date say about this estimate's error is spread
    smoothly over the rest (`push_pull`). Pixels without any known date are filled from around.

    Parameters
    ----------
    values
        Shape (T, C, H, W).
    known
        The same shape, True where measured.
    times
        Shape (T,), seconds, ascending.
    target
        Index of the date to estimate.
    wide
        As `Request.context_cells`: the error is spread from the surroundings' clear cells as well.

    Returns
    -------
    Shape (C, H, W); the target's known pixels come back bit for bit.
    """
    expected, expectable = _expected(values, known, times, target)
    seen = known[target]
    errors, rest = (None, None) if wide is None else _of_cells(wide, times, target)
    error = push_pull(values[target] - expected, seen & expectable, errors)
    corrected = np.where(seen, values[target], expected + error)
    return push_pull(corrected, seen | expectable, rest)


def _of_cells(wide: Float32Array, times: NDArray[np.int64], target: int) -> tuple[Float32Array, Float32Array]:
    """Return the error of what is expected of the cells of a date, and these cells corrected; NaN where unknown."""
    told = np.isfinite(wide)
    expected, expectable = _expected(np.where(told, wide, np.float32(0)), told, times, target)
    error = np.where(expectable, wide[target] - expected, np.float32(np.nan))
    corrected = expected + push_pull(error, np.isfinite(error))
    rest = np.where(expectable, corrected, np.float32(np.nan))
    return error, np.where(told[target], wide[target], rest)


def _expected(
    values: Float32Array, known: BoolArray, times: NDArray[np.int64], target: int
) -> tuple[Float32Array, BoolArray]:
    """Return one date as a line in time through the nearest others, 0 where none is known, and where."""
    past, past_time, has_past = _nearest(values, known, times, range(target - 1, -1, -1))
    future, future_time, has_future = _nearest(values, known, times, range(target + 1, len(times)))
    span = future_time - past_time
    # Two dates of one moment count half each.
    share = np.divide(times[target] - past_time, span, out=np.full(span.shape, 0.5), where=span > 0)
    between = past + share.astype(np.float32) * (future - past)
    expected = np.where(has_past & has_future, between, np.where(has_past, past, future))
    return expected, has_past | has_future


def _nearest(
    values: Float32Array, known: BoolArray, times: NDArray[np.int64], dates: range
) -> tuple[Float32Array, NDArray[np.float64], BoolArray]:
    """Return value, time and presence of the first known date of ``dates`` per pixel, (C, H, W) each."""
    value = np.zeros(values.shape[1:], np.float32)
    time = np.zeros(values.shape[1:])
    found = np.zeros(values.shape[1:], dtype=bool)
    for date in dates:
        take = known[date] & ~found
        value = np.where(take, values[date], value)
        time = np.where(take, times[date], time)
        found = found | take
    return value, time, found
