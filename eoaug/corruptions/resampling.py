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
        # In pixel centres of the source; of grids that are not rotated, a column of y and a row of x.
        x = to_source.a * cols + to_source.c - 0.5
        y = to_source.e * rows + to_source.f - 0.5
        if to_source.b or to_source.d:
            x, y = x + to_source.b * rows, y + to_source.d * cols
        height, width = source.shape
        self._shape = core.shape
        self._padded = height + 2 * _BORDER, width + 2 * _BORDER
        first = [np.floor(at).astype(np.int64) for at in (y, x)]
        self._weights = [
            keys_weights(np.asarray(at - whole, np.float64)) for at, whole in zip((y, x), first, strict=True)
        ]
        # Integers are counted from the window only now: floats would be rounded in another way for every window.
        begin = source.top - _BORDER, source.left - _BORDER
        self._first = [whole - start for whole, start in zip(first, begin, strict=True)]
        nearest = (np.floor(at + 0.5).astype(np.int64) for at in (y, x))
        self._nearest = [whole - start for whole, start in zip(nearest, begin, strict=True)]

    def _flat(self, places: list[NDArray[np.int64]], down: int, right: int) -> NDArray[np.int64]:
        """Return indices into a padded image; whatever lies beyond it has the index of a pixel of the border."""
        last = [size - 1 for size in self._padded]
        i = np.clip(places[0], 1, last[0] - 2) + down
        j = np.clip(places[1], 1, last[1] - 2) + right
        return np.broadcast_to(i * self._padded[1] + j, self._shape)

    def nearest(self, image: NDArray[np.generic], ignore: object) -> NDArray[np.generic]:
        """Return the nearest pixels of a source window; ``ignore`` beyond it."""
        padded = np.pad(image, _BORDER, constant_values=np.asarray(ignore, image.dtype)[()])
        return np.take(padded, self._flat(self._nearest, 0, 0))

    def any_near(self, image: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return True where one of the pixels that `cubic` reads is True."""
        padded = np.pad(image, _BORDER)
        out = np.zeros(self._shape, bool)
        for down in range(-1, 3):
            for right in range(-1, 3):
                out |= np.take(padded, self._flat(self._first, down, right))
        return out

    def cubic(self, image: Float64Array) -> Float64Array:
        """Return Keys' cubic interpolation; NaN where the nearest pixel is missing, which has no weight elsewhere."""
        valid = np.pad(~np.isnan(image), _BORDER).astype(np.float64)
        values = np.pad(np.nan_to_num(image), _BORDER)
        total, weight = np.zeros(self._shape), np.zeros(self._shape)
        for down in range(4):
            for right in range(4):
                share = self._weights[0][down] * self._weights[1][right]
                flat = self._flat(self._first, down - 1, right - 1)
                total += share * np.take(values, flat)
                weight += share * np.take(valid, flat)
        near = np.asarray(self.nearest(image, np.nan), np.float64)
        usable = ~np.isnan(near) & (weight > LEAST_WEIGHT)
        return np.where(usable, total / np.where(usable, weight, 1.0), near)


_BORDER = 4
"""Pixels around a source window that hold nothing, so that every index is one of the padded image."""
LEAST_WEIGHT = 0.2
"""Weight of the pixels that there are, below which the nearest one is taken: negative lobes would make it explode."""
