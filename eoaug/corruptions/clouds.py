"""One field of clouds on the ground: exact cover on the finest grid, mean opacity on coarser ones, displaced shadows.

The field is cut at a level on a reference grid, so that exactly a given number of its pixels are cloud. Every other grid of
the place sees the same clouds: the opacity of one of its pixels is the mean over the reference pixels inside it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eoaug.corruptions.ground import GroundField, GroundFrame, frame_of
from eoaug.corruptions.overlaps import Overlap, overlaps, sample_places
from eoaug.raster.arrays import Float64Array
from eoaug.raster.tiles import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["CloudField", "CloudLayers", "cloud_layers", "field_of"]

_STRIP_ROWS = 256
"""Rows of the reference grid that are held at once while the level is searched."""
_BINS = 1 << 16
_RANGE = 8.0
"""Standard deviations within which the level is searched; the ends count for what lies beyond."""
_LEAST_OPACITY = 0.03
"""Opacity at the edge of a cloud."""


def _octaves_of(size_m: float) -> tuple[tuple[float, float], ...]:
    """Return the octaves of a field whose bodies are about ``size_m`` wide, with clusters and ragged edges."""
    return tuple(
        (size_m * 2.0**-k, 2.0 ** (-0.8 * max(k, 0)) * (0.6 if k < 0 else 1.0)) for k in range(-2, 6)
    )


@dataclass(frozen=True)
class CloudField:
    """The clouds of one date."""

    seed: int
    time: int
    """Identity of the date."""
    frame: GroundFrame
    """Grid on which the cover is exact."""
    cover: float
    """Share of its pixels that are cloud, 0 to 1."""
    thickness: float = 1.0
    """Factor of the optical thickness."""
    size_m: float = 1500.0
    """Width of a cloud."""
    shadow_m: tuple[float, float] = (0.0, 0.0)
    """Displacement of the shadows along rows and columns of the frame."""

    @property
    def field(self) -> GroundField:
        """The field that is cut."""
        return GroundField("corrupt clouds", self.seed, self.time, _octaves_of(self.size_m))

    @property
    def level(self) -> float:
        """Value of the field above which there is cloud."""
        # Neither thickness nor shadow matter: one search serves all, and threads wait for it.
        with _level_lock:
            return _level(replace(self, thickness=1.0, shadow_m=(0.0, 0.0)))


_level_lock = threading.Lock()


@lru_cache(maxsize=256)
def _level(clouds: CloudField) -> float:
    """Return the value that exactly ``round(cover x pixels)`` pixels of the frame exceed.

    Two passes over strips: a histogram, then a sort of the one bin that holds the level.
    """
    height, width = clouds.frame.shape_yx
    wanted = round(clouds.cover * height * width)
    if wanted == 0:
        return math.inf
    if wanted == height * width:
        return min(float(strip.min()) for strip in _strips(clouds)) - 1e-9
    counts = sum(np.bincount(_bin(strip).ravel(), minlength=_BINS) for strip in _strips(clouds))
    above = np.cumsum(np.asarray(counts)[::-1])[::-1]  # pixels in this bin or above
    place = int(np.flatnonzero(above > wanted)[-1])  # its bin holds the pixel after the last cloud
    rest = wanted - int(above[place + 1] if place + 1 < _BINS else 0)
    inside = np.concatenate([strip[_bin(strip) == place] for strip in _strips(clouds)])
    return float(np.sort(inside)[::-1][rest])


def _strips(clouds: CloudField) -> Iterator[Float64Array]:
    height, width = clouds.frame.shape_yx
    for top in range(0, height, _STRIP_ROWS):
        rows = clouds.frame.row_m(np.arange(top, min(top + _STRIP_ROWS, height)))
        yield clouds.field.at(rows, clouds.frame.col_m(np.arange(width)))


def _bin(values: Float64Array) -> NDArray[np.int64]:
    scaled = (values + _RANGE) * (_BINS / (2 * _RANGE))
    return np.clip(np.floor(scaled), 0, _BINS - 1).astype(np.int64)


@dataclass(frozen=True)
class CloudLayers:
    """What clouds do to the light of a window; shapes (rows, columns), all from 0 to 1."""

    opacity: Float64Array
    """Share of the light of the ground that the cloud hides."""
    brightness: Float64Array
    """Light of the cloud itself, in units of its reflectance; at most the opacity."""
    shadow: Float64Array
    """Share of the direct sunlight that the shadow of a cloud takes."""
    covered: Float64Array
    """Share of the pixel's area that is cloud: 0 or 1 on the reference grid."""


def cloud_layers(clouds: CloudField, geobox: GeoBox, like: GeoBox, window: Window) -> CloudLayers:
    """Return the clouds over a window of a grid.

    Parameters
    ----------
    clouds
        The clouds; their frame is that of ``like``.
    geobox
        The grid of the window.
    like
        The reference grid. Of the same reference system and axes, its pixels count by their area; else at points that lie
        as densely as they do.
    window
        Pixels counted from the first one of ``geobox``.
    """
    aligned = overlaps(geobox, like, window)
    if aligned is not None:
        return CloudLayers(*_means(clouds, *aligned))
    return CloudLayers(*_sampled(clouds, sample_places(geobox, like, window)))


def _means(clouds: CloudField, rows: Overlap, cols: Overlap) -> list[Float64Array]:
    """Return the means of the layers over the reference pixels of every pixel, a few rows at a time."""
    left, right = int(cols.index.min()), int(cols.index.max()) + 1
    out = [np.zeros((len(rows.index), len(cols.index))) for _ in range(4)]
    for tap in range(rows.index.shape[1]):
        for begin in range(0, len(rows.index), _STRIP_ROWS):
            part = slice(begin, begin + _STRIP_ROWS)
            weight = rows.share[part, tap]
            for total, layer in zip(out, _fine(clouds, rows.index[part, tap], left, right), strict=True):
                narrow = np.zeros((len(weight), len(cols.index)))
                for k in range(cols.index.shape[1]):
                    narrow += layer[:, cols.index[:, k] - left] * cols.share[None, :, k]
                total[part] += weight[:, None] * narrow
    return out


def _sampled(
    clouds: CloudField, places: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> list[Float64Array]:
    """Return the means of the layers over reference pixels, given by their indices for every pixel."""
    totals: list[Float64Array] = []
    count = 0
    for rows, cols in places:
        layers = _layers(clouds, clouds.field.at_points, clouds.frame.row_m(rows), clouds.frame.col_m(cols))
        totals = [total + layer for total, layer in zip(totals, layers, strict=True)] if totals else layers
        count += 1
    return [total / count for total in totals]


def _fine(clouds: CloudField, rows: NDArray[np.int64], left: int, right: int) -> list[Float64Array]:
    """Return the layers at rows of the reference grid."""
    cols = np.arange(left, right, dtype=np.int64)
    return _layers(clouds, clouds.field.at, clouds.frame.row_m(rows), clouds.frame.col_m(cols))


def _layers(
    clouds: CloudField,
    at: Callable[[Float64Array, Float64Array], Float64Array],
    y: Float64Array,
    x: Float64Array,
) -> list[Float64Array]:
    depth = at(y, x) - clouds.level
    opacity = _opacity(depth, clouds.thickness)
    brightness = opacity * (1.0 - 0.22 * np.exp(-np.maximum(depth, 0.0) * 1.5))
    shadow = np.zeros_like(opacity)
    if clouds.shadow_m != (0.0, 0.0):
        away_y, away_x = clouds.shadow_m
        shadow = _opacity(at(y - away_y, x - away_x) - clouds.level, clouds.thickness)
    return [opacity, brightness, shadow, (depth > 0).astype(np.float64)]


def _opacity(depth: Float64Array, thickness: float) -> Float64Array:
    """Return 1 - exp(-optical thickness); the thickness grows from the edge of a cloud to its middle."""
    inside = depth > 0
    optical = thickness * 2.2 * np.where(inside & np.isfinite(depth), depth, 0.0)
    return np.where(inside, _LEAST_OPACITY + (1 - _LEAST_OPACITY) * (1 - np.exp(-optical)), 0.0)


def field_of(
    like: GeoBox,
    *,
    seed: int,
    time: int,
    cover: float,
    thickness: float,
    size_m: float,
    shadow: tuple[float, float],
) -> CloudField:
    """Return the clouds of one date over a reference grid.

    Parameters
    ----------
    like
        The reference grid.
    seed, time, cover, thickness, size_m
        As in `CloudField`.
    shadow
        Displacement of the shadows on the ground in metres to the east and to the north.
    """
    frame = frame_of(like)
    return CloudField(seed, time, frame, cover, thickness, size_m, frame.along_axes(*shadow))
