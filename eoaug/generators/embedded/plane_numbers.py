"""Random numbers of an unbounded plane: of single cells, smooth fields, tessellations and strips.

Numpy. Arrays have one entry per point, shape (n,). Everything is a function of the absolute position in pixels and of the key of the plane, so windows of one plane
agree bit for bit where they overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from eoaug.raster import noise
from eoaug.raster.arrays import Float64Array

__all__ = ["PlaneNumbers", "Tessellation", "joined"]


_JITTER = 0.3
"""Largest displacement of the centre of a block, in edges: the nearest centre is always among the nine cells around."""
_STRIP_JITTER = 0.35
"""Largest displacement of the border of a strip, in widths."""
_CHANGES = 0.25
"""Share of the variance of a number that changes from date to date, for `PlaneNumbers.dated`."""
_LATTICE = 128
"""Edge of the lattice onto which keys of more than two indices are hashed."""
_ROOT = 1.6
"""The variance of a smooth field between its nodes is less than that at them."""
Cells = NDArray[np.int64]
"""Indices of cells, shape (2, n)."""


@dataclass(frozen=True, eq=False)
class Tessellation:
    """The blocks of a random tessellation under points."""

    cells: Cells
    """Index of the block of every point, shape (2, n)."""
    border: Float64Array
    """Shape (n,): distance to the nearest border in pixels."""
    down: Float64Array
    """Shape (n,): rows from the centre of the block, in pixels."""
    right: Float64Array
    """Shape (n,): columns from the centre of the block, in pixels."""

    def turned(self, angle: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return coordinates along and across a direction, from the centre of the block; ``angle`` in radians."""
        cos, sin = np.cos(angle), np.sin(angle)
        return cos * self.right + sin * self.down, cos * self.down - sin * self.right


@dataclass(frozen=True)
class PlaneNumbers:
    """Numbers of one plane; names tell independent fields apart."""

    seed: int
    member: int = 0
    time: int = 0
    """Seconds since 1970; only `dated` depends on it."""

    def of_plane(self, name: str, count: int) -> Float64Array:
        """Return normal numbers of the whole plane, shape (count,)."""
        return self._window(name, (0, 0), (count, 1, 1))[:, 0, 0]

    def of(self, name: str, cells: Cells, count: int = 1) -> Float64Array:
        """Return normal numbers of cells, shape (count, n)."""
        return self._of(name, cells, count, None)

    def dated(self, name: str, cells: Cells) -> Float64Array:
        """Return a normal number of every cell, shape (n,), of which a part changes from date to date."""
        own = self._of(f"{name} of a date", cells, 1, self.time)
        mixed: Float64Array = np.sqrt(1 - _CHANGES) * self.of(name, cells)[0] + np.sqrt(_CHANGES) * own[0]
        return mixed

    def smooth(self, name: str, y: Float64Array, x: Float64Array, step: float) -> Float64Array:
        """Return a smooth field of about unit variance, shape (n,): numbers on a lattice, joined by quintics.

        Parameters
        ----------
        y, x
            Shape (n,), position in pixels.
        step
            Distance of the nodes in pixels.
        """
        v, u = y / step, x / step
        i, j = np.floor(v).astype(np.int64), np.floor(u).astype(np.int64)
        first = int(i.min()), int(j.min())
        nodes = self._window(name, first, (1, int(i.max()) - first[0] + 2, int(j.max()) - first[1] + 2))[0]
        down, right = _quintic(v - i), _quintic(u - j)
        i, j = i - first[0], j - first[1]
        above = nodes[i, j] * (1 - right) + nodes[i, j + 1] * right
        below = nodes[i + 1, j] * (1 - right) + nodes[i + 1, j + 1] * right
        field: Float64Array = _ROOT * (above * (1 - down) + below * down)
        return field

    def rough(
        self, name: str, y: Float64Array, x: Float64Array, steps: Sequence[float], weights: Sequence[float]
    ) -> Float64Array:
        """Return a sum of smooth fields of about unit variance, shape (n,)."""
        parts = [
            weight * self.smooth(f"{name} {number}", y, x, step)
            for number, (step, weight) in enumerate(zip(steps, weights, strict=True))
        ]
        total: Float64Array = np.sum(parts, axis=0) / np.sqrt(np.sum(np.square(weights)))
        return total

    def blocks(self, name: str, y: Float64Array, x: Float64Array, edge: float) -> Tessellation:
        """Return the Voronoi cells of a jittered lattice (Moeller 1994, Lectures on Random Voronoi Tessellations).

        Parameters
        ----------
        y, x
            Shape (n,), position in pixels.
        edge
            Typical edge of a block in pixels.
        """
        v, u = y / edge, x / edge
        i, j = np.floor(v).astype(np.int64), np.floor(u).astype(np.int64)
        first = int(i.min()) - 1, int(j.min()) - 1
        shape = (2, int(i.max()) - first[0] + 2, int(j.max()) - first[1] + 2)
        shift = _JITTER * (2 * special.ndtr(self._window(f"{name} centre", first, shape)) - 1)
        around = [(i + down, j + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        centres = [np.stack([a + 0.5, b + 0.5]) + shift[:, a - first[0], b - first[1]] for a, b in around]
        away = np.stack([(v - row) ** 2 + (u - col) ** 2 for row, col in centres])
        nearest = away.argmin(axis=0)[None]
        least = np.take_along_axis(away, nearest, axis=0)[0]
        row, col = (
            np.take_along_axis(np.stack([c[axis] for c in centres]), nearest, axis=0)[0] for axis in (0, 1)
        )
        border = np.full(v.shape, np.inf)
        for (other_row, other_col), square in zip(centres, away, strict=True):
            apart = np.hypot(other_row - row, other_col - col)
            # The border between two centres is their perpendicular bisector.
            gap = np.divide(square - least, 2 * apart, out=np.full(v.shape, np.inf), where=apart > 0)
            border = np.minimum(border, gap)
        cells = np.stack(
            [
                np.take_along_axis(np.stack([one[axis] for one in around]), nearest, axis=0)[0]
                for axis in (0, 1)
            ]
        )
        return Tessellation(cells, border * edge, (v - row) * edge, (u - col) * edge)

    def strips(
        self, name: str, at: Float64Array, cells: Cells, width: Float64Array | float
    ) -> tuple[Cells, Float64Array]:
        """Cut cells into strips of unequal widths.

        Parameters
        ----------
        at
            Shape (n,), position across the strips in pixels, from the centre of the cell.
        cells
            Keys of the cells that are cut.
        width
            Typical width in pixels, the same within a cell.

        Returns
        -------
        Keys of the strips, shape (2, n), and the distance to the nearest of their two borders in pixels, shape (n,).
        """
        position = at / width
        index = np.floor(position).astype(np.int64)

        def border(number: NDArray[np.int64]) -> Float64Array:
            moved = 2 * special.ndtr(self.of(name, joined(cells, number))[0]) - 1
            at_border: Float64Array = number + _STRIP_JITTER * moved
            return at_border

        low, high = border(index), border(index + 1)
        before, after = position < low, position >= high
        index = index - before + after
        lower = np.where(before, border(index), np.where(after, high, low))
        upper = np.where(before, low, np.where(after, border(index + 1), high))
        return joined(cells, index), np.minimum(position - lower, upper - position) * width

    def _of(self, name: str, cells: Cells, count: int, time: int | None) -> Float64Array:
        i, j = cells
        first = int(i.min()), int(j.min())
        shape = (count, int(i.max()) - first[0] + 1, int(j.max()) - first[1] + 1)
        return self._window(name, first, shape, time)[:, i - first[0], j - first[1]]

    def _window(
        self, name: str, first: tuple[int, int], shape: tuple[int, int, int], time: int | None = None
    ) -> Float64Array:
        drawn = noise.normal(
            first, shape, seed=self.seed, stream=f"land {name}", member=self.member, time=time or 0
        )
        return drawn.astype(np.float64)


def joined(cells: Cells, number: NDArray[np.int64]) -> Cells:
    """Return keys of the parts of cells, hashed onto a lattice of 128 x 128.

    Two parts of a plane may share a key, and then their numbers; they are far from each other or unlike.
    """
    i, j = cells
    mixed = (i * 73_856_093) ^ (j * 19_349_663) ^ (number * 83_492_791)
    return np.stack([(mixed >> 7) % _LATTICE, mixed % _LATTICE])


def _quintic(x: Float64Array) -> Float64Array:
    """Return the polynomial from 0 to 1 whose first two derivatives vanish at both ends (Perlin 2002)."""
    return x * x * x * (x * (6 * x - 15) + 10)
