"""Where a grid lies on the globe: the GeoJSON footprint and bounding box of an item."""

from __future__ import annotations

import math
from typing import Any

import antimeridian
import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from eoaug.errors import GridError

__all__ = ["footprint"]

_POINTS_PER_SIDE = 21
"""A straight side of a projected grid is curved on the globe; 20 segments keep it within 1/400 of its sagitta."""


_TOLERANCE_DEG = 1e-6
"""Points within this distance of a straight outline, a tenth of a metre, are left out."""


def footprint(geobox: GeoBox) -> tuple[dict[str, Any], list[float]]:
    """Return the outline of a grid as GeoJSON geometry, and its bounding box, in degrees.

    Follows RFC 7946: an outline that crosses the antimeridian is cut there, and its bounding box has west > east; an
    outline around a pole reaches it along the antimeridian. Grids all around the globe, or with a pole on
    their outline, get all longitudes.

    Parameters
    ----------
    geobox
        A grid with a CRS.

    Returns
    -------
    tuple of dict and list
        Polygon or MultiPolygon; west, south, east, north. Coordinates have 7 decimals.

    Raises
    ------
    GridError
        The grid lies outside the domain of its coordinate reference system.

    Notes
    -----
    Antimeridian and poles are the work of the package ``antimeridian``
    (https://www.gadom.ski/2022/10/13/antimeridian.html), in the plane of longitude and latitude
    (``great_circle=False``): edges of GeoJSON are straight there. Its ``bbox`` is not used, since a grid all around the globe
    that begins at 0 degrees would get [0, south, 0, north].
    """
    from shapely.geometry import Polygon, box, mapping

    lon, lat = _outline(geobox)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise GridError(
            f"the grid's outline {geobox.extent.boundingbox.bbox} cannot be converted to degrees",
            "check its coordinate reference system",
        )
    continuous = np.unwrap(lon, period=360.0)
    south, north = max(float(lat.min()), -90.0), min(float(lat.max()), 90.0)
    around_pole = abs(continuous[-1] - continuous[0]) > 180
    if around_pole:
        northern = bool(lat.mean() > 0)
        south, north = (south, 90.0) if northern else (-90.0, north)
        outline = antimeridian.fix_polygon(
            Polygon(zip(lon, lat, strict=True)),
            force_north_pole=northern,
            force_south_pole=not northern,
            great_circle=False,
        ).simplify(_TOLERANCE_DEG)
    if around_pole or continuous.max() - continuous.min() >= 360:
        world = [-180.0, south, 180.0, north]
        return _rounded(mapping(outline if around_pole and outline.is_valid else box(*world))), world
    continuous = continuous - 360.0 * math.floor((continuous.min() + 180.0) / 360.0)
    west, east = float(continuous.min()), float(continuous.max())
    outline = Polygon(zip(continuous, lat, strict=True)).simplify(_TOLERANCE_DEG)
    if east > 180.0:
        outline = antimeridian.fix_polygon(outline, fix_winding=True, great_circle=False)
        east -= 360.0
    return _rounded(mapping(outline)), [round(v, 7) for v in (west, south, east, north)]


def _outline(geobox: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return longitude and latitude along the closed outline, counter-clockwise for a north-up grid."""
    from pyproj import Transformer

    assert geobox.crs is not None
    height, width = geobox.shape
    step = np.linspace(0.0, 1.0, _POINTS_PER_SIDE)[:-1]
    ones, zeros = np.ones_like(step), np.zeros_like(step)
    column = np.concatenate([zeros, step, ones, 1 - step, [0.0]]) * width
    row = np.concatenate([step, ones, 1 - step, zeros, [0.0]]) * height
    a = geobox.affine
    xs, ys = a.a * column + a.b * row + a.c, a.d * column + a.e * row + a.f
    lon, lat = Transformer.from_crs(geobox.crs.proj, "OGC:CRS84", always_xy=True).transform(xs, ys)
    return np.asarray(lon, dtype=np.float64), np.asarray(lat, dtype=np.float64)


def _rounded(geometry: Any) -> dict[str, Any]:
    """Round coordinates to 7 decimals, a centimetre; more decimals are noise in a diff."""

    def rounded(value: Any) -> Any:
        if isinstance(value, int | float):
            return round(float(value), 7)
        return [rounded(entry) for entry in value]

    return {"type": geometry["type"], "coordinates": rounded(geometry["coordinates"])}
