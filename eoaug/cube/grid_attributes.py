"""Attributes in which libraries repeat a cube's grid: read where nothing else declares it, renewed with the grid.

stackstac and old rasterio openers keep ``transform``, ``resolution`` and ``res`` among the attributes, the GeoZarr and
STAC projection conventions ``spatial:transform`` and ``proj:transform``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["STALE_COORDINATES", "declared_transform", "pixel_ratio", "renewed"]


STALE_COORDINATES = ("proj:transform", "proj:shape", "spatial:transform", "spatial:shape")
"""Coordinates, as stackstac makes them of item properties, that are wrong on another grid."""
_ROW_MAJOR = ("transform", "spatial:transform", "proj:transform")
_SHAPES = ("spatial:shape", "proj:shape")
_SIZES = ("resolution", "res")
_GSD = ("gsd", "gsd_m", "raster:spatial_resolution", "spatial_resolution")
_DROPPED = ("spec", "resolutions_xy")
"""Descriptions of the old grid in another library's own form."""


def declared_transform(attrs: Mapping[str, Any]) -> Affine | None:
    """Return the transform among an object's attributes, or None: six or nine numbers, row by row."""
    for key in _ROW_MAJOR:
        numbers = _numbers(attrs.get(key))
        if numbers is not None and len(numbers) in (6, 9):
            affine = Affine(*numbers[:6])
            if all(map(math.isfinite, numbers)) and affine.determinant != 0:
                return affine
    return None


def pixel_ratio(old: GeoBox, new: GeoBox) -> float:
    """Return the size of a new pixel in old ones."""
    return math.sqrt(abs(new.affine.determinant / old.affine.determinant))


def renewed(attrs: Mapping[str, Any], old: GeoBox, new: GeoBox) -> dict[str, Any]:
    """Return attributes for another grid: transform, shape and pixel size of the new one, in the form they had.

    Parameters
    ----------
    attrs
        Of the cube or of a variable.
    old, new
        The grids.
    """
    out = {key: value for key, value in attrs.items() if key not in _DROPPED}
    ratio = pixel_ratio(old, new)
    affine = new.affine
    for key, value in out.items():
        numbers = _numbers(value)
        if numbers is None:
            continue
        if key in _ROW_MAJOR and len(numbers) in (6, 9):
            out[key] = affine if isinstance(value, Affine) else _like(value, tuple(affine)[: len(numbers)])
        elif key in _SHAPES and len(numbers) == 2:
            out[key] = _like(value, [int(n) for n in new.shape.yx])
        elif key == "GeoTransform" and len(numbers) == 6:
            out[key] = _like(value, affine.to_gdal())
        elif key in _SIZES or key in _GSD:
            out[key] = _like(value, [number * ratio for number in numbers])
    return out


def _numbers(value: Any) -> list[float] | None:
    """Return the numbers of an attribute (a number, a sequence, an array or GDAL's text), or None."""
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    try:
        return [float(number) for number in np.atleast_1d(np.asarray(value, dtype=object)).ravel().tolist()]
    except (TypeError, ValueError):
        return None


def _like(value: Any, numbers: Sequence[Any]) -> Any:
    """Return numbers in the form of an attribute."""
    if isinstance(value, str):
        return " ".join(repr(number) for number in numbers)
    if isinstance(value, np.ndarray):
        return np.asarray(numbers).reshape(value.shape)
    if isinstance(value, tuple | list):
        return type(value)(numbers)
    return numbers[0]
