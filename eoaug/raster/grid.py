"""What eoaug adds to odc-geo's GeoBox: refinement and the absolute pixel index.

Numpy and odc.geo only. The absolute index comes from the affine alone, never from coordinates: two
crops of one scene count their pixels from the same origin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from eoaug.errors import GridError

if TYPE_CHECKING:
    from odc.geo.crs import CRS
    from odc.geo.geobox import GeoBox
    from pyproj import Transformer

__all__ = ["MOST_PX", "absolute_origin", "as_geobox", "edges_m", "gsd_m", "lonlat", "refine", "same_grid"]


MOST_PX = 100_000_000
"""Most pixels along an edge: the Earth's circumference in pixels of 40 cm."""


def absolute_origin(transform: Affine) -> tuple[int, int]:
    """Return the absolute index (row, column) of a grid's first pixel.

    The pixel that holds the CRS origin counts 0. The shift keeps the index stable under rounding for grids whose
    origin lies on whole, half or quarter pixels.
    """
    col, row = ~transform @ (0.0, 0.0)
    return math.floor(-row + 0.2929), math.floor(-col + 0.2929)


def refine(geobox: GeoBox, factor: int) -> GeoBox:
    """Return the grid of the same bounds with ``factor`` x ``factor`` pixels in every pixel."""
    from odc.geo.geobox import GeoBox

    height, width = geobox.shape.yx
    return GeoBox((height * factor, width * factor), geobox.affine @ Affine.scale(1 / factor), geobox.crs)


def same_grid(first: GeoBox, second: GeoBox, tolerance_px: float = 1e-3) -> bool:
    """Tell whether two grids have the same CRS and shape and all corners within ``tolerance_px``."""
    if first.crs != second.crs or first.shape != second.shape:
        return False
    between = ~first.affine @ second.affine
    height, width = first.shape.yx
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    return all(math.dist(between @ corner, corner) <= tolerance_px for corner in corners)


def as_geobox(like: Any, *, resolution: Any = None, crs: Any = None) -> GeoBox:
    """Return the grid that ``like`` describes.

    Parameters
    ----------
    like
        A GeoBox, or a bounding box (left, bottom, right, top) in units of ``crs``.
    resolution
        Pixel size in units of ``crs``; needed with a bounding box.
    crs
        Coordinate reference system; needed with a bounding box.

    Raises
    ------
    GridError
        Neither a GeoBox nor four ordered numbers, or resolution or CRS missing or unusable.
    """
    from odc.geo.crs import CRS
    from odc.geo.geobox import GeoBox
    from odc.geo.geom import BoundingBox

    if isinstance(like, GeoBox):
        if like.crs is None:
            raise GridError(
                "the GeoBox given as like= has no CRS", "give it one: GeoBox(shape, affine, 'EPSG:32633')"
            )
        if not (math.isfinite(sum(like.affine)) and like.affine.determinant):
            raise GridError(f"the GeoBox given as like= has pixels without area: {tuple(like.affine)[:6]}",
                            "check its affine")  # fmt: skip
        return _checked_size(like)
    if hasattr(like, "odc") and getattr(like.odc, "geobox", None) is not None:
        return as_geobox(like.odc.geobox)
    try:
        if isinstance(like, str):
            raise TypeError
        left, bottom, right, top = (float(v) for v in like)
    except (TypeError, ValueError) as error:
        raise GridError(
            f"like={like!r} is neither a GeoBox nor four numbers",
            "pass odc.geo.geobox.GeoBox, or like=(left, bottom, right, top), resolution=10, crs='EPSG:32633'",
        ) from error
    if not all(map(math.isfinite, (left, bottom, right, top))):
        raise GridError(
            f"like=({left}, {bottom}, {right}, {top}) is not finite", "give the bounds in units of crs"
        )
    if not (left < right and bottom < top):
        raise GridError(
            f"like=({left}, {bottom}, {right}, {top}) has no area", "order it as (left, bottom, right, top)"
        )
    if crs is None or resolution is None:
        raise GridError(
            f"a bounding box needs crs= and resolution=; got crs={crs!r}, resolution={resolution!r}",
            "add them, e.g. crs='EPSG:32633', resolution=10",
        )
    try:
        resolution = float(resolution)
        known_crs = CRS(crs)
    except Exception as error:
        raise GridError(
            f"crs={crs!r} with resolution={resolution!r} is not usable",
            "e.g. crs='EPSG:32633', resolution=10",
        ) from error
    if not 0 < resolution < math.inf:
        raise GridError(
            f"resolution={resolution} is not a positive size", "give the pixel size in units of the CRS"
        )
    bounds = BoundingBox(left, bottom, right, top, known_crs)
    if max(right - left, top - bottom) / resolution > 2 * MOST_PX:
        raise GridError(
            f"like=({left:g}, {bottom:g}, {right:g}, {top:g}) has more than {MOST_PX:,} pixels of {resolution:g} "
            "along an edge",
            "check its extent and resolution",
        )
    return _checked_size(GeoBox.from_bbox(bounds, resolution=resolution, anchor="edge"))


def _checked_size(geobox: GeoBox) -> GeoBox:
    if min(geobox.shape) > 0 and max(geobox.shape) <= MOST_PX:
        return geobox
    height, width = geobox.shape.yx
    raise GridError(
        f"like= has {height:,} x {width:,} pixels; edges may have 1 to {MOST_PX:,}",
        "check its resolution and extent, or ask for a window of it: like=geobox[rows, columns]",
    )


def gsd_m(geobox: GeoBox, lat_deg: float | None = None) -> float:
    """Return the ground sampling distance in metres: the geometric mean of the two edges of a pixel.

    The mean is the square root of the pixel's area on the ground, so it is the same for every rotation of a grid,
    and for pixels that are not square it is what a resampling to square pixels of the same number would have. STAC
    asks for "the average or most commonly used GSD in the center of the image". Networks are trained with it.

    Parameters
    ----------
    geobox
        The grid. Edges of a projected one are taken as they are, in the units of its coordinate reference
        system: the scale of the projection (0.9996 in the centre of a UTM zone) is not removed.
    lat_deg
        Geodetic latitude in degrees, -90 to 90, at which the edges of a geographic grid are measured on its
        ellipsoid; default: the grid's centre, which two crops of one scene do not share.

    Notes
    -----
    A degree along the meridian measures ``M`` pi / 180 and along the parallel ``N`` cos(latitude) pi / 180, with the
    radii of curvature ``M`` and ``N`` of the ellipsoid (Snyder, Map Projections: A Working Manual, USGS Professional
    Paper 1395, 1987, equations 4-18 to 4-21).

    STAC common metadata: https://github.com/radiantearth/stac-spec/blob/master/commons/common-metadata.md
    """
    affine = geobox.affine
    area = abs(affine.determinant)
    if geobox.crs is None:
        return math.sqrt(area)
    unit = geobox.crs.proj.axis_info[0].unit_conversion_factor or 1.0
    if not geobox.crs.geographic:
        return math.sqrt(area) * unit
    meridian_m, parallel_m = _radian_m(geobox, lat_deg)
    return math.sqrt(area * meridian_m * parallel_m) * unit


def edges_m(geobox: GeoBox) -> tuple[float, float]:
    """Return the edges of a pixel in metres, from row to row and from column to column.

    Parameters
    ----------
    geobox
        The grid. One without a coordinate reference system has its own units, which are not known to be metres. On a
        geographic one the edges are those at its centre; see `gsd_m`.
    """
    a, b, _, d, e, _ = tuple(geobox.affine)[:6]
    if geobox.crs is None:
        return math.hypot(b, e), math.hypot(a, d)
    unit = geobox.crs.proj.axis_info[0].unit_conversion_factor or 1.0
    meridian_m, parallel_m = _radian_m(geobox, None) if geobox.crs.geographic else (1.0, 1.0)
    along_x, along_y = parallel_m * unit, meridian_m * unit
    return math.hypot(b * along_x, e * along_y), math.hypot(a * along_x, d * along_y)


def _radian_m(geobox: GeoBox, lat_deg: float | None) -> tuple[float, float]:
    """Return metres per radian along the meridian and the parallel of a geographic grid; see `gsd_m`."""
    assert geobox.crs is not None
    unit = geobox.crs.proj.axis_info[0].unit_conversion_factor or 1.0
    height, width = geobox.shape.yx
    lat = (
        math.radians(lat_deg) if lat_deg is not None else (geobox.affine @ (width / 2, height / 2))[1] * unit
    )
    axis_m, squared_eccentricity = _ellipsoid(geobox.crs)
    flattened = 1 - squared_eccentricity * math.sin(lat) ** 2
    meridian_m = axis_m * (1 - squared_eccentricity) / flattened**1.5
    return meridian_m, axis_m / math.sqrt(flattened) * max(math.cos(lat), 1e-6)


def _ellipsoid(crs: CRS) -> tuple[float, float]:
    """Return the semi-major axis in metres and the squared eccentricity; WGS 84 where a CRS has no ellipsoid."""
    ellipsoid = crs.proj.ellipsoid
    if ellipsoid is None:
        return 6378137.0, 0.0066943799901413165
    ratio = ellipsoid.semi_minor_metre / ellipsoid.semi_major_metre
    return ellipsoid.semi_major_metre, 1 - ratio**2


@lru_cache(maxsize=32)
def _to_lonlat(crs: CRS) -> Transformer:
    """Return the transformer to WGS 84 longitude and latitude; to make one takes a tenth of a second."""
    from pyproj import Transformer

    return Transformer.from_crs(crs.proj, "EPSG:4326", always_xy=True)


def lonlat(geobox: GeoBox, rows: Sequence[float], cols: Sequence[float]) -> NDArray[np.float64]:
    """Return shape (n, 2), WGS 84 longitude and latitude in degrees of n pixel positions.

    Positions are counted from the grid's first corner; NaN where the grid has no CRS.
    """
    out = np.full((len(rows), 2), np.nan)
    if geobox.crs is None:
        return out
    a, b, c, d, e, f = tuple(geobox.affine)[:6]
    col, row = np.asarray(cols, dtype=float), np.asarray(rows, dtype=float)
    x, y = a * col + b * row + c, d * col + e * row + f
    lon, lat = _to_lonlat(geobox.crs).transform(x, y)
    out[:, 0], out[:, 1] = lon, lat
    out[~np.isfinite(out)] = np.nan
    return out
