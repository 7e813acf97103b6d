"""Where a grid lies on the globe: the GeoJSON footprint and bounding box of an item."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from eoaug.errors import GridError

__all__ = ["footprint"]

_POINTS_PER_SIDE = 21
"""A straight side of a projected grid bends on the globe; 20 pieces keep it within 1/400 of its bend."""


_TOLERANCE_DEG = 1e-6
"""Points of the outline that lie straighter than this, a tenth of a metre, are left out."""


def footprint(geobox: GeoBox) -> tuple[dict[str, Any], list[float]]:
    """Return a grid's outline as GeoJSON geometry and bounding box, in degrees.

    Follows RFC 7946: outlines that cross the antimeridian are cut there, and their bounding box has
    west > east. A grid around a pole gets the whole parallel.

    Raises
    ------
    GridError
        When the grid lies outside of what its coordinate reference system can be converted for.
    """
    from shapely.affinity import translate
    from shapely.geometry import MultiPolygon, Polygon, box, mapping

    lon, lat = _outline(geobox)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise GridError(
            f"the grid's outline {geobox.extent.boundingbox.bbox} cannot be converted to degrees.",
            "Check its coordinate reference system.",
        )
    turned = np.unwrap(lon, period=360.0)
    south, north = float(lat.min()), float(lat.max())
    if abs(turned[-1] - turned[0]) > 180:  # the outline runs around a pole
        top, bottom = (90.0, south) if lat.mean() > 0 else (north, -90.0)
        around = [-180.0, bottom, 180.0, top]
        return _rounded(mapping(box(*around))), around
    if turned.max() - turned.min() >= 360:
        around = [-180.0, max(south, -90.0), 180.0, min(north, 90.0)]
        return _rounded(mapping(box(*around))), around
    turned = turned - 360.0 * math.floor((turned.min() + 180.0) / 360.0)
    west, east = float(turned.min()), float(turned.max())
    outline = Polygon(zip(turned, lat, strict=True)).simplify(_TOLERANCE_DEG)
    if east <= 180.0:
        return _rounded(mapping(outline)), [round(v, 7) for v in (west, south, east, north)]
    parts = [
        outline.intersection(box(-180.0, -90.0, 180.0, 90.0)),
        translate(outline.intersection(box(180.0, -90.0, 540.0, 90.0)), xoff=-360.0),
    ]
    polygons = [p for part in parts for p in getattr(part, "geoms", [part]) if p.geom_type == "Polygon"]
    cut = mapping(MultiPolygon(polygons))
    return _rounded(cut), [round(v, 7) for v in (west, south, east - 360.0, north)]


def _outline(geobox: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude and latitude along the closed outline, counter-clockwise for a north-up grid."""
    from pyproj import Transformer

    assert geobox.crs is not None
    height, width = geobox.shape
    step = np.linspace(0.0, 1.0, _POINTS_PER_SIDE)[:-1]
    one, zero = np.ones_like(step), np.zeros_like(step)
    column = np.concatenate([zero, step, one, 1 - step, [0.0]]) * width
    row = np.concatenate([step, one, 1 - step, zero, [0.0]]) * height
    a = geobox.affine
    xs, ys = a.a * column + a.b * row + a.c, a.d * column + a.e * row + a.f
    lon, lat = Transformer.from_crs(geobox.crs.proj, "OGC:CRS84", always_xy=True).transform(xs, ys)
    return np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)


def _rounded(geometry: Any) -> dict[str, Any]:
    """Coordinates with 7 decimals, a centimetre; more are noise in a diff."""

    def walk(value: Any) -> Any:
        if isinstance(value, int | float):
            return round(float(value), 7)
        return [walk(part) for part in value]

    return {"type": geometry["type"], "coordinates": walk(geometry["coordinates"])}
