"""Labels on a finer grid, and as numbers of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.raster.radiometry import declared_nodata

__all__ = ["IGNORED", "class_numbers", "refined"]

IGNORED = 255
"""Class number of pixels without a class, the ``ignore_index`` of losses."""


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


def class_numbers(label: xr.DataArray, yx: tuple[str, str]) -> NDArray[np.int64]:
    """Return a label raster as numbers of classes, shape (H, W): the index among its flags where it has flags, else its own
    numbers; `IGNORED` for nodata and numbers that are no flag.
    """
    first = {dim: 0 for dim in label.dims if dim not in yx}
    values = np.asarray(label.isel(first).transpose(*yx).values)
    flags = label.attrs.get("flag_values")
    if flags is None:
        out = (
            np.where(np.isnan(values), IGNORED, values).astype(np.int64)
            if values.dtype.kind == "f"
            else values.astype(np.int64)
        )
    else:
        wanted = np.atleast_1d(np.asarray(flags))
        order = np.argsort(wanted, kind="stable")
        at = np.clip(np.searchsorted(wanted, values, sorter=order), 0, len(wanted) - 1)
        out = np.where(wanted[order[at]] == values, order[at], IGNORED).astype(np.int64)
    nodata = declared_nodata(label.attrs, label.dtype, name=str(label.name), encoding=label.encoding)
    if nodata is not None and not np.isnan(nodata):
        out[values == nodata] = IGNORED
    return out
