"""Snow or cloud: which bright pixels of an image are land under snow.

Masks of clouds miss closed decks, so brightness counts as cloud in learning cubes. Snow is as bright in the visible, but
dark in the short-wave infrared.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.datasets.netcdf import open_netcdf, read_images, snow_class
from eoaug.errors import EoaugError
from eoaug.raster.arrays import BoolArray, Float32Array

__all__ = ["snow_by_index", "snow_by_neighbours", "snow_of"]


_INDEX = 0.4
"""NDSI from which on a pixel is snow (Hall, Riggs & Salomonson 1995, doi:10.1016/0034-4257(95)00137-P)."""
_DARKEST_GREEN = 0.1
"""Water has a high NDSI too, and is dark in the green; snow is not (the same paper)."""
_BRIGHTEST_SWIR = 0.25
"""Reflectance at 1.6 um above which it is cloud of ice: clean snow stays below 0.2."""
_NEIGHBOUR_S = 45 * 86_400
_SHARE = 0.25
"""Share of snow that another date within 45 days must have, where only a mask says snow."""


def snow_of(ds: xr.Dataset, path: Path, times: NDArray[np.int64]) -> BoolArray | None:
    """Return where a file shows snow, shape (T, H, W); None if nothing in it says so.

    By the normalised difference snow index of its green and short-wave infrared, or of the infrared in the file of its
    coarser bands (``NAME_20m.nc``). Without infrared by the class of its mask, but only where another date within 45 days
    has snow too: Sen2Cor takes single cloud decks for snow, in summer as well.

    Parameters
    ----------
    ds
        The open file.
    path
        Its path.
    times
        Shape (T,), seconds; 0 without dates.
    """
    found = _infrared(ds, path)
    if found is not None:
        return snow_by_index(*found)
    classes = snow_class(ds)
    return None if classes is None else snow_by_neighbours(classes, times)


def snow_by_index(green: Float32Array, swir: Float32Array) -> BoolArray:
    """Return where reflectance is that of snow; False where missing.

    Parameters
    ----------
    green, swir
        Reflectance at 0.56 and 1.6 um, of one shape.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        index = (green - swir) / (green + swir)
        return np.asarray((index >= _INDEX) & (green >= _DARKEST_GREEN) & (swir <= _BRIGHTEST_SWIR))


def snow_by_neighbours(classes: BoolArray, times: NDArray[np.int64]) -> BoolArray:
    """Return a mask's snow (T, H, W) on the dates that have a neighbour with snow."""
    share = classes.mean(axis=(1, 2))
    out = classes.copy()
    for date in range(len(classes)):
        near = np.abs(times - times[date]) <= _NEIGHBOUR_S
        near[date] = False
        if not (near & (share >= _SHARE)).any():
            out[date] = False
    return out


def _infrared(ds: xr.Dataset, path: Path) -> tuple[Float32Array, Float32Array] | None:
    """Return green and short-wave infrared of a file on its own grid."""
    try:
        own = read_images(ds, path.name, ("green", "swir16"), display_values=False)
    except EoaugError:
        return None
    green, swir = own.values[:, 0], own.values[:, 1]
    if own.present.all():
        return green, swir
    companion = path.with_name(f"{path.stem}_20m.nc")
    if not own.present[0] or not companion.is_file():
        return None
    try:
        with open_netcdf(companion) as coarse:
            there = read_images(coarse, companion.name, ("swir16",), display_values=False)
    except EoaugError:
        return None
    repeated = there.values[:, 0].repeat(2, axis=1).repeat(2, axis=2)
    same_dates = len(repeated) == len(green) and (there.times == own.times).all()
    if not same_dates or any(abs(a - b) > 1 for a, b in zip(repeated.shape, green.shape, strict=True)):
        return None
    edges = [
        (0, 0),
        *((0, max(size - has, 0)) for size, has in zip(green.shape[1:], repeated.shape[1:], strict=True)),
    ]
    return green, np.pad(repeated, edges, mode="edge")[:, : green.shape[1], : green.shape[2]]
