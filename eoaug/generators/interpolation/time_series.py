"""Interpolation in time, corrected from clear pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["gap_filled", "linear", "shown_range", "temporal"]


def temporal(
    values: Float32Array,
    known: BoolArray,
    times: NDArray[np.int64],
    target: int,
    context: Float32Array | None = None,
) -> Float32Array:
    """Return the estimate of one date from the others and from its own clear pixels.

    Each pixel is linear in time between the nearest known dates, or keeps the nearest one where only one
    side is known. The error of this estimate at the clear pixels of the target date is interpolated over the other
    pixels and added (`push_pull`). Pixels without any known date are filled from their neighbours. A band stays within
    what any date shows of it in the tile and around: an error found on bright land would make dark land negative.

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
    context
        As `Request.context_cells`: the error is interpolated from clear cells around the tile as well.

    Returns
    -------
    Shape (C, H, W); the target's known pixels come back bit for bit.
    """
    expected, predictable = linear(values, known, times, target)
    clear = known[target]
    errors, rest = (None, None) if context is None else _of_cells(context, times, target)
    error = push_pull(values[target] - expected, clear & predictable, errors)
    low, high = shown_range(values, known, context)
    corrected = np.where(clear, values[target], np.clip(expected + error, low, high))
    return push_pull(corrected, clear | predictable, rest)


def shown_range(
    values: Float32Array, known: BoolArray, cells: Float32Array | None = None
) -> tuple[Float32Array, Float32Array]:
    """Return the least and the largest number that any date shows of a band, in the tile or around it.

    Shapes as in `temporal`; both results (C, 1, 1), without a known pixel -inf and inf.
    """
    axes = (0, 2, 3)
    low = np.where(known, values, np.float32(np.inf)).min(axis=axes)
    high = np.where(known, values, np.float32(-np.inf)).max(axis=axes)
    if cells is not None:
        there = np.isfinite(cells)
        low = np.minimum(low, np.where(there, cells, np.float32(np.inf)).min(axis=axes))
        high = np.maximum(high, np.where(there, cells, np.float32(-np.inf)).max(axis=axes))
    some = low <= high
    low, high = np.where(some, low, np.float32(-np.inf)), np.where(some, high, np.float32(np.inf))
    return low[:, None, None], high[:, None, None]


def _of_cells(
    context: Float32Array, times: NDArray[np.int64], target: int
) -> tuple[Float32Array, Float32Array]:
    """Return the error of the estimate at context cells, and the corrected cells; NaN where unknown."""
    known = np.isfinite(context)
    expected, predictable = linear(np.where(known, context, np.float32(0)), known, times, target)
    error = np.where(predictable, context[target] - expected, np.float32(np.nan))
    corrected = expected + push_pull(error, np.isfinite(error))
    rest = np.where(predictable, corrected, np.float32(np.nan))
    return error, np.where(known[target], context[target], rest)


def gap_filled(values: Float32Array, known: BoolArray, times: NDArray[np.int64]) -> Float32Array:
    """Return dates (T, C, H, W) with the gaps of each filled from the others, as `temporal` does."""
    out: Float32Array = values.copy()
    partly = [date for date in range(len(values)) if not known[date].all()]
    if not partly:
        return out
    expected, predictable = _lines(values, known, times, partly)
    clear = known[partly]
    error = push_pull(values[partly] - expected, clear & predictable)
    low, high = shown_range(values, known)
    moved = np.clip(expected + error, low, high)
    out[partly] = push_pull(np.where(clear, values[partly], moved), clear | predictable)
    return out


def linear(
    values: Float32Array, known: BoolArray, times: NDArray[np.int64], target: int
) -> tuple[Float32Array, BoolArray]:
    """Return the linear interpolation of a date from the nearest others (0 without any), and a mask of where one is known.

    Parameters and shapes as in `temporal`.
    """
    expected, predictable = _lines(values, known, times, [target])
    return expected[0], predictable[0]


def _lines(
    values: Float32Array, known: BoolArray, times: NDArray[np.int64], targets: Sequence[int]
) -> tuple[Float32Array, BoolArray]:
    """Return `linear` of several dates, shape (n, C, H, W)."""
    from eoaug.generators.interpolation.compiled.planes import lines_in_time

    planes, shape = (*values.shape[:2], -1), (len(targets), *values.shape[1:])
    expected, predictable = lines_in_time(
        np.ascontiguousarray(values, np.float32).reshape(planes),
        np.ascontiguousarray(known).reshape(planes),
        times.astype(np.float64),
        np.asarray(targets),
    )
    return expected.reshape(shape), predictable.reshape(shape)
