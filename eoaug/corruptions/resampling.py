"""Resampling of windows under an affine map, so that every output pixel is a function of its place."""

from __future__ import annotations

import math

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from eoaug.raster.arrays import Float64Array
from eoaug.raster.tiles import Window

__all__ = ["LEAST_WEIGHT", "Taps", "keys_weights", "source_window"]

_PAD = 3
"""Pixels around a window that interpolation may need."""


def keys_weights(fraction: Float64Array) -> list[Float64Array]:
    """Return the four weights of Keys' cubic interpolation (a = -1/2; Keys 1981, doi:10.1109/TASSP.1981.1163711).

    Parameters
    ----------
    fraction
        Any shape, 0 to 1: distance from the second of the four pixels.
    """
    t = fraction
    return [
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    ]


def source_window(core: Window, to_source: Affine, extent: Window) -> Window:
    """Return the pixels that resampling a window needs.

    Parameters
    ----------
    core
        Window of the result, counted from its first pixel.
    to_source
        From (column, row) of the result to those of the source, both counted in pixels from the first corner.
    extent
        Pixels of the source.
    """
    corners = [(core.left, core.top), (core.right, core.top), (core.left, core.bottom)]
    points = [to_source @ corner for corner in (*corners, (core.right, core.bottom))]
    cols, rows = zip(*points, strict=True)
    around = Window(math.floor(min(rows)), math.floor(min(cols)), math.ceil(max(rows)), math.ceil(max(cols)))
    return around.pad(_PAD) & extent


class Taps:
    """Where the pixels of a window lie in its source."""

    def __init__(self, core: Window, to_source: Affine, source: Window) -> None:
        rows = np.arange(core.top, core.bottom)[:, None] + 0.5
        cols = np.arange(core.left, core.right)[None, :] + 0.5
        # In pixel centres of the source.
        self._x = np.asarray(to_source.a * cols + to_source.b * rows + to_source.c - 0.5, np.float64)
        self._y = np.asarray(to_source.d * cols + to_source.e * rows + to_source.f - 0.5, np.float64)
        self._source = source

    def _gathered(
        self, image: NDArray[np.generic], rows: NDArray[np.int64], cols: NDArray[np.int64]
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Return the pixels at absolute places, and where there are any."""
        height, width = image.shape
        i, j = rows - self._source.top, cols - self._source.left
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        if not image.size:
            return np.zeros(inside.shape, image.dtype), inside & False
        return image[np.clip(i, 0, height - 1), np.clip(j, 0, width - 1)], inside

    def nearest(self, image: NDArray[np.generic], ignore: object) -> NDArray[np.generic]:
        """Return the nearest pixels of a source window; ``ignore`` beyond it."""
        rows, cols = (np.floor(at + 0.5).astype(np.int64) for at in (self._y, self._x))
        values, inside = self._gathered(image, rows, cols)
        return np.where(inside, values, np.asarray(ignore, image.dtype))

    def any_near(self, image: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return True where one of the pixels that `cubic` reads is True."""
        top, left = (np.floor(at).astype(np.int64) for at in (self._y, self._x))
        out = np.zeros(self._y.shape, bool)
        for down in range(-1, 3):
            for right in range(-1, 3):
                values, inside = self._gathered(image, top + down, left + right)
                out |= inside & values.astype(bool)
        return out

    def cubic(self, image: Float64Array) -> Float64Array:
        """Return Keys' cubic interpolation; NaN where the nearest pixel is missing, which has no weight elsewhere."""
        top, left = (np.floor(at).astype(np.int64) for at in (self._y, self._x))
        along_y, along_x = keys_weights(self._y - top), keys_weights(self._x - left)
        total, weight = np.zeros(self._y.shape), np.zeros(self._y.shape)
        for down in range(4):
            for right in range(4):
                values, inside = self._gathered(image, top + down - 1, left + right - 1)
                share = np.where(inside & ~np.isnan(values), along_y[down] * along_x[right], 0.0)
                total += share * np.where(share != 0, values, 0.0)
                weight += share
        near = self.nearest(image, np.nan)
        usable = ~np.isnan(near) & (weight > LEAST_WEIGHT)
        return np.where(usable, total / np.where(usable, weight, 1.0), near)


LEAST_WEIGHT = 0.2
"""Weight of the pixels that there are, below which the nearest one is taken: negative lobes would make it explode."""
