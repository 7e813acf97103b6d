"""The kernels of sensor models: what a coarse pixel is of the fine ones, and the filters that undo it.

Along one axis; the kernels are separable. A kernel holds whole cells of f fine pixels, an odd number of them, with the
coarse pixel's own cell in the middle.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np

from eoaug.raster.arrays import Float64Array

__all__ = [
    "DETAIL_BANDS",
    "GAUSSIAN_MTF",
    "RESAMPLINGS",
    "Filters",
    "Resampling",
    "filters_of",
    "interpolation",
    "kernel_of",
    "noise_gains",
    "transfer_at_nyquist",
]


Resampling = Literal["box", "bilinear", "cubic", "nearest"]
"""How a coarse pixel was computed from fine ones. As GDAL and Pillow reduce images: the mean of its cell, a triangle two
coarse pixels wide, or Keys' cubic kernel four wide. ``"nearest"``: the image at the coarse pixel's centre without a filter, by
decimation or interpolation (which of the middle pixels a program takes is not known; the centre lies between them)."""
RESAMPLINGS: tuple[Resampling, ...] = get_args(Resampling)

GAUSSIAN_MTF = 0.3
"""MTF at Nyquist of ``"gaussian"``: Sentinel-2's bands lie between 0.15 and 0.3 (ESA's requirement)
to 0.35, most other land sensors near."""
_SUPPORT_SIGMA = 3.3
"""Half width of the sampled Gaussian: 0.1 % of its mass lies beyond."""
_INVERSE_CELLS = 8
"""Largest radius of the inverse filter, in coarse pixels."""
_INVERSE_ERROR = 1e-3
"""Share of a residual that the inverse filter may leave at its worst frequency before it is widened."""


_SMOOTH = np.array([0.25, 0.5, 0.25])
_DETAIL = np.array([-0.25, 0.5, -0.25])
DETAIL_BANDS = tuple((rows, cols) for rows in (_SMOOTH, _DETAIL) for cols in (_SMOOTH, _DETAIL))
"""Filters along rows and columns of the coarse grid that split an image into four bands; their sum is the image."""


class Filters(NamedTuple):
    """The filters of a sensor, one row per band or one for all."""

    kernel: Float64Array
    """Shape (1 or C, (2 m + 1) f): weights of the fine pixels around a coarse pixel, m cells each side."""
    back: Float64Array
    """Shape (1 or C, (2 n + 1) f): what a coarse pixel gives to the fine pixels around it, divided by f."""
    inverse: Float64Array
    """Shape (1 or C, 2 R + 1): weights of the coarse pixels around a coarse pixel; it undoes back, then kernel."""


@lru_cache(maxsize=64)
def filters_of(factor: int, mtf: tuple[float | Resampling, ...] | None) -> Filters:
    """Return the filters of bands with these MTF at Nyquist or resamplings; None: the mean over the cell."""
    bands = [_design(factor, value) for value in (mtf or ("box",))]
    stacked = []
    for filters in zip(*bands, strict=True):
        size = max(taps.size for taps in filters)
        stacked.append(np.stack([np.pad(taps, (size - taps.size) // 2) for taps in filters]))
        stacked[-1].flags.writeable = False
    return Filters(*stacked)


@lru_cache(maxsize=16)
def interpolation(factor: int) -> Float64Array:
    """Return Keys' kernel (a = -1/2) as weights of fine pixels around a coarse one, divided by f, shape (1, 5 f)."""
    kernel = _keys(_offsets(5 * factor) / factor)[None] / factor
    kernel.flags.writeable = False
    return kernel


def transfer_at_nyquist(factor: int, mtf: float | Resampling) -> float:
    """Return the transfer of a sampled kernel at the Nyquist frequency of the coarse grid."""
    kernel = kernel_of(factor, mtf)
    return float(np.sum(kernel * np.cos(np.pi * _offsets(kernel.size) / factor)))


@lru_cache(maxsize=256)
def kernel_of(factor: int, mtf: float | Resampling) -> Float64Array:
    """Return a kernel at the fine pixels' centres, whole cells long, of sum 1."""
    if mtf == "box":
        return np.full(factor, 1.0 / factor)
    if mtf == "bilinear":
        offset = _offsets(3 * factor) / factor
        weight = np.maximum(1.0 - np.abs(offset), 0.0)
    elif mtf == "cubic":
        weight = _keys(_offsets(5 * factor) / factor)
    elif mtf == "nearest":
        # Between the middle pixels of an even cell lies no pixel: the image there is interpolated.
        weight = _keys(_offsets((1 if factor % 2 else 3) * factor))
    else:
        sigma_px = factor * math.sqrt(-2.0 * math.log(mtf)) / math.pi
        # At least the own cell: a coarse pixel sees each of its fine pixels, however sharp it is.
        half_px = max(_SUPPORT_SIGMA * sigma_px, factor / 2)
        cells = 2 * math.ceil((half_px - factor / 2) / factor) + 1
        offset = _offsets(cells * factor)
        weight = np.where(np.abs(offset) <= half_px, np.exp(-0.5 * (offset / sigma_px) ** 2), 0.0)
    return np.asarray(weight / weight.sum())


@lru_cache(maxsize=256)
def noise_gains(factor: int, mtf: float | Resampling) -> tuple[float, ...]:
    """Return, for each of `DETAIL_BANDS`, the mean square of G (y - A x).

    y is white noise of variance 1 and x its cubic interpolation.
    """
    kernel, _, inverse = _design(factor, mtf)
    frequency = np.arange(128) / 128
    again = _response(_at_cells(kernel, interpolation(factor)[0], factor), frequency)
    sharpened = _response(inverse, frequency)
    left = np.outer(sharpened, sharpened) * (1.0 - np.outer(again, again))
    bands = (np.outer(_response(rows, frequency), _response(cols, frequency)) for rows, cols in DETAIL_BANDS)
    return tuple(round(float(np.mean((left * band) ** 2)), 6) for band in bands)


def _at_cells(kernel: Float64Array, back: Float64Array, factor: int) -> Float64Array:
    """Return A U, which is Toeplitz: both kernels correlated at whole cells, with the adjoint's gain f."""
    cells = (kernel.size + back.size) // factor // 2 - 1
    whole = np.convolve(kernel, back)
    return np.asarray(factor * whole[whole.size // 2 - cells * factor :: factor][: 2 * cells + 1])


def _offsets(size: int) -> Float64Array:
    return np.asarray(np.arange(size) + 0.5 - size / 2, np.float64)


def _keys(offset: Float64Array) -> Float64Array:
    distance = np.abs(offset)
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return np.asarray(np.where(distance < 1, near, np.where(distance < 2, far, 0.0)))


@lru_cache(maxsize=256)
def _design(factor: int, mtf: float | Resampling) -> tuple[Float64Array, Float64Array, Float64Array]:
    kernel = kernel_of(factor, mtf)
    if mtf == "box":
        return kernel, kernel, np.ones(1)
    # The adjoint of a decimation is a comb. Its correction must be smooth.
    back = interpolation(factor)[0] if mtf == "nearest" else kernel
    return kernel, back, _inverse_filter(kernel, back, factor)


def _inverse_filter(kernel: Float64Array, back: Float64Array, factor: int) -> Float64Array:
    """Return the shortest filter that undoes A U to `_INVERSE_ERROR`, or the longest allowed."""
    forward = _at_cells(kernel, back, factor)
    cells = forward.size // 2
    frequency = np.linspace(0.0, 0.5, 257)
    inverse = np.ones(1)
    for radius in range(_INVERSE_CELLS + 1):
        rows = 2 * (radius + cells) + 1
        product = np.zeros((rows, 2 * radius + 1))
        for j in range(2 * radius + 1):
            product[j : j + forward.size, j] = forward
        unit = np.zeros(rows)
        unit[rows // 2] = 1.0
        least = np.linalg.lstsq(product, unit, rcond=None)[0]
        # The level of an image must be right after one pass; the solver's last bits, which differ between
        # processors, must not.
        inverse = np.round(0.5 * (least + least[::-1]) / (least.sum() * forward.sum()), 10)
        left = 1.0 - _response(forward, frequency) * _response(inverse, frequency)
        if np.abs(left).max() < _INVERSE_ERROR:
            break
    return np.asarray(inverse)


def _response(taps: Float64Array, frequency: Float64Array) -> Float64Array:
    offset = np.arange(taps.size) - taps.size // 2
    return np.asarray(np.cos(2 * np.pi * np.outer(frequency, offset)) @ taps)
