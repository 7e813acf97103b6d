"""The best linear estimate of a request, and its expected error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug.generators.base import CONTEXT_CELL_PX, CONTEXT_CELLS, Request, present_bands
from eoaug.generators.interpolation import push_pull
from eoaug.generators.interpolation.from_dates import from_dates
from eoaug.generators.interpolation.kriging import fill
from eoaug.generators.interpolation.regression import external_drift
from eoaug.generators.interpolation.spread import local_spread, size_of_errors, smoothed
from eoaug.generators.interpolation.time_kriging import COVARIANCES, DAY_S, kriging_weights, scales
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["LinearEstimate", "best_linear_estimate"]


_PIXEL_ERROR_PX, _DATE_ERROR_PX = 10.0, 20.0
"""Standard deviations of the windows that squared errors are averaged over: at clear pixels, of whole dates."""
_ERROR_FLOOR = 0.02
"""Least expected error, model units: the noise of the sensor."""
_ERROR_RATIOS = {"pixels": 0.83, "dates": 1.25}
"""Actual over predicted errors, median over windows of the training cubes; for dates without the error of the level."""

_CELL_SPREAD = (1.02, 1.82)
"""Standard deviation of pixels, locally and within a tile, over that of the context cells around (median)."""
_CELL_LEFT = 1.37
"""Residual departure at pixels over that at context cells (median)."""
_RATIO_PX = 8.0
"""Standard deviation of the window over which such a ratio is extrapolated into a gap."""
_GROWTH = (0.75, 0.5, 8.0)
"""Expected error in a gap over the local contrast around it: at the rim, its growth inside, and the length of that
growth in pixels. Actual errors grow further (0.85, 1.14, 1.23, 1.5, 1.63, 1.66 and 1.75 at 2, 6, 12, 20, 28, 40 and
60 px; 440 windows), but at scales too large for a tile: as detail they would show as speckle."""
_TILE_FLOOR = 0.03
"""Least contrast of a tile, model units."""


@dataclass(eq=False)
class LinearEstimate:
    """The best linear estimate of a date; arrays have shape (C, H, W) and model units."""

    image: Float32Array
    """The estimate, which keeps known pixels."""
    find_error: Callable[[], Float32Array]
    """Finds ``error``, which costs about as much as the estimate and which a best estimate alone does not need."""
    limits: tuple[Float32Array, Float32Array] | None = None
    """Least and largest value that other dates support; None without other dates."""

    @cached_property
    def error(self) -> Float32Array:
        """The root mean square error, estimated from the clear pixels of the date, or from the others if it has none."""
        return self.find_error()


def best_linear_estimate(request: Request, target: int) -> LinearEstimate:
    """Return the best linear estimate of a date, with its expected error.

    Parameters
    ----------
    request
        Without a coarse measurement. With ``context_cells``, the estimate uses what lies around the tile as well, so
        that tiles within one large gap agree.
    target
        Index of the date. Its pixels under ``fill`` count as unknown.
    """
    known = request.known & ~request.fill
    values, clear = request.values[target], known[target]
    context = _context(request)
    if (np.delete(known, target, axis=0)).any():
        return _with_dates(request, target, known, context)
    cells: Float32Array | None = None if context is None else context[target]
    expected: Float32Array = np.zeros_like(values)
    mean = None
    if cells is not None:
        expected, mean = _surface(cells), 0.0
    left: Float32Array = np.ones((1, 1, 1), np.float32)
    if request.layout is not None and clear.any():
        drift, left = external_drift(values - expected, clear, request.layout)
        # Minus what a smooth surface through the known pixels reproduces of the drift already.
        expected = expected + drift - fill(drift, clear)
    estimate = np.where(clear, values, expected + fill(values - expected, clear, mean=mean))
    return LinearEstimate(estimate, lambda: (left * _error_in_gap(estimate, clear, cells)).astype(np.float32))


def _with_dates(
    request: Request, target: int, known: BoolArray, context: Float32Array | None
) -> LinearEstimate:
    """Return the best linear estimate of a date, with its expected error, where other dates are known."""
    given = present_bands(request)
    cells = None if context is None else context[:, given]
    found = from_dates(request.values[:, given], known[:, given], request.times, target, cells)
    image, when = found.image, int(request.times[target])
    left: Float32Array = np.ones((1, 1, 1), np.float32)
    if not found.alone and request.layout is not None and found.clear.any():
        drift, left = external_drift(found.left, found.clear, request.layout)
        image = image + drift - push_pull.push_pull(drift, found.clear)
    estimate = np.zeros(request.values.shape[1:], np.float32)
    low, high = found.limits
    estimate[given] = np.clip(image, low, high)
    limits = np.full_like(estimate, -np.inf), np.full_like(estimate, np.inf)
    limits[0][given], limits[1][given] = low, high

    def error() -> Float32Array:
        # A band that the cube lacks has an error too: residuals are divided by it.
        expected = np.full(estimate.shape, _ERROR_FLOOR, np.float32)
        if found.alone:
            expected[given] = _error_from_dates(found.dates, found.times, when)
        else:
            expected[given] = left * _error_from_pixels(found.left, found.clear, found.cells_left)
        return expected

    return LinearEstimate(np.where(known[target], request.values[target], estimate), error, limits)


def _surface(cells: Float32Array) -> Float32Array:
    """Return a smooth surface through the context cells over the tile, shape (C, H, W)."""
    enough = np.isfinite(cells)
    inner = np.s_[:, CONTEXT_CELLS - 1 : 1 - CONTEXT_CELLS, CONTEXT_CELLS - 1 : 1 - CONTEXT_CELLS]
    whole = cells if enough[inner].all() else fill(np.where(enough, cells, np.float32(0)), enough)
    return push_pull.from_cells(whole)


def _context(request: Request) -> Float32Array | None:
    """Return the context cells; None if none beyond the tile is known, for inside it pixels say more."""
    if request.context_cells is None:
        return None
    known = np.isfinite(request.context_cells)
    known[..., CONTEXT_CELLS:-CONTEXT_CELLS, CONTEXT_CELLS:-CONTEXT_CELLS] = False
    return request.context_cells if known.any() else None


def _error_in_gap(estimate: Float32Array, clear: BoolArray, cells: Float32Array | None) -> Float32Array:
    """Return the expected error in a gap from the local contrast around it; it grows with the distance to known pixels."""
    near, enough = local_spread(estimate, clear if clear.any() else np.ones(clear.shape, bool))
    away_px = _away_px(clear)
    if cells is None:
        contrast: Float32Array = np.hypot(estimate.std(axis=(1, 2), keepdims=True), np.float32(_TILE_FLOOR))
        near = push_pull.push_pull(near, enough)
    else:
        around, between = local_spread(cells, np.isfinite(cells), window_px=1.0)
        varied = np.maximum(_surface(np.where(between, around, np.float32(np.nan))), _TILE_FLOOR / 10)
        expected, contrast = (np.float32(ratio) * varied for ratio in _CELL_SPREAD)
        near = _extrapolated(near, enough & clear.any(), expected)
        away_px = np.minimum(away_px, _surface(_away_px(np.isfinite(cells)) * CONTEXT_CELL_PX))
    rim, more, within_px = _GROWTH
    growth = rim + more * (1 - np.exp(-away_px / within_px))
    return (growth * size_of_errors(near, contrast)).astype(np.float32)


def _away_px(clear: BoolArray) -> Float32Array:
    """Return the distance of each pixel, or cell, to the nearest known one; without any, the longer edge."""
    furthest = np.full(clear.shape, float(max(clear.shape[1:])), np.float32)
    return np.stack(
        [
            ndimage.distance_transform_edt(~plane).astype(np.float32) if plane.any() else far
            for plane, far in zip(clear, furthest, strict=True)
        ]
    )


def _error_from_pixels(left: Float32Array, clear: BoolArray, cells: Float32Array | None) -> Float32Array:
    """Return the expected error from the residuals at clear pixels and context cells nearby."""
    size, enough = _rms(left, clear, _PIXEL_ERROR_PX)
    if cells is None:
        size = push_pull.push_pull(size, enough)
    else:
        around, between = _rms(cells, np.isfinite(cells), _PIXEL_ERROR_PX / CONTEXT_CELL_PX)
        size = _extrapolated(
            size, enough, np.float32(_CELL_LEFT) * _surface(np.where(between, around, np.float32(np.nan)))
        )
    expected_error: Float32Array = np.hypot(_ERROR_RATIOS["pixels"] * size, _ERROR_FLOOR)
    return expected_error


def _rms(image: Float32Array, known: BoolArray, window_px: float) -> tuple[Float32Array, BoolArray]:
    """Return the local root mean square, and a mask of where enough pixels are known."""
    weight = smoothed(known.astype(np.float32), window_px)
    square = smoothed(np.where(known, image, np.float32(0)) ** 2, window_px)
    return np.sqrt(square / np.maximum(weight, 1e-3)), weight > 0.1


def _extrapolated(near: Float32Array, enough: BoolArray, expected: Float32Array) -> Float32Array:
    """Return ``near`` where ``enough`` pixels are known, elsewhere ``expected`` times their extrapolated ratio.

    The ratio decays to 1 inside the gap: in a gap wider than a tile no pixel is known, and neighbouring tiles must
    arrive at the same value.
    """
    ratio = np.where(enough, np.log(np.maximum(near, 1e-3) / np.maximum(expected, 1e-3)), 0)
    carried = smoothed(ratio, _RATIO_PX)
    carried /= smoothed(enough.astype(np.float32), _RATIO_PX) + 0.1
    size: Float32Array = expected * np.exp(np.where(enough, ratio, carried))
    return size


def _error_from_dates(dates: Float32Array, times: NDArray[np.int64], when: int) -> Float32Array:
    """Return the expected error from the local variance of detail that is uncorrelated in time.

    Errors of the level are left out: they are larger than a tile, and as detail would show as speckle.
    """
    away = (times - when) / DAY_S
    square: Float32Array = np.zeros_like(dates[0])
    for part, covariance, weights in list(
        zip(scales(dates), COVARIANCES, kriging_weights(away), strict=True)
    )[1:]:
        uncorrelated = np.float32(1 - weights @ covariance.at_lag(away))
        square += uncorrelated * np.square(part).mean(axis=0)
    square = smoothed(square, _DATE_ERROR_PX)
    return np.hypot(_ERROR_RATIOS["dates"] * np.sqrt(square), _ERROR_FLOOR).astype(np.float32)
