"""Smooth random fields in ground coordinates: the same place has the same value on every grid.

A field is a sum of octaves; each is white noise at the nodes of a lattice on the ground, interpolated by cubic B-splines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eoaug.raster import noise
from eoaug.raster.arrays import Float64Array
from eoaug.raster.grid import absolute_origin

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["GroundField", "GroundFrame", "frame_of"]

_TICKS = 4096
"""Parts of a pixel in which positions are counted, so that crops of one grid have equal positions, bit for bit."""
_PIXEL_M = 10.0
"""Edge of a pixel of a grid without reference system."""
_DEGREE_M = 111_320.0


@dataclass(frozen=True)
class GroundFrame:
    """Ground coordinates along the axes of a grid: metres from its absolute pixel 0."""

    first: tuple[int, int]
    """Position (row, column) of the first pixel's corner, in parts of a pixel."""
    shape_yx: tuple[int, int]
    pixel_m: tuple[float, float]
    """Edges of a pixel, from row to row and from column to column."""
    axes: tuple[tuple[float, float], tuple[float, float]]
    """Unit vectors (east, north) in which rows and columns count upwards."""

    def row_m(self, rows: NDArray[np.int64]) -> Float64Array:
        """Return the positions of the centres of rows, counted from the first."""
        return self._centres(0, rows)

    def col_m(self, cols: NDArray[np.int64]) -> Float64Array:
        """Return the positions of the centres of columns, counted from the first."""
        return self._centres(1, cols)

    def _centres(self, axis: int, index: NDArray[np.int64]) -> Float64Array:
        ticks = self.first[axis] + index * _TICKS + _TICKS // 2
        return np.asarray(ticks * (self.pixel_m[axis] / _TICKS), np.float64)

    def along_axes(self, east_m: float, north_m: float) -> tuple[float, float]:
        """Return a displacement on the ground as metres along rows and columns."""
        (row_east, row_north), (col_east, col_north) = self.axes
        return east_m * row_east + north_m * row_north, east_m * col_east + north_m * col_north


def frame_of(geobox: GeoBox) -> GroundFrame:
    """Return the ground coordinates of a grid.

    Degrees count as metres at the whole degree of latitude that is nearest to the centre. Pixels of a grid without reference
    system count as 10 m.
    """
    affine = geobox.affine
    height, width = (int(n) for n in geobox.shape.yx)
    edge_y, edge_x = math.hypot(affine.b, affine.e), math.hypot(affine.a, affine.d)
    axes = ((affine.b / edge_y, affine.e / edge_y), (affine.a / edge_x, affine.d / edge_x))
    unit_y = unit_x = _PIXEL_M / edge_x
    if geobox.crs is None:
        axes = ((0.0, -1.0), (1.0, 0.0))
    elif geobox.crs.geographic:
        lat = round((affine @ (width / 2, height / 2))[1])
        unit_y, unit_x = _DEGREE_M, _DEGREE_M * max(math.cos(math.radians(lat)), 0.01)
    else:
        unit_y = unit_x = geobox.crs.proj.axis_info[0].unit_conversion_factor or 1.0
    col, row = ~affine @ (0.0, 0.0)
    first = (round(-row * _TICKS), round(-col * _TICKS))
    if geobox.crs is None:
        first = tuple(n * _TICKS for n in absolute_origin(affine))  # type: ignore[assignment]
    return GroundFrame(first, (height, width), (edge_y * unit_y, edge_x * unit_x), axes)


@dataclass(frozen=True)
class GroundField:
    """A random field of mean 0 and variance 1 on the ground."""

    stream: str
    seed: int
    time: int
    octaves: tuple[tuple[float, float], ...]
    """Distance of the nodes in metres and amplitude of each octave."""

    def at(self, rows_m: Float64Array, cols_m: Float64Array) -> Float64Array:
        """Return the values at all pairs of rows and columns, shape (rows, columns)."""
        out = np.zeros((len(rows_m), len(cols_m)))
        for number, (step_m, amplitude) in enumerate(self._amplitudes()):
            (i, rest_y), (j, rest_x), nodes = self._nodes(number, rows_m / step_m, cols_m / step_m)
            # Sums of four in a fixed order: a matrix product would depend on the size of the window.
            along = _weighted([nodes[:, j + k] for k in range(4)], [w[None, :] for w in _spline(rest_x)])
            whole = _weighted([along[i + k] for k in range(4)], [w[:, None] for w in _spline(rest_y)])
            out += amplitude * whole
        return out

    def at_points(self, rows_m: Float64Array, cols_m: Float64Array) -> Float64Array:
        """Return the values at places whose rows and columns are arrays of one shape."""
        out = np.zeros(rows_m.shape)
        for number, (step_m, amplitude) in enumerate(self._amplitudes()):
            (i, rest_y), (j, rest_x), nodes = self._nodes(number, rows_m / step_m, cols_m / step_m)
            across = _spline(rest_x)
            along = [_weighted([nodes[i + k, j + m] for m in range(4)], across) for k in range(4)]
            out += amplitude * _weighted(along, _spline(rest_y))
        return out

    def _amplitudes(self) -> list[tuple[float, float]]:
        size = math.sqrt(sum(amplitude**2 for _, amplitude in self.octaves))
        return [(step_m, amplitude / size / _SPREAD) for step_m, amplitude in self.octaves]

    def _nodes(
        self, number: int, rows: Float64Array, cols: Float64Array
    ) -> tuple[_Split, _Split, Float64Array]:
        """Return the first nodes and the fractions of rows and columns, and the values at the nodes."""
        top, left = (np.floor(at).astype(np.int64) for at in (rows, cols))
        # Displaced octaves: else all of them have a node at 0.
        origin = (int(top.min()) - 1 + 7919 * number, int(left.min()) - 1 + 104_729 * number)
        shape = (1, int(np.ptp(top)) + 4, int(np.ptp(left)) + 4)
        nodes = noise.normal(origin, shape, seed=self.seed, stream=f"{self.stream} {number}", time=self.time)
        fractions = np.asarray(rows - top, np.float64), np.asarray(cols - left, np.float64)
        return (
            (top - top.min(), fractions[0]),
            (left - left.min(), fractions[1]),
            nodes[0].astype(np.float64),
        )


_Split = tuple[NDArray[np.int64], Float64Array]

_SPREAD = math.sqrt(151 / 315) ** 2
"""Standard deviation of a cubic B-spline interpolation of white noise in two dimensions, averaged over places."""


def _weighted(parts: Sequence[Float64Array], weights: Sequence[Float64Array]) -> Float64Array:
    out = np.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        out += part * weight
    return out


def _spline(fraction: Float64Array) -> list[Float64Array]:
    """Return the weights of the uniform cubic B-spline."""
    t = fraction
    return [
        (1 - t) ** 3 / 6,
        ((0.5 * t - 1) * t * t) + 2 / 3,
        ((-0.5 * t + 0.5) * t + 0.5) * t + 1 / 6,
        t**3 / 6,
    ]
