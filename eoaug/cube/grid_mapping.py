"""From the coordinates and grid mapping of an xarray object to its GeoBox."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from affine import Affine

from eoaug.errors import GridError

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

__all__ = ["geobox_from_coords"]


def geobox_from_coords(ds: xr.Dataset, y: str, x: str) -> tuple[GeoBox, bool]:
    """Return the grid of a cube, and whether it has a georeference (else it is in pixels)."""
    from odc.geo.geobox import GeoBox

    shape = (ds.sizes[y], ds.sizes[x])
    crs, declared = _declared_grid(ds)
    along_y, along_x = (_regular(ds, name) for name in (y, x))
    if declared is not None and (declared.b != 0 or declared.d != 0):
        # A rotated grid: the coordinates, if any, are pixel positions and tell only the crop.
        row, col = (0 if axis is None else round(axis[0] - 0.5) for axis in (along_y, along_x))
        return GeoBox(shape, declared @ Affine.translation(col, row), crs), True
    if along_y is not None and along_x is not None:
        (y0, dy), (x0, dx) = along_y, along_x
        if dy is None or dx is None:
            if declared is None:
                raise GridError(
                    f"one pixel along {y if dy is None else x!r} does not tell the pixel size",
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


def _declared_grid(ds: xr.Dataset) -> tuple[Any, Affine | None]:
    from odc.geo.crs import CRS

    crs = affine = None
    for coord in [*ds.coords.values(), *(v for v in ds.data_vars.values() if v.ndim == 0)]:
        text = coord.attrs.get("crs_wkt") or coord.attrs.get("spatial_ref")
        if coord.ndim == 0 and text:
            try:
                crs = CRS(text)
            except Exception as error:
                raise GridError(
                    f"the CRS in {coord.name!r} cannot be read: {str(text)[:80]!r}",
                    "write it anew: ds.rio.write_crs('EPSG:...')",
                ) from error
            numbers = coord.attrs.get("GeoTransform")
            if numbers:
                values = [float(v) for v in re.split(r"[\s,]+", str(numbers).strip())]
                affine = Affine.from_gdal(*values)
            break
    if crs is None:
        text = ds.attrs.get("crs") or next(
            (v.attrs["crs"] for v in ds.data_vars.values() if "crs" in v.attrs), None
        )
        if isinstance(text, str):
            try:
                crs = CRS(text)
            except Exception as error:
                raise GridError(
                    f"the attribute crs={text!r} cannot be read", "use e.g. 'EPSG:32633'"
                ) from error
    return crs, affine


def _regular(ds: xr.Dataset, name: str) -> tuple[float, float | None] | None:
    """Return (first centre, step) of a 1-D coordinate; the step is None for a single pixel."""
    if name not in ds.coords:
        return None
    values = np.asarray(ds.coords[name].values)
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
