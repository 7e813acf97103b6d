"""Whether the bands of a cube hold what the verbs take them for, before any work is done."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.model import Cube, CubeBand
from eoaug.errors import UnitsWarning
from eoaug.raster.plausible import check_decibels, check_units, quantity_of, sample
from eoaug.raster.radiometry import Scaling

__all__ = ["check_cube_units"]

_DATES = 6
"""Dates that are looked at, from the first to the last."""


def check_cube_units(cube: Cube) -> None:
    """Refuse bands whose values contradict their unit; only NumPy data is looked at, and only a sample of it.

    A band whose scale is declared other than 1 is taken at its word. Lazy bands are checked chunk by chunk when they
    are computed.

    Raises
    ------
    RadiometryError
        See `eoaug.raster.plausible`.
    """
    backscatter: dict[str, NDArray[np.float64]] = {}
    for band in cube.bands:
        quantity = quantity_of(band.common_name)
        if hasattr(band.data, "dask") or quantity is None or band.scaling != Scaling() or not band.data.size:
            continue
        dates = np.unique(np.linspace(0, len(band.data) - 1, _DATES).astype(int))
        images = [_physical(band, np.asarray(sample(band.data[date]))) for date in dates]
        if quantity == "decibel":
            backscatter[band.name] = np.concatenate([image.ravel() for image in images])
        for image in images:
            check_units(band.name, quantity, image)
    text = check_decibels(backscatter)
    if text is not None:
        warnings.warn(text, UnitsWarning, stacklevel=2)


def _physical(band: CubeBand, stored: NDArray[Any]) -> NDArray[np.float64]:
    values = band.scaling(stored)
    if band.nodata is not None:
        values[stored == band.nodata] = np.nan
    return values
