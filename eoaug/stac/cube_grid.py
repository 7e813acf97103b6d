"""The grid of a cube made of items: their own, a requested one, or one node per grid."""

from __future__ import annotations

import math
from collections.abc import Container, Hashable, Iterable, Sequence
from typing import Any

from affine import Affine
from odc.geo import CRS, geom
from odc.geo.geobox import GeoBox

from eoaug.errors import GridError, first_line
from eoaug.stac.band_sources import ItemDate, pixel_size
from eoaug.stac.filters import Bbox

__all__ = ["grid_key", "node_name", "on", "target_grid"]


_EMPTY_FACTOR = 5.0
"""A cube with more pixels than this many times those of its items is refused."""
_SEAM_DEG = 4.0
"""Distance from the antimeridian up to which UTM zone 60 is used on both sides; beyond it a map of the Pacific."""
_DEGREE_M = 111_320.0


def grid_key(geobox: GeoBox, resolution: float | None) -> Hashable:
    """Return what items must share to lie in one cube: the CRS, and without ``resolution`` the pixels."""
    return str(geobox.crs), None if resolution is not None else _linear(geobox)


def _linear(geobox: GeoBox) -> tuple[float, ...]:
    a = geobox.affine
    return tuple(float(f"{v:.9g}") for v in (a.a, a.b, a.d, a.e))


def node_name(geobox: GeoBox, taken: Container[str] = ()) -> str:
    """Return the name of a grid's node: its EPSG code and pixel size, and a number if that name is taken."""
    assert geobox.crs is not None
    name = f"epsg{geobox.crs.to_epsg()}" if geobox.crs.to_epsg() else "crs"
    name = f"{name}_{pixel_size(geobox):g}"
    number = 2
    unique = name
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique


def target_grid(
    dates: Sequence[ItemDate], *, box: Bbox | None, crs: Any, resolution: float | None
) -> GeoBox | None:
    """Return the grid of the smallest pixels, extended over all items and cut to ``box``; None if they do not meet."""
    if crs is None:
        _refuse_two_systems(dates)
    base = dates[0].grid
    if crs is not None or resolution is not None:
        base = _requested_grid(base, crs, resolution)
    left, top, right, bottom = _pixel_bounds(base, [on(date.grid, base) for date in dates])
    if box is not None:
        covered = GeoBox((bottom - top, right - left), base.translate_pix(left, top).affine, base.crs)
        parts = _box_parts(box, covered)
        if not parts:
            return None
        cut = _pixel_bounds(base, parts, widen=True)
        left, top = max(left, cut[0]), max(top, cut[1])
        right, bottom = min(right, cut[2]), min(bottom, cut[3])
    if right <= left or bottom <= top:
        return None
    cube = GeoBox((bottom - top, right - left), base.translate_pix(left, top).affine, base.crs)
    _refuse_empty(cube, dates)
    return cube


def _requested_grid(base: GeoBox, crs: Any, resolution: float | None) -> GeoBox:
    try:
        wanted = base.crs if crs is None else CRS(crs)
    except Exception as error:  # odc-geo does not export the errors of pyproj
        raise GridError(
            f"crs={crs!r} is not a coordinate reference system: {first_line(error)}",
            "give e.g. crs='EPSG:32633'",
        ) from error
    assert wanted is not None
    assert base.crs is not None
    size = resolution
    if size is None:
        if wanted == base.crs:
            return base
        if wanted.units != base.crs.units:
            raise GridError(
                f"crs={crs!r} has units of {wanted.units[0]}, the items have {base.crs.units[0]}",
                f"give resolution= in {wanted.units[0]}",
            )
        size = pixel_size(base)
    return GeoBox((1, 1), Affine(size, 0, 0, 0, -size, 0), wanted)


def on(grid: GeoBox, base: GeoBox) -> Any:
    """Return a grid's outline in the reference system of ``base``."""
    assert base.crs is not None
    return grid.extent if grid.crs == base.crs else grid.extent.to_crs(base.crs, pixel_size(grid) * 50)


def _pixel_bounds(base: GeoBox, shapes: Iterable[Any], *, widen: bool = False) -> tuple[int, int, int, int]:
    """Return the bounds of geometries in pixels of ``base`` as (left, top, right, bottom)."""
    columns: list[float] = []
    rows: list[float] = []
    back = ~base.affine
    for shape in shapes:
        for x, y in _points(shape):
            columns.append(back.a * x + back.b * y + back.c)
            rows.append(back.d * x + back.e * y + back.f)
    # Corners that lie on a pixel edge come back with a rounding error.
    slack = 1e-3
    inner = -slack if not widen else slack
    return (
        math.floor(min(columns) - inner),
        math.floor(min(rows) - inner),
        math.ceil(max(columns) + inner),
        math.ceil(max(rows) + inner),
    )


def _points(shape: Any) -> list[tuple[float, float]]:
    parts = list(shape.geom.geoms) if hasattr(shape.geom, "geoms") else [shape.geom]
    return [(x, y) for part in parts for x, y, *_ in part.exterior.coords]


def _refuse_two_systems(dates: Sequence[ItemDate]) -> None:
    """Refuse bands of several reference systems: on the grid of one, the others would mostly be missing."""
    for date in dates:
        for name, source in date.sources.items():
            if source.geobox.crs != date.grid.crs:
                raise GridError(
                    f"band {name!r} of item {source.item!r} lies in {source.geobox.crs}, others in {date.grid.crs}",
                    "choose bands= of one reference system, or give crs= and resolution=",
                )


def _refuse_empty(cube: GeoBox, dates: Sequence[ItemDate]) -> None:
    from shapely.ops import unary_union

    covered = unary_union([on(date.grid, cube).geom for date in dates]).intersection(cube.extent.geom)
    share = covered.area / cube.extent.geom.area
    if share * _EMPTY_FACTOR < 1:
        height, width = cube.shape
        raise GridError(
            f"a cube of {height} x {width} pixels around these {len(dates)} items would be "
            f"{100 * (1 - share):.1f} % empty",
            _across_the_seam(dates) or "give bbox= or ids= of one area, and open distant areas one by one",
        )


def _across_the_seam(dates: Sequence[ItemDate]) -> str:
    """Return a remedy for items in degrees on both sides of the antimeridian; empty for others."""
    outlines = [date.grid.extent for date in dates if date.grid.crs is not None and date.grid.crs.geographic]
    if len(outlines) < len(dates):
        return ""
    boxes = [outline.to_crs("EPSG:4326").boundingbox for outline in outlines]
    turned = [(box.left % 360, box.right % 360 or 360, box.bottom, box.top) for box in boxes]
    west, east = min(box[0] for box in turned), max(box[1] for box in turned)
    if not west < 180 < east or east - west > 180:
        return ""
    north = min(box[2] for box in turned) >= 0
    near = max(180 - west, east - 180) <= _SEAM_DEG and (north or max(box[3] for box in turned) <= 0)
    crs = ("EPSG:32660" if north else "EPSG:32760") if near else "EPSG:3832"
    size = min(pixel_size(date.grid) for date in dates) * _DEGREE_M
    return (
        "they lie on both sides of the antimeridian: give a reference system without a seam there, "
        f"crs={crs!r} and resolution={size:.3g}, or open the sides one by one"
    )


def _box_parts(box: Bbox, covered: GeoBox) -> list[Any]:
    """Return the box in the reference system of a grid; two parts if it crosses the antimeridian.

    On grids in degrees only the parts that meet the grid: its longitudes may be counted from 0 to 360, or beyond 180.
    """
    assert covered.crs is not None
    west, south, east, north = box
    spans = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
    parts = [geom.box(left, south, right, north, "EPSG:4326") for left, right in spans]
    if not covered.crs.geographic:
        return [part.to_crs(covered.crs, 0.01) for part in parts]
    turned = [
        geom.box(left + turn, south, right + turn, north, "EPSG:4326").to_crs(covered.crs)
        for left, right in spans
        for turn in (-360.0, 0.0, 360.0)
    ]
    return [part for part in turned if part.intersects(covered.extent)]
