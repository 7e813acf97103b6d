"""Push-pull interpolation: gaps filled from coarser levels, then relaxed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from eoaug.generators.base import CONTEXT_CELL_PX, CONTEXT_CELLS
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["from_cells", "push_pull"]


_SWEEPS = 4
"""Smoothing sweeps per pyramid level, an even number; on real gaps, 4 are within 0.1 dB of the exact membrane."""
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
    from eoaug.generators.interpolation.compiled.planes import fill_planes

    if around is None:
        planes = values[partly]
        tops = np.empty((len(planes), 0, 0), np.float32)
        fill_planes(planes, known[partly], tops, _SWEEPS)
        values[partly] = planes
        return values
    frame = [(0, 0), (CONTEXT_CELL_PX, CONTEXT_CELL_PX), (CONTEXT_CELL_PX, CONTEXT_CELL_PX)]
    framed = np.pad(values[partly], frame)
    fill_planes(framed, np.pad(known[partly], frame), _between_cells(around[partly]), _SWEEPS)
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
