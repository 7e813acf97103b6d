"""Iteration over a cube in blocks of bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.progress import track

__all__ = ["blocks"]


_BLOCK_PX = 1024
"""Edge in pixels of the blocks of a cube without chunks."""
_GROUP_BYTES = 256 * 2**20
"""Most bytes of pixels in one dask computation; several chunks at once keep the workers busy."""


def blocks(
    ds: xr.Dataset, dims: Sequence[str], *, scheduler: str | None = None
) -> Iterator[tuple[dict[str, slice], dict[str, NDArray[Any]]]]:
    """Yield a cube block by block, computing every chunk once.

    Parameters
    ----------
    ds
        Variables over the same ``dims``, lazy or not.
    dims
        Dimensions that are divided into blocks; the others stay whole.
    scheduler
        Name of dask's scheduler; None: the active one.

    Yields
    ------
    tuple of dict
        Slice by dimension, and values by variable.
    """
    lazy = any(var.chunks is not None for var in ds.data_vars.values())
    chunks: Mapping[Any, tuple[int, ...]] = ds.unify_chunks().chunks if lazy else {}
    edges = []
    for dim in dims:
        size = ds.sizes[dim]
        default = 1 if dim == dims[0] and len(dims) == 3 else _BLOCK_PX
        steps = chunks.get(dim) or [min(default, size - at) for at in range(0, size, default)]
        ends = np.cumsum(steps)
        edges.append([slice(int(end - step), int(end)) for step, end in zip(steps, ends, strict=True)])
    regions = [dict(zip(dims, places, strict=True)) for places in product(*edges)]
    largest = max(1, sum(v.dtype.itemsize for v in ds.data_vars.values())) * max(
        math.prod(span.stop - span.start for span in region.values()) for region in regions
    )
    at_once = max(1, min(32, _GROUP_BYTES // largest)) if lazy else 1
    names = [str(name) for name in ds.data_vars]
    with track(len(regions), what="writing", unit="block") as progress:
        for start in range(0, len(regions), at_once):
            group = regions[start : start + at_once]
            arrays = [[ds[name].isel(region).data for name in names] for region in group]
            if lazy:
                import dask.base

                (arrays,) = dask.base.compute(arrays, scheduler=scheduler)
            for region, values in zip(group, arrays, strict=True):
                yield region, dict(zip(names, (np.asarray(v) for v in values), strict=True))
                progress.tiles(1)
