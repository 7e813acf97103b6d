"""Whether the bands of a cube hold what the verbs take them for, before any work is done."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.model import Cube, CubeBand
from eoaug.cube.typical import sampled_windows
from eoaug.errors import BandError, UnitsWarning
from eoaug.raster.plausible import check_decibels, check_units, quantity_of, sample
from eoaug.raster.radiometry import Scaling
from eoaug.raster.variables import is_numbered

__all__ = ["check_cube_units"]

_DATES = 6
"""Dates that are looked at, from the first to the last."""


def check_cube_units(cube: Cube) -> None:
    """Refuse bands whose values contradict their unit; only a sample is looked at, of lazy bands only of unknown ones.

    A band whose scale is declared other than 1 is taken at its word. Lazy bands are checked chunk by chunk when they
    are computed.

    Raises
    ------
    RadiometryError
        See `eoaug.raster.plausible`.
    BandError
        A variable that no name or unit calls a band holds small whole numbers only, as classes do.
    """
    if cube.form != "single":
        for band in cube.bands:
            _refuse_classes(band)
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


_MOST_CLASS = 255


def _refuse_classes(band: CubeBand) -> None:
    """Refuse a floating variable of unknown kind that may be a label, whose pixels must not change."""
    named = band.common_name is not None or is_numbered(band.name) or "units" in band.attrs
    if named or band.dtype.kind != "f" or band.scaling != Scaling():
        return
    found = np.unique(np.concatenate([window.ravel() for _, _, window in sampled_windows(band)]))
    found = found[np.isfinite(found)]
    if len(found) > 1 and found[0] >= 0 and found[-1] <= _MOST_CLASS and (found == np.rint(found)).all():
        raise BandError(
            f"{band.name!r} holds whole numbers only ({', '.join(f'{v:g}' for v in found[:4])} ...), and its name is not "
            "that of a band: it may hold classes",
            f"if so, name it, and none of its pixels is changed: labels=[{band.name!r}]; if it was measured, say in which "
            f"unit: ds[{band.name!r}].attrs['units'] = '1'",
        )


def _physical(band: CubeBand, stored: NDArray[Any]) -> NDArray[np.float64]:
    values = band.scaling(stored)
    if band.nodata is not None:
        values[stored == band.nodata] = np.nan
    return values
