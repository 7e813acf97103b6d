"""Georeference of files: grid, CF grid mapping, GeoZarr attributes."""

from __future__ import annotations

import json
from typing import Any

import xarray as xr
from odc.geo.geobox import GeoBox

from eoaug.cube.dimensions import spatial_dims
from eoaug.cube.grid_mapping import geobox_from_coords
from eoaug.errors import GridError, error_context

__all__ = ["convention_attrs", "crs_fields", "geobox_of", "grid_mapping", "pyproj_crs"]


_PROJ_CONVENTION = {
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "name": "proj:",
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
    "description": "Coordinate reference system of the array",
}
_SPATIAL_CONVENTION = {
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "name": "spatial:",
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
    "description": "Position of the array in that system",
}


def geobox_of(obj: xr.Dataset | xr.DataArray, *, attempt: str) -> tuple[GeoBox, str, str]:
    """Return a cube's grid and the names of its y and x dimensions.

    Parameters
    ----------
    obj
        Dataset or DataArray.
    attempt
        What the grid is needed for; begins the messages.

    Raises
    ------
    GridError
        No spatial dimensions, coordinate reference system or affine transform.
    """
    with error_context(attempt):
        y, x = spatial_dims(obj)
        geobox, georeferenced = geobox_from_coords(obj, y, x)
        if geobox.crs is None:
            raise GridError(
                "the cube has no coordinate reference system",
                "assign the one it was made in, e.g. ds.odc.assign_crs('EPSG:32633')",
            )
        if not georeferenced:
            raise GridError(
                f"the cube has neither coordinates along {y!r} and {x!r} nor a GeoTransform",
                "assign the coordinates of the pixel centres, or reproject a cube with ground control points",
            )
    return geobox, y, x


def grid_mapping(geobox: GeoBox) -> dict[str, Any]:
    """Return the CF attributes of the grid mapping variable; the GeoTransform is GDAL's, also for rotated grids."""
    crs = pyproj_crs(geobox)
    affine = geobox.affine
    transform = " ".join(repr(float(v)) for v in affine.to_gdal())
    return {**crs.to_cf(), "crs_wkt": crs.to_wkt(), "spatial_ref": crs.to_wkt(), "GeoTransform": transform}


def convention_attrs(geobox: GeoBox, yx: tuple[str, str]) -> dict[str, Any]:
    """Return the attributes of the GeoZarr conventions ``proj`` and ``spatial``."""
    crs = pyproj_crs(geobox)
    box = geobox.extent.boundingbox
    attrs: dict[str, Any] = {
        "zarr_conventions": [_PROJ_CONVENTION, _SPATIAL_CONVENTION],
        "proj:wkt2": crs.to_wkt("WKT2_2019"),
        "spatial:dimensions": list(yx),
        "spatial:transform": [float(v) for v in tuple(geobox.affine)[:6]],
        "spatial:shape": [int(n) for n in geobox.shape],
        "spatial:bbox": [float(v) for v in (box.left, box.bottom, box.right, box.top)],
        "spatial:registration": "pixel",
    }
    return attrs | crs_fields(geobox)


def crs_fields(geobox: GeoBox) -> dict[str, Any]:
    """Return ``proj:code``, or ``proj:projjson`` for a reference system without an authority code."""
    crs = pyproj_crs(geobox)
    authority = crs.to_authority()
    if authority is not None:
        return {"proj:code": ":".join(authority)}
    return {"proj:projjson": json.loads(crs.to_json())}


def pyproj_crs(geobox: GeoBox) -> Any:
    """Return the coordinate reference system as pyproj's."""
    assert geobox.crs is not None
    return geobox.crs.proj
