"""Labels on a finer grid."""

from __future__ import annotations

from typing import Any

import xarray as xr

__all__ = ["refined"]


def refined(label: xr.Variable, yx: tuple[str, str], factor: int, like: xr.Variable) -> xr.Variable:
    """Return a label of which every pixel is repeated ``factor`` times along both axes: nearest neighbour, exactly.

    Parameters
    ----------
    label
        On the coarse grid.
    yx
        Names of the spatial dimensions.
    factor
        Fine pixels per coarse pixel along an axis.
    like
        A variable of the result. If it is lazy the label is too, in chunks of the same edges, so that memory is bounded
        by a chunk.
    """
    chunks = {dim: like.chunksizes[dim] for dim in yx} if like.chunks else {}
    coarse = {dim: _divided(lengths, factor) for dim, lengths in chunks.items()}
    if coarse and all(lengths is not None for lengths in coarse.values()):
        label = label.chunk(coarse)
    data: Any = label.data
    for dim in yx:
        data = data.repeat(factor, axis=label.dims.index(dim))
    out = xr.Variable(label.dims, data, label.attrs, label.encoding)
    return out.chunk(chunks) if chunks else out


def _divided(lengths: tuple[int, ...], factor: int) -> tuple[int, ...] | None:
    """Return the lengths of chunks on the coarse grid; None where a chunk ends within a coarse pixel."""
    return None if any(length % factor for length in lengths) else tuple(n // factor for n in lengths)
