"""Interpolation in time, corrected from clear pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.interpolation.push_pull import push_pull
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["gap_filled", "linear", "temporal"]


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
    pixels and added (`push_pull`). Pixels without any known date are filled from their neighbours.

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
    corrected = np.where(clear, values[target], expected + error)
    return push_pull(corrected, clear | predictable, rest)


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
    estimates = [linear(values, known, times, date) for date in partly]
    expected, predictable = (np.stack(parts) for parts in zip(*estimates, strict=True))
    clear = known[partly]
    error = push_pull(values[partly] - expected, clear & predictable)
    out[partly] = push_pull(np.where(clear, values[partly], expected + error), clear | predictable)
    return out


def linear(
    values: Float32Array, known: BoolArray, times: NDArray[np.int64], target: int
) -> tuple[Float32Array, BoolArray]:
    """Return the linear interpolation of a date from the nearest others (0 without any), and a mask of where one is known.

    Parameters and shapes as in `temporal`.
    """
    past, past_time, has_past = _nearest(values, known, times, range(target - 1, -1, -1))
    future, future_time, has_future = _nearest(values, known, times, range(target + 1, len(times)))
    span = future_time - past_time
    # Two dates of the same moment have equal weights.
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
    done = np.zeros(values.shape[1:], dtype=bool)
    for date in dates:
        take = known[date] & ~done
        value = np.where(take, values[date], value)
        time = np.where(take, times[date], time)
        done = done | take
    return value, time, done
