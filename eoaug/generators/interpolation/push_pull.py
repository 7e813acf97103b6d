"""Push-pull interpolation: gaps filled from coarser levels, then relaxed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.base import CONTEXT_CELL_PX, CONTEXT_CELLS
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["from_cells", "push_pull"]


_SWEEPS = 4
"""Smoothing sweeps per pyramid level; on real gaps, 4 are within 0.1 dB of the exact membrane."""
_REACH = CONTEXT_CELLS - 1
"""Distance in cells within which context cells count: the most that every cell of a tile and its frame has."""
_FAR = 1e-4
"""Relative weight of a cell further away, which decides only where no nearer cell is known."""


def push_pull(
    values: NDArray[np.floating], known: BoolArray, around: Float32Array | None = None
) -> Float32Array:
    """Return ``values`` with the unknown pixels filled smoothly from the known ones around.

    An image pyramid: known pixels are averaged 2 x 2 down to one pixel, and gaps are filled from the
    coarser level on the way back (Gortler et al. 1996, The Lumigraph, doi:10.1145/237170.237200), each
    level relaxed by a few sweeps towards the membrane, the surface without bumps.

    Parameters
    ----------
    values
        Shape (..., H, W), any size, any units; read only where ``known``.
    known
        The same shape. Known pixels come back bit for bit; a plane that has none comes back 0.
    around
        Shape (C, H // 8 + 32, W // 8 + 32): the same quantity in cells, as `Request.context_cells`; NaN where unknown.
        They become the top of the pyramid, so that tiles within one large gap agree.
    """
    known = np.broadcast_to(known, values.shape)
    values = np.where(known, values, 0).astype(np.float32)
    partly = ~known.all(axis=(-2, -1))
    if around is None:
        # Absent bands stay 0 without a pyramid.
        partly &= known.any(axis=(-2, -1))
    if not partly.any():
        return values
    if around is None:
        values[partly] = _fill(values[partly], known[partly])
        return values
    frame = [(0, 0), (CONTEXT_CELL_PX, CONTEXT_CELL_PX), (CONTEXT_CELL_PX, CONTEXT_CELL_PX)]
    framed = _fill(
        np.pad(values[partly], frame), np.pad(known[partly], frame), _between_cells(around[partly])
    )
    values[partly] = framed[:, CONTEXT_CELL_PX:-CONTEXT_CELL_PX, CONTEXT_CELL_PX:-CONTEXT_CELL_PX]
    return values


def from_cells(cells: Float32Array) -> Float32Array:
    """Return a smooth surface through the cells of a tile and of a frame of one cell around it.

    Parameters
    ----------
    cells
        Shape (C, H // 8 + 32, W // 8 + 32), as `Request.context_cells`, without gaps there.

    Returns
    -------
    Shape (C, H, W).
    """
    tile = cells[:, _REACH:-_REACH, _REACH:-_REACH]
    size = CONTEXT_CELL_PX
    while size > 1:
        tile = _double(tile, 2 * tile.shape[1], 2 * tile.shape[2])
        size //= 2
    return tile[:, CONTEXT_CELL_PX:-CONTEXT_CELL_PX, CONTEXT_CELL_PX:-CONTEXT_CELL_PX]


def _between_cells(cells: Float32Array) -> Float32Array:
    """Return the cells of a tile and of a frame of one cell around it, shape (C, H // 8 + 2, W // 8 + 2).

    Known cells as they are, others as the mean of the known ones by inverse distance (Shepard 1968,
    doi:10.1145/800186.810616). The weight falls to nearly 0 at `_REACH`, beyond which a neighbouring tile may have no
    cells: so tiles agree on the cells that they share. Only cells deeper in a gap depend on all cells of the tile.
    """
    known = np.isfinite(cells)
    weights = _cell_weights(*cells.shape[1:])
    out = cells[:, _REACH:-_REACH, _REACH:-_REACH].copy()
    for plane, clear, image in zip(cells, known, out, strict=True):
        gap = np.isnan(image)
        near = weights[gap]
        total = np.einsum("ghw,hw->g", near, np.where(clear, plane, 0).astype(np.float64))
        weight = np.einsum("ghw,hw->g", near, clear.astype(np.float64))
        image[gap] = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return out


@lru_cache(maxsize=8)
def _cell_weights(height: int, width: int) -> NDArray[np.float64]:
    """Return the weight of each context cell for each cell of the framed tile, shape (h, w, height, width)."""
    rows, cols = (
        np.square(np.arange(_REACH, n - _REACH)[:, None] - np.arange(n), dtype=np.float64)
        for n in (height, width)
    )
    square = rows[:, None, :, None] + cols[:, None, :]
    taper = np.maximum(1 - square / _REACH**2, 0) ** 2
    weights: NDArray[np.float64] = np.maximum(taper, _FAR) / (1 + square)
    weights.flags.writeable = False
    return weights


def _fill(values: Float32Array, known: BoolArray, top: Float32Array | None = None) -> Float32Array:
    """Return ``values`` filled; ``top`` is the level that the pyramid ends in, None: a single pixel."""
    H, W = values.shape[-2:]
    if top is not None and values.shape == top.shape:
        return top
    if known.all() or H == W == 1:
        return values
    count = _sum2(known.astype(np.float32))
    mean = np.divide(_sum2(values), count, out=np.zeros_like(count), where=count > 0)
    guess = np.where(known, values, _double(_fill(mean, count > 0, top), H, W))
    return np.where(known, values, _relax(guess, ~known))


def _sum2(image: Float32Array) -> Float32Array:
    """Return sums over 2 x 2 pixels; a last odd row or column is not paired."""
    rows = image[..., 0::2, :].copy()
    rows[..., : image.shape[-2] // 2, :] += image[..., 1::2, :]
    sums = rows[..., 0::2].copy()
    sums[..., : image.shape[-1] // 2] += rows[..., 1::2]
    return sums


def _double(image: Float32Array, height: int, width: int) -> Float32Array:
    """Return bilinear interpolation to twice the size between pixel centres, cut to (height, width)."""
    for _ in range(2):
        # Rows, then columns as rows.
        near, far = np.float32(0.75) * image, np.float32(0.25) * image
        rows = np.empty((*image.shape[:-2], 2 * image.shape[-2], image.shape[-1]), np.float32)
        np.add(near[..., 1:, :], far[..., :-1, :], out=rows[..., 2::2, :])
        np.add(near[..., :-1, :], far[..., 1:, :], out=rows[..., 1:-1:2, :])
        np.add(near[..., [0, -1], :], far[..., [0, -1], :], out=rows[..., :: rows.shape[-2] - 1, :])
        image = rows.swapaxes(-2, -1)
    return image[..., :height, :width]


def _relax(image: Float32Array, free: BoolArray) -> Float32Array:
    """Return ``image`` after Jacobi sweeps of Laplace's equation where ``free``, mirrored at the border."""
    *lead, height, width = image.shape
    framed = np.empty((*lead, height + 2, width + 2), np.float32)
    inner = framed[..., 1:-1, 1:-1]
    inner[...] = image
    pace = np.float32(0.25) * free.astype(np.float32)
    for _ in range(_SWEEPS):
        framed[..., 0, :] = framed[..., 1, :]
        framed[..., -1, :] = framed[..., -2, :]
        framed[..., :, 0] = framed[..., :, 1]
        framed[..., :, -1] = framed[..., :, -2]
        change = framed[..., :-2, 1:-1] + framed[..., 2:, 1:-1]
        change += framed[..., 1:-1, :-2]
        change += framed[..., 1:-1, 2:]
        change -= np.float32(4) * inner
        change *= pace
        inner += change
    return np.ascontiguousarray(inner)
