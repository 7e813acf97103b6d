"""Corruptions that mix a pixel with its neighbours: blur, motion, misregistration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from eoaug.corruptions.request import CorruptionRequest, ImageAt, drawn
from eoaug.corruptions.resampling import LEAST_WEIGHT, keys_weights
from eoaug.corruptions.units import ImageBand
from eoaug.raster.arrays import Float64Array

__all__ = ["blurred", "reach_px"]

_SIGMAS = 4.0
"""Standard deviations at which a point spread function ends."""


def reach_px(request: CorruptionRequest) -> int:
    """Return how many pixels around a pixel it depends on."""
    if request.kind == "gaussian_blur":
        return math.ceil(_SIGMAS * request.number("sigma_px"))
    if request.kind == "motion_blur":
        return math.ceil(request.number("length_px") / 2) + 1
    return math.ceil(request.number("shift_px")) + 2


def blurred(images: Sequence[Float64Array], at: ImageAt) -> list[Float64Array]:
    """Return the bands of one image, each filtered with its own kernel.

    Missing pixels stay missing and have no weight in the others. Decibels are averaged as power.
    """
    request = at.request
    return [
        _filtered(image, band, _kernel(band, at)) if affected else image
        for image, band, affected in zip(images, request.bands, request.affected, strict=True)
    ]


_Taps = list[tuple[int, int, float]]
"""Row and column offset of a neighbour, and its weight; the weights sum to 1."""


def _kernel(band: ImageBand, at: ImageAt) -> list[_Taps]:
    """Return filters to be applied one after the other."""
    kind = at.request.kind
    if kind == "gaussian_blur":
        from scipy import special

        sigma = at.number("sigma_px")
        if sigma == 0:
            return []
        reach = reach_px(at.request)
        # Integrated over pixels: samples of a narrow Gaussian have twice its transfer at Nyquist.
        weights = np.diff(special.ndtr((np.arange(-reach, reach + 2) - 0.5) / sigma))
        weights /= weights.sum()
        pairs = list(zip(range(-reach, reach + 1), weights.tolist(), strict=True))
        return [[(k, 0, w) for k, w in pairs], [(0, k, w) for k, w in pairs]]
    if kind == "motion_blur":
        return [_line(at.number("length_px"), at.number("heading_deg"))]
    of = at.request.values["of"] or ("bands" if len(at.request.bands) > 1 else "dates")
    angle = 2 * math.pi * drawn(at.request, band.name if of == "bands" else at.time)
    shift = at.number("shift_px")
    return _shifts(shift * math.sin(angle), shift * math.cos(angle))


def _line(length_px: float, heading_deg: float) -> list[tuple[int, int, float]]:
    """Return the mean along a line, with bilinear weights; the heading is clockwise from the top of the image."""
    count = max(2, math.ceil(4 * length_px))
    along = (np.arange(count) + 0.5) / count * length_px - length_px / 2
    heading = math.radians(heading_deg)
    taps: dict[tuple[int, int], float] = {}
    for position in along.tolist():
        y, x = -position * math.cos(heading), position * math.sin(heading)
        row, col = math.floor(y), math.floor(x)
        for i, wy in ((row, row + 1 - y), (row + 1, y - row)):
            for j, wx in ((col, col + 1 - x), (col + 1, x - col)):
                taps[i, j] = taps.get((i, j), 0.0) + wy * wx / count
    return [(i, j, w) for (i, j), w in sorted(taps.items()) if w > 1e-12]


def _shifts(rows: float, cols: float) -> list[_Taps]:
    """Return Keys' cubic interpolation at a shifted place, along rows and then along columns."""
    filters: list[_Taps] = []
    for shift, down in ((rows, True), (cols, False)):
        first = math.floor(shift)
        weights = keys_weights(np.array(shift - first))
        taps = [(first - 1 + k, float(weight)) for k, weight in enumerate(weights)]
        filters.append([(k, 0, w) if down else (0, k, w) for k, w in taps if w != 0])
    return filters


def _filtered(image: Float64Array, band: ImageBand, filters: list[_Taps]) -> Float64Array:
    valid = ~np.isnan(image)
    values = 10 ** (image / 10) if band.quantity == "decibel" else image
    total, weight = np.where(valid, values, 0.0), valid.astype(np.float64)
    for taps in filters:
        total, weight = _correlated(total, taps), _correlated(weight, taps)
    # A pixel next to a gap has the mean of what there is; negative lobes must not make it explode.
    usable = valid & (weight > LEAST_WEIGHT)
    mean = np.where(usable, total / np.where(usable, weight, 1.0), np.where(valid, values, np.nan))
    return 10 * np.log10(np.maximum(mean, 1e-6)) if band.quantity == "decibel" else mean


def _correlated(image: Float64Array, taps: _Taps) -> Float64Array:
    """Return the weighted sum of shifted images, in the order of the taps; 0 lies beyond the edges."""
    out = np.zeros_like(image)
    height, width = image.shape
    for down, right, weight in taps:
        rows = slice(max(down, 0), min(height + down, height))
        cols = slice(max(right, 0), min(width + right, width))
        if rows.stop > rows.start and cols.stop > cols.start:
            to = (
                slice(rows.start - down, rows.stop - down),
                slice(cols.start - right, cols.stop - right),
            )
            out[to] += weight * image[rows, cols]
    return out
