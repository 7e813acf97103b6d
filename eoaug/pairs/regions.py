"""Regions of a label: connected pixels of one class, large ones cut into pieces with natural outlines."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.raster import noise
from eoaug.raster.tiles import Window

__all__ = ["LabelRegion", "given_regions", "regions_of"]

LARGEST_PX = 96
"""Largest extent of a region; what is larger is cut."""
_PIECE_PX = 48
"""Distance of the centres of the pieces of a large region."""
_SMALLEST_PX = 16
"""Least area of a region in pixels."""
_BEND_PX = 8.0
"""Correlation length of the bends of the cuts, and their size."""


@dataclass(frozen=True, eq=False)
class LabelRegion:
    """Pixels of one class."""

    code: int
    window: Window
    """Its bounding box, counted from the first pixel of the cube."""
    mask: NDArray[np.bool_]
    """Shape of ``window``."""

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())

    @cached_property
    def thickness(self) -> float:
        """Radius of the largest circle within it, in pixels."""
        from scipy import ndimage

        return float(ndimage.distance_transform_edt(np.pad(self.mask, 1)).max())

    def rank(self, seed: int, origin: tuple[int, int]) -> int:
        """Return a random number that depends on the seed and the absolute place of the region alone."""
        row, col = np.argwhere(self.mask)[0]
        place = (origin[0] + self.window.top + int(row), origin[1] + self.window.left + int(col))
        text = f"eoaug change 1|{seed}|{place[0]}|{place[1]}|{self.code}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def regions_of(
    label: NDArray[Any], codes: tuple[int, ...], origin: tuple[int, int], seed: int
) -> list[LabelRegion]:
    """Return the regions of a label, in the order of their classes and places.

    Parameters
    ----------
    label
        Shape (Y, X): class codes.
    codes
        The classes.
    origin
        Absolute index (row, column) of the first pixel.
    seed
        Of the cuts.
    """
    from scipy import ndimage

    pieces: NDArray[np.int64] | None = None
    found: list[LabelRegion] = []
    for code in codes:
        numbers, _ = ndimage.label(label == code)
        for number, box in enumerate(ndimage.find_objects(numbers), 1):
            mask = numbers[box] == number
            if max(mask.shape) <= LARGEST_PX:
                found += _region(code, box, mask)
                continue
            if pieces is None:
                pieces = _pieces(label.shape, origin, seed)
            own = np.where(mask, pieces[box], 0)
            for piece in np.unique(own[own > 0]):
                parts, _ = ndimage.label(own == piece)
                for part, inner in enumerate(ndimage.find_objects(parts), 1):
                    at = tuple(
                        slice(b.start + i.start, b.start + i.stop) for b, i in zip(box, inner, strict=True)
                    )
                    found += _region(code, at, parts[inner] == part)
    return found


def given_regions(label: NDArray[Any], codes: tuple[int, ...], numbers: NDArray[Any]) -> list[LabelRegion]:
    """Return the regions that a user numbers: of each number, the pixels of its most frequent class.

    Parameters
    ----------
    label, codes
        As for `regions_of`.
    numbers
        Shape (Y, X), whole numbers; 0 and less are no region.
    """
    from scipy import ndimage

    found: list[LabelRegion] = []
    for number, box in enumerate(ndimage.find_objects(np.maximum(numbers, 0)), 1):
        if box is None:
            continue
        inside = numbers[box] == number
        counts = {code: int((inside & (label[box] == code)).sum()) for code in codes}
        code = max(counts, key=lambda one: counts[one])
        if counts[code]:
            found += _region(code, box, inside & (label[box] == code))
    return found


def _region(code: int, box: tuple[slice, ...], mask: NDArray[np.bool_]) -> list[LabelRegion]:
    """Return a region, or nothing for one that is too small or too thin to have a texture."""
    from scipy import ndimage

    if mask.sum() < _SMALLEST_PX or not ndimage.binary_erosion(np.pad(mask, 1), np.ones((3, 3))).any():
        return []
    rows, cols = box
    return [LabelRegion(code, Window(rows.start, cols.start, rows.stop, cols.stop), mask.copy())]


def _pieces(shape: tuple[int, ...], origin: tuple[int, int], seed: int) -> NDArray[np.int64]:
    """Return numbers from 1 of the cells of a random tessellation with bent borders, shape (Y, X)."""
    from scipy import ndimage, spatial

    rows, cols = shape[:2]
    first = (origin[0] // _PIECE_PX - 1, origin[1] // _PIECE_PX - 1)
    last = ((origin[0] + rows) // _PIECE_PX + 2, (origin[1] + cols) // _PIECE_PX + 2)
    count = (last[0] - first[0], last[1] - first[1])
    stream = "change pieces"
    shift = np.clip(
        noise.normal((first[0], first[1]), (2, count[0], count[1]), seed=seed, stream=stream), -1.5, 1.5
    )
    lattice = np.stack(
        np.meshgrid(*(np.arange(n) + a for n, a in zip(count, first, strict=True)), indexing="ij")
    )
    centres = ((lattice + 0.5 + 0.3 * shift) * _PIECE_PX).reshape(2, -1).T
    reach = int(4 * _BEND_PX)
    around = noise.normal(
        (origin[0] - reach, origin[1] - reach),
        (2, rows + 2 * reach, cols + 2 * reach),
        seed=seed,
        stream=f"{stream} bends",
    )
    # White noise smoothed by a Gaussian of s pixels has the standard deviation 1 / (2 s sqrt(pi)).
    bends = ndimage.gaussian_filter(around, (0, _BEND_PX, _BEND_PX), truncate=4.0)[
        :, reach:-reach, reach:-reach
    ]
    bends *= _BEND_PX * 2 * _BEND_PX * np.sqrt(np.pi)
    grid = np.stack(np.meshgrid(np.arange(rows) + origin[0], np.arange(cols) + origin[1], indexing="ij"))
    points = (grid + 0.4 * bends).reshape(2, -1).T
    nearest: NDArray[np.int64] = (
        spatial.cKDTree(centres).query(points)[1].astype(np.int64).reshape(rows, cols)
    )
    return nearest + 1
