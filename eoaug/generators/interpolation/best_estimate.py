"""The best linear estimate of a request, and its expected error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from eoaug.generators.base import CONTEXT_CELL_PX, CONTEXT_CELLS, Request
from eoaug.generators.interpolation import push_pull, time_series
from eoaug.generators.interpolation.kriging import fill
from eoaug.generators.interpolation.regression import Residuals, guided, regressed
from eoaug.generators.interpolation.spread import local_spread, size_of_errors
from eoaug.generators.interpolation.time_kriging import DAY_S, MEMORIES, in_time, kriging_weights, scales
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["best_linear_estimate"]


_ROUGH = 0.3
"""Noise in what a regression leaves, over its variance between neighbouring pixels."""

_NEAR_DOUBT_PX, _FAR_DOUBT_PX = 10.0, 20.0
"""Standard deviations of the windows that errors are averaged over: of clear pixels, of whole dates."""
_DOUBT_FLOOR = 0.02
"""Least expected error, model units: noise of the sensor."""
_DOUBTS = {"pixels": 0.83, "dates": 1.25}
"""Errors over their foretold size: median over windows of the training cubes; of dates, without the level's."""

_CELL_SPREAD = (1.02, 1.82)
"""How much pixels vary around a place, and in a tile, over how much the cells around do (median)."""
_CELL_LEFT = 1.37
"""How much of a departure is left at pixels over what is left at cells (median)."""
_RATIO_PX = 8.0
"""Standard deviation of the window over which such a ratio is carried on into a gap."""
_GROWTH = (0.75, 0.5, 8.0)
"""What is drawn in a gap over the size of the detail around: at its rim, what it grows by inside, and within how
many pixels. Errors grow further (0.85, 1.14, 1.23, 1.5, 1.63, 1.66 and 1.75 at 2, 6, 12, 20, 28, 40 and 60 px;
440 windows), by large scales that a tile cannot draw: as detail they would stand out as speckle."""
_TILE_FLOOR = 0.03
"""Least contrast of a tile, model units."""


def best_linear_estimate(request: Request, target: int) -> tuple[Float32Array, Float32Array]:
    """Return the best linear estimate of a date and how far off it may be.

    Both of shape (C, H, W) and in model units: the estimate, with known pixels as they are, and the root
    mean square of its error as clear pixels of the date, or each other date estimated from the rest, tell it.

    Parameters
    ----------
    request
        Without a coarse measurement. With ``wide``, what lies around the tile counts as well, so that tiles
        within one large gap agree.
    target
        Index of the date. Its pixels under ``fill`` count as unknown.
    """
    known = request.known & ~request.fill
    values, seen = request.values[target], known[target]
    others = [date for date in range(len(known)) if date != target and known[date].any()]
    wide = _beyond(request)
    cells: Float32Array | None = None if wide is None else wide[target]
    expected: Float32Array = np.zeros_like(values)
    doubt: Float32Array | None = None
    if others:
        times, when = request.times[others], int(request.times[target])
        dates = _whole(request.values[others], known[others], times)
        alone = not seen.any() and (wide is None or not np.isfinite(wide[target]).any())
        expected = in_time(dates, times, when, sharp=not alone)
        here = Residuals(dates, values - expected, seen)
        around = None
        if wide is not None:
            told = np.isfinite(wide[others])
            beside = _whole(np.where(told, wide[others], np.float32(0)), told, times)
            awaited = in_time(beside, times, when, pixel=CONTEXT_CELL_PX, sharp=True)
            around = Residuals(beside, wide[target] - awaited, np.isfinite(wide[target]))
            cells = around.departure
        if alone:
            return expected, _doubt_of_dates(dates, times, when)
        moves = regressed(here, around)
        expected = expected + moves[0]
        if around is not None:
            cells = around.departure - moves[1]
        doubt = _doubt_of_pixels(values - expected, seen, cells)
    noise, mean = (_ROUGH if others else 0.0), None
    if cells is not None:
        expected, mean = expected + _surface(cells), 0.0
    left: Float32Array = np.ones((1, 1, 1), np.float32)
    if request.layout is not None and seen.any():
        drift, left = guided(values - expected, seen, request.layout)
        # Only what a smooth surface through the known pixels does not know of it already.
        expected = expected + drift - fill(drift, seen, noise=noise)
    found = np.where(seen, values, expected + fill(values - expected, seen, noise=noise, mean=mean))
    doubt = _doubt_of_gap(found, seen, cells) if doubt is None else doubt
    return found, (left * doubt).astype(np.float32)


def _surface(cells: Float32Array) -> Float32Array:
    """Return what the surroundings let expect of a tile."""
    told = np.isfinite(cells)
    inner = np.s_[:, CONTEXT_CELLS - 1 : 1 - CONTEXT_CELLS, CONTEXT_CELLS - 1 : 1 - CONTEXT_CELLS]
    whole = cells if told[inner].all() else fill(np.where(told, cells, np.float32(0)), told)
    return push_pull.from_cells(whole)


def _beyond(request: Request) -> Float32Array | None:
    """Return the surroundings; None where no cell of them lies beyond the tile: it knows itself better."""
    if request.context_cells is None:
        return None
    known = np.isfinite(request.context_cells)
    known[..., CONTEXT_CELLS:-CONTEXT_CELLS, CONTEXT_CELLS:-CONTEXT_CELLS] = False
    return request.context_cells if known.any() else None


def _doubt_of_gap(found: Float32Array, seen: BoolArray, cells: Float32Array | None) -> Float32Array:
    """Return the size of errors as the land around varies, larger the further a known pixel is."""
    near, told = local_spread(found, seen if seen.any() else np.ones(seen.shape, bool))
    away_px = _away_px(seen)
    if cells is None:
        contrast: Float32Array = np.hypot(found.std(axis=(1, 2), keepdims=True), np.float32(_TILE_FLOOR))
        near = push_pull.push_pull(near, told)
    else:
        around, between = local_spread(cells, np.isfinite(cells), window_px=1.0)
        varied = np.maximum(_surface(np.where(between, around, np.float32(np.nan))), _TILE_FLOOR / 10)
        expected, contrast = (np.float32(ratio) * varied for ratio in _CELL_SPREAD)
        near = _carried(near, told & seen.any(), expected)
        away_px = np.minimum(away_px, _surface(_away_px(np.isfinite(cells)) * CONTEXT_CELL_PX))
    rim, more, within_px = _GROWTH
    growth = rim + more * (1 - np.exp(-away_px / within_px))
    return (growth * size_of_errors(near, contrast)).astype(np.float32)


def _away_px(seen: BoolArray) -> Float32Array:
    """Return the distance of each pixel, or cell, to the nearest known one; without any, the largest."""
    furthest = np.full(seen.shape, float(max(seen.shape[1:])), np.float32)
    return np.stack(
        [
            ndimage.distance_transform_edt(~plane).astype(np.float32) if plane.any() else far
            for plane, far in zip(seen, furthest, strict=True)
        ]
    )


def _doubt_of_pixels(left: Float32Array, seen: BoolArray, cells: Float32Array | None) -> Float32Array:
    """Return the size of errors as what is left at clear pixels, and cells, around tells it."""
    size, told = _rms(left, seen, _NEAR_DOUBT_PX)
    if cells is None:
        size = push_pull.push_pull(size, told)
    else:
        around, between = _rms(cells, np.isfinite(cells), _NEAR_DOUBT_PX / CONTEXT_CELL_PX)
        size = _carried(
            size, told, np.float32(_CELL_LEFT) * _surface(np.where(between, around, np.float32(np.nan)))
        )
    doubt: Float32Array = np.hypot(_DOUBTS["pixels"] * size, _DOUBT_FLOOR)
    return doubt


def _rms(image: Float32Array, known: BoolArray, window_px: float) -> tuple[Float32Array, BoolArray]:
    """Return the root mean square around each pixel, and where enough is known to tell."""
    spread = (0, window_px, window_px)
    weight = ndimage.gaussian_filter(known.astype(np.float32), spread, mode="reflect")
    square = ndimage.gaussian_filter(np.where(known, image, 0) ** 2, spread, mode="reflect")
    return np.sqrt(square / np.maximum(weight, 1e-3)), weight > 0.1


def _carried(near: Float32Array, told: BoolArray, expected: Float32Array) -> Float32Array:
    """Return ``near`` where told, elsewhere what the surroundings let expect.

    In a gap wider than the tile nothing in it varies, and its neighbours must come to the same size: their
    ratio is carried on into the gap and forgotten.
    """
    ratio = np.where(told, np.log(np.maximum(near, 1e-3) / np.maximum(expected, 1e-3)), 0)
    spread = (0, _RATIO_PX, _RATIO_PX)
    carried = ndimage.gaussian_filter(ratio, spread, mode="reflect")
    carried /= ndimage.gaussian_filter(told.astype(np.float32), spread, mode="reflect") + 0.1
    size: Float32Array = expected * np.exp(np.where(told, ratio, carried))
    return size


def _doubt_of_dates(dates: Float32Array, times: NDArray[np.int64], when: int) -> Float32Array:
    """Return the size of errors as detail around varies and as far as it is not remembered.

    Errors of the level are left out: a tile cannot draw them, and as detail they would stand out as speckle.
    """
    away = (times - when) / DAY_S
    square: Float32Array = np.zeros_like(dates[0])
    for part, memory, weights in list(zip(scales(dates), MEMORIES, kriging_weights(away), strict=True))[1:]:
        forgotten = np.float32(1 - weights @ memory.shared(away))
        square += forgotten * np.square(part).mean(axis=0)
    square = ndimage.gaussian_filter(square, (0, _FAR_DOUBT_PX, _FAR_DOUBT_PX), mode="reflect")
    return np.hypot(_DOUBTS["dates"] * np.sqrt(square), _DOUBT_FLOOR).astype(np.float32)


def _whole(values: Float32Array, known: BoolArray, times: NDArray[np.int64]) -> Float32Array:
    """Return dates with their gaps filled from each other."""
    dates: Sequence[Float32Array] = [
        values[date] if known[date].all() else time_series.temporal(values, known, times, date)
        for date in range(len(values))
    ]
    return np.stack(dates)
