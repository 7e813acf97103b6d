"""From the coordinates and grid mapping of an xarray object to its spatial dimensions and GeoBox."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from affine import Affine

from eoaug.errors import GridError

if TYPE_CHECKING:
    from odc.geo.crs import CRS
    from odc.geo.geobox import GeoBox

__all__ = ["geobox_from_coords", "spatial_dims"]


_X_NAMES = ("x", "lon", "longitude", "easting")
_Y_NAMES = ("y", "lat", "latitude", "northing")


def spatial_dims(obj: xr.Dataset | xr.DataArray) -> tuple[str, str]:
    """Return the names of the y and x dimensions.

    The CF attributes ``axis`` and ``standard_name`` of the coordinates decide, else the names.

    Raises
    ------
    GridError
        One of them cannot be found, or is empty.
    """
    x = _dim_along(obj, "X", ("projection_x_coordinate", "longitude", "grid_longitude"), _X_NAMES)
    y = _dim_along(obj, "Y", ("projection_y_coordinate", "latitude", "grid_latitude"), _Y_NAMES)
    if x is None or y is None or x == y:
        raise GridError(
            f"no spatial dimensions among {tuple(map(str, obj.dims))}",
            "name them y and x (or latitude and longitude), or set the CF attribute axis='Y' and 'X'",
        )
    for name in (y, x):
        if obj.sizes[name] == 0:
            raise GridError(
                f"dimension {name!r} is empty", "check the bounding box or slice that made the cube"
            )
    return y, x


def _dim_along(
    obj: xr.Dataset | xr.DataArray, axis: str, standard_names: tuple[str, ...], names: tuple[str, ...]
) -> str | None:
    for dim in obj.dims:
        if dim in obj.coords:
            attrs = obj.coords[dim].attrs
            if attrs.get("axis") == axis or attrs.get("standard_name") in standard_names:
                return str(dim)
    return next((str(dim) for dim in obj.dims if str(dim).lower() in names), None)


def geobox_from_coords(obj: xr.Dataset | xr.DataArray, y: str, x: str) -> tuple[GeoBox, bool]:
    """Return the grid of a cube, and whether it is georeferenced.

    Evenly spaced coordinates give the affine transform. The ``GeoTransform`` of the grid mapping takes their place
    where they lack or round to it, and gives the pixel size along a dimension of one pixel. For a rotated grid the
    coordinates are pixel positions, and the ``GeoTransform`` alone gives the transform.

    Parameters
    ----------
    obj
        Dataset or DataArray.
    y, x
        Names of the spatial dimensions, as `spatial_dims` returns them.

    Returns
    -------
    tuple of GeoBox and bool
        Without any coordinate, transform or CRS: a grid in pixels, and False.

    Raises
    ------
    GridError
        Coordinates that are not numeric, finite or evenly spaced; a single pixel of unknown size; a CRS that
        cannot be read.
    """
    from odc.geo.geobox import GeoBox

    shape = (obj.sizes[y], obj.sizes[x])
    crs, declared = _declared_grid(obj)
    along_y, along_x = (_regular(obj, name) for name in (y, x))
    if declared is not None and (declared.b != 0 or declared.d != 0):
        # The coordinates of a rotated grid, if any, count pixels: they say where a crop begins.
        row, col = (0 if axis is None else round(axis[0] - 0.5) for axis in (along_y, along_x))
        return GeoBox(shape, declared @ Affine.translation(col, row), crs), True
    if along_y is not None and along_x is not None:
        (y0, dy), (x0, dx) = along_y, along_x
        if dy is None or dx is None:
            if declared is None:
                raise GridError(
                    f"the size of the single pixel along {y if dy is None else x!r} is unknown",
                    "keep at least two pixels, or write the transform: ds.rio.write_transform(...)",
                )
            dy, dx = declared.e if dy is None else dy, declared.a if dx is None else dx
        affine = Affine(dx, 0, x0 - dx / 2, 0, dy, y0 - dy / 2)
        if crs is None and (dx, dy) == (1.0, 1.0) and declared is None:
            return GeoBox(shape, Affine.translation(round(affine.c), round(affine.f)), None), False
        return GeoBox(shape, _snapped(affine, declared), crs), True
    if declared is not None:
        return GeoBox(shape, declared, crs), True
    return GeoBox(shape, Affine.identity(), crs), False


def _snapped(affine: Affine, declared: Affine | None) -> Affine:
    """Prefer the declared transform, moved by whole pixels, to one recovered from rounded coordinates."""
    if declared is None or declared.determinant == 0:
        return affine
    col, row = ~declared @ (affine.c, affine.f)
    moved = declared @ Affine.translation(round(col), round(row))
    close = abs(col - round(col)) < 1e-3 and abs(row - round(row)) < 1e-3
    same = abs(moved.a / affine.a - 1) < 1e-6 and abs(moved.e / affine.e - 1) < 1e-6
    return moved if close and same else affine


def _declared_grid(obj: xr.Dataset | xr.DataArray) -> tuple[CRS | None, Affine | None]:
    """Return the CRS and transform of the grid mapping variable, else the CRS among the attributes."""
    variables = list(obj.data_vars.values()) if isinstance(obj, xr.Dataset) else []
    for coord in [*obj.coords.values(), *(v for v in variables if v.ndim == 0)]:
        text = coord.attrs.get("crs_wkt") or coord.attrs.get("spatial_ref")
        if coord.ndim == 0 and text:
            numbers = re.split(r"[\s,]+", str(coord.attrs.get("GeoTransform", "")).strip())
            affine = Affine.from_gdal(*map(float, numbers)) if numbers[0] else None
            return _crs(text, f"the CRS in {coord.name!r}", "ds.rio.write_crs('EPSG:...')"), affine
    texts = [obj.attrs.get("crs"), *(v.attrs["crs"] for v in variables if "crs" in v.attrs)]
    text = next((text for text in texts if text), None)
    if not isinstance(text, str):
        return None, None
    return _crs(text, "the attribute crs", "ds.attrs['crs'] = 'EPSG:32633'"), None


def _crs(text: str, what: str, remedy: str) -> CRS:
    from odc.geo.crs import CRS

    try:
        return CRS(text)
    except Exception as error:
        raise GridError(f"{what} cannot be read: {str(text)[:80]!r}", f"write it again: {remedy}") from error


def _regular(obj: xr.Dataset | xr.DataArray, name: str) -> tuple[float, float | None] | None:
    """Return (first centre, step) of a 1-D coordinate; the step is None for a single pixel."""
    if name not in obj.coords:
        return None
    values = np.asarray(obj.coords[name].values)
    if values.dtype.kind not in "iuf":
        raise GridError(
            f"coordinate {name!r} is not numeric but {values.dtype}", "use pixel centres as numbers"
        )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise GridError(f"coordinate {name!r} holds values that are not finite", "drop or repair them")
    if len(values) == 1:
        return float(values[0]), None
    step = (values[-1] - values[0]) / (len(values) - 1)
    deviation = np.abs(values - (values[0] + step * np.arange(len(values)))).max()
    if step == 0 or deviation > 0.02 * abs(step):
        raise GridError(
            f"coordinate {name!r} is not evenly spaced (off by {deviation / abs(step or 1):.2f} pixels)",
            "bring the cube onto a regular grid first, e.g. ds.odc.reproject(geobox)",
        )
    return float(values[0]), float(step)
