"""The lattice of model tiles: positions, overlaps, and merge weights.

Integers and numpy only. Tiles are anchored at absolute pixel 0 of the output grid, never at a chunk or
a crop; so a chunk finds the same tiles, with the same pixels, whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lattice", "Tile", "Window"]


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of absolute pixels, ends exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns), never negative."""
        return max(self.bottom - self.top, 0), max(self.right - self.left, 0)

    @property
    def empty(self) -> bool:
        """True without a pixel."""
        return self.bottom <= self.top or self.right <= self.left

    def __and__(self, other: Window) -> Window:
        """Return the intersection (possibly empty)."""
        return Window(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    def pad(self, pixels: int) -> Window:
        """Return the window grown by ``pixels`` on every side."""
        return Window(self.top - pixels, self.left - pixels, self.bottom + pixels, self.right + pixels)

    def shift(self, rows: int, cols: int) -> Window:
        """Return the window moved down by ``rows`` and to the right by ``cols``."""
        return Window(self.top + rows, self.left + cols, self.bottom + rows, self.right + cols)

    def scale(self, factor: int) -> Window:
        """Return the same rectangle counted in pixels ``factor`` times finer."""
        return Window(self.top * factor, self.left * factor, self.bottom * factor, self.right * factor)

    def coarsen(self, factor: int) -> Window:
        """Return the smallest window of pixels ``factor`` times coarser that covers this one."""
        return Window(
            self.top // factor, self.left // factor, -(-self.bottom // factor), -(-self.right // factor)
        )

    def within(self, outer: Window) -> tuple[slice, slice]:
        """Return the slices (rows, columns) of this window in an array that covers ``outer``."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


@dataclass(frozen=True, order=True)
class Tile:
    """A tile of the lattice, by its index along rows and columns."""

    row: int
    col: int


@dataclass(frozen=True)
class Lattice:
    """Overlapping square tiles on the infinite plane of absolute pixels.

    Neighbours overlap by ``size - stride`` pixels, at most half a tile, so that a pixel lies in one,
    two or four tiles.
    """

    size: int
    """Edge of a tile in pixels."""
    stride: int
    """Distance of neighbouring tiles in pixels, at least half of ``size``."""

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.size <= 2 * self.stride:
            raise AssertionError(f"stride {self.stride} does not fit tiles of {self.size}")

    def window(self, tile: Tile) -> Window:
        """Return the pixels of a tile."""
        top, left = tile.row * self.stride, tile.col * self.stride
        return Window(top, left, top + self.size, left + self.size)

    def _span(self, start: int, stop: int) -> range:
        return range((start - self.size) // self.stride + 1, -(-stop // self.stride))

    def spans(self, window: Window) -> tuple[range, range]:
        """Return the ranges (rows, columns) of the indices of the tiles that touch ``window``."""
        return self._span(window.top, window.bottom), self._span(window.left, window.right)

    def hull(self, window: Window, rings: int) -> Window:
        """Return the pixels of the tiles that touch ``window`` and of ``rings`` neighbours around them."""
        rows, cols = self.spans(window)
        first = self.window(Tile(rows.start - rings, cols.start - rings))
        last = self.window(Tile(rows.stop - 1 + rings, cols.stop - 1 + rings))
        return Window(first.top, first.left, last.bottom, last.right)

    def rings(self, window: Window, rings: int) -> list[list[Tile]]:
        """Return the tiles that touch ``window``, then ring after ring of neighbours around them."""
        rows, cols = self.spans(window)
        levels: list[list[Tile]] = [[] for _ in range(rings + 1)]
        for row in range(rows.start - rings, rows.stop + rings):
            for col in range(cols.start - rings, cols.stop + rings):
                away = max(rows.start - row, row - rows.stop + 1, cols.start - col, col - cols.stop + 1, 0)
                levels[away].append(Tile(row, col))
        return levels

    def weights(self, cell: int = 1) -> NDArray[np.float32]:
        """Return the merge weights of a tile, shape (size / cell, size / cell).

        Linear ramps over the inner half of the overlap: the weights of all tiles that hold a pixel sum to
        1 (a partition of unity). Pixels near a tile's border, where a network has least context, get almost no
        weight, and ramps over half of the overlap average away half as much detail as ramps over all of it.

        Parameters
        ----------
        cell
            Pixels per cell of the canvas along one axis; divides size and stride.
        """
        size, overlap = self.size // cell, (self.size - self.stride) // cell
        # Never 0: a neighbour with nothing to fill is not generated, and this tile is then the only one.
        ramp = np.clip((2 * np.arange(overlap, dtype=np.float64) + 1) / max(overlap, 1) - 0.5, 0.01, 0.99)
        edge = np.ones(size)
        edge[:overlap] = ramp
        if overlap:
            # 1 - ramp of the neighbour, not a mirrored ramp: the sum is 1 to the last bit.
            edge[-overlap:] = 1.0 - ramp
        return np.outer(edge, edge).astype(np.float32)
