"""How alike images are, whatever the quarter turn or mirroring: copies of real images, and duplicates of made ones.

An image is described by the means of a grid of 16 x 16 cells per band, less their mean: the cosine of two descriptors is their
correlation. A copy that was turned, mirrored and compressed keeps it near 1; how near other images come depends on the ground
(water is alike everywhere), so that a copy is judged by the distance between real neighbours of that kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eoaug.raster.arrays import Float32Array
from eoaug.trials.images import ImageArrays

__all__ = ["Nearest", "Patterns", "nearest_of", "patterns_of", "turned_cosines"]

CELLS = 16
"""Cells along each edge."""
_TURNS = 8
_BATCH = 512


@dataclass(frozen=True)
class Patterns:
    """Descriptors of images."""

    patterns: Float32Array
    """(N, C, cells, cells), of length 1."""
    levels: Float32Array
    """(N, C): means of the bands, in their standard deviations."""

    def __len__(self) -> int:
        return len(self.patterns)

    def some(self, numbers: NDArray[np.int64]) -> Patterns:
        """Return those of some images."""
        return Patterns(self.patterns[numbers], self.levels[numbers])


def patterns_of(arrays: ImageArrays, cells: int = CELLS) -> Patterns:
    """Return the descriptors of images.

    Parameters
    ----------
    arrays
        Images in standard deviations of their bands.
    cells
        Cells along each edge.
    """
    import torch
    from torch.nn import functional

    parts: list[Float32Array] = []
    levels: list[Float32Array] = []
    for begin in range(0, len(arrays), _BATCH):
        images = torch.from_numpy(np.asarray(arrays.images[begin : begin + _BATCH], np.float32))
        grid = functional.adaptive_avg_pool2d(images, cells)
        mean = grid.mean(dim=(2, 3), keepdim=True)
        grid = grid - mean
        length = grid.flatten(1).norm(dim=1).clamp(min=1e-6)
        parts.append((grid / length[:, None, None, None]).numpy())
        levels.append(mean[:, :, 0, 0].numpy())
    return Patterns(np.concatenate(parts), np.concatenate(levels))


def turned(patterns: Float32Array, turn: int) -> Float32Array:
    """Return patterns turned by ``turn % 4`` quarters, and mirrored from ``turn`` 4 on."""
    out = np.rot90(patterns, turn % 4, (-2, -1))
    return np.ascontiguousarray(out[..., ::-1] if turn >= 4 else out)


def turned_cosines(some: Float32Array, others: Float32Array) -> Float32Array:
    """Return the largest cosine over the eight turns and mirrors, (N, M).

    Parameters
    ----------
    some, others
        Patterns, (N, C, cells, cells) and (M, C, cells, cells).
    """
    flat = others.reshape(len(others), -1).T
    best = np.full((len(some), len(others)), -1.0, np.float32)
    for turn in range(_TURNS):
        np.maximum(best, turned(some, turn).reshape(len(some), -1) @ flat, out=best)
    return best


@dataclass(frozen=True)
class Nearest:
    """The most alike image of a set."""

    at: NDArray[np.int64]
    """Its number."""
    cosine: Float32Array
    level: Float32Array
    """Largest difference of the means of a band, in standard deviations."""


def nearest_of(
    some: Patterns, others: Patterns, excluded: list[list[int]], within: float = np.inf
) -> Nearest:
    """Return the most alike image of each.

    Parameters
    ----------
    some
        Images.
    others
        The set that is searched.
    excluded
        Per image the numbers that do not count, such as its own or that of its source.
    within
        Images whose means differ by more do not count; where none is left, the cosine is -2.
    """
    at = np.empty(len(some), np.int64)
    cosine = np.empty(len(some), np.float32)
    for begin, best in _blocks(some, others):
        for row in range(len(best)):
            best[row, excluded[begin + row]] = -2.0
            if np.isfinite(within):
                differ = np.abs(some.levels[begin + row] - others.levels).max(axis=1) > within
                best[row, differ] = -2.0
        end = begin + len(best)
        at[begin:end] = best.argmax(axis=1)
        cosine[begin:end] = best.max(axis=1)
    level = np.abs(some.levels - others.levels[at]).max(axis=1)
    return Nearest(at, cosine, level)


def _blocks(some: Patterns, others: Patterns) -> Iterator[tuple[int, Float32Array]]:
    for begin in range(0, len(some), _BATCH):
        yield begin, turned_cosines(some.patterns[begin : begin + _BATCH], others.patterns)
