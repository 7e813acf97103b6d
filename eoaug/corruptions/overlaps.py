"""Which pixels of a reference grid lie in the pixels of another one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eoaug.errors import GridError
from eoaug.raster.arrays import Float64Array
from eoaug.raster.grid import gsd_m
from eoaug.raster.tiles import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["Overlap", "overlaps", "sample_places"]

_MOST_SAMPLES = 32
"""Points along one axis of a pixel."""


@dataclass(frozen=True)
class Overlap:
    """By pixel of a window along one axis: which reference pixels it covers, and their shares of it."""

    index: NDArray[np.int64]
    """Shape (pixels, taps)."""
    share: Float64Array
    """Shape (pixels, taps), sums to 1."""


def overlaps(geobox: GeoBox, like: GeoBox, window: Window) -> tuple[Overlap, Overlap] | None:
    """Return which pixels of a reference grid a window's rows and columns cover; None where the axes differ.

    Parameters
    ----------
    geobox
        The grid of the window.
    like
        The reference grid.
    window
        Pixels counted from the first one of ``geobox``.
    """
    if (geobox.crs is None) != (like.crs is None):
        raise GridError(
            f"like= has the CRS {like.crs}, the cube has {geobox.crs or 'none'}",
            "assign the cube its own, e.g. ds.odc.assign_crs('EPSG:32633')",
        )
    to_like = ~like.affine @ geobox.affine
    turned = abs(to_like.b) > 1e-6 or abs(to_like.d) > 1e-6 or to_like.a <= 0 or to_like.e <= 0
    if geobox.crs != like.crs or turned:
        return None
    rows = _along(to_like.e, to_like.f, window.top, window.bottom)
    return rows, _along(to_like.a, to_like.c, window.left, window.right)


def _along(size: float, offset: float, start: int, stop: int) -> Overlap:
    # Rounded: the products of two affine maps are whole numbers but for their last bits.
    size, offset = round(size, 7), round(offset, 7)
    low = np.round(np.arange(start, stop) * size + offset, 6)
    first = np.floor(low).astype(np.int64)
    taps = math.ceil(size + 1)
    index = first[:, None] + np.arange(taps)[None, :]
    covered = np.minimum(index + 1, (low + size)[:, None]) - np.maximum(index, low[:, None])
    share = np.clip(covered, 0, None)
    used = int((share > 1e-5).any(axis=0).nonzero()[0].max()) + 1 if len(share) else 1
    share = np.where(share > 1e-5, share, 0.0)[:, :used]
    return Overlap(index[:, :used], share / share.sum(axis=1, keepdims=True))


def sample_places(
    geobox: GeoBox, like: GeoBox, window: Window
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the rows and columns of the reference pixels under points of the pixels of a window.

    The points of a pixel lie as densely as reference pixels, at most 32 along an axis.

    Parameters
    ----------
    geobox, like, window
        As for `overlaps`.
    """
    count = math.ceil(gsd_m(geobox) / gsd_m(like) - 1e-6)
    count = max(1, min(count, _MOST_SAMPLES))
    back = ~like.affine
    transform = None
    if geobox.crs is not None and like.crs is not None and geobox.crs != like.crs:
        from pyproj import Transformer

        transform = Transformer.from_crs(geobox.crs.proj, like.crs.proj, always_xy=True).transform
    for down in range(count):
        for right in range(count):
            rows = np.arange(window.top, window.bottom)[:, None] + (down + 0.5) / count
            cols = np.arange(window.left, window.right)[None, :] + (right + 0.5) / count
            a, b, c, d, e, f = tuple(geobox.affine)[:6]
            x, y = a * cols + b * rows + c, d * cols + e * rows + f
            if transform is not None:
                x, y = transform(x, y)
            i, j = back.d * x + back.e * y + back.f, back.a * x + back.b * y + back.c
            yield np.floor(i).astype(np.int64), np.floor(j).astype(np.int64)
