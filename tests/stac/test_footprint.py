"""Footprints on the globe: the antimeridian, the poles, and the whole Earth."""

from __future__ import annotations

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely.geometry import Point, shape

from eoaug.errors import GridError
from eoaug.stac.footprint import footprint

from .conftest import grid

ACROSS_180 = GeoBox((20, 40), Affine(100, 0, 164000, 0, -100, 1000), "EPSG:32601")
ROUND_POLES = {
    "north": GeoBox((20, 20), Affine(1e5, 0, -1e6, 0, -1e5, 1e6), "EPSG:3413"),
    "north, not centred": GeoBox((20, 20), Affine(1e5, 0, -3e5, 0, -1e5, 1.2e6), "EPSG:3413"),
    "north, rows northward": GeoBox((20, 20), Affine(1e5, 0, -3e5, 0, 1e5, -1.2e6), "EPSG:3413"),
    "south": GeoBox((20, 20), Affine(1e5, 0, -1e6, 0, -1e5, 1e6), "EPSG:3031"),
    "south, rows northward": GeoBox((20, 20), Affine(1e5, 0, -3e5, 0, 1e5, -1.2e6), "EPSG:3031"),
}


def inside(geobox, rows, cols):
    """Longitude and latitude of places in a grid, as shares of its height and width."""
    height, width = geobox.shape
    points = [geobox.affine @ (col * width, row * height) for row in rows for col in cols]
    back = Transformer.from_crs(geobox.crs.proj, "OGC:CRS84", always_xy=True)
    return [Point(back.transform(x, y)) for x, y in points]


@pytest.mark.parametrize("geobox", [grid(), ACROSS_180, *ROUND_POLES.values()])
def test_a_footprint_holds_what_lies_in_the_grid_and_nothing_else(geobox):
    geometry, (west, south, east, north) = footprint(geobox)
    area = shape(geometry)
    assert area.is_valid
    for point in inside(geobox, (0.02, 0.3, 0.7, 0.98), (0.02, 0.4, 0.6, 0.98)):
        assert area.covers(point)
        assert south <= point.y <= north
        assert west <= point.x <= east or (west > east and not east < point.x < west)
    for point in inside(geobox, (-0.05, 0.5, 1.05), (-0.05, 1.05)):
        assert not area.contains(point)


@pytest.mark.parametrize("name", ROUND_POLES)
def test_a_footprint_around_a_pole_holds_it(name):
    geometry, bbox = footprint(ROUND_POLES[name])
    sign = 1 if name.startswith("north") else -1
    assert all(shape(geometry).contains(Point(lon, 89.5 * sign)) for lon in range(-179, 180, 30))
    assert (bbox[0], bbox[2]) == (-180.0, 180.0)
    assert bbox[3 if sign > 0 else 1] == 90.0 * sign


def test_a_footprint_across_the_antimeridian_is_cut_there():
    geometry, (west, _, east, _) = footprint(ACROSS_180)
    assert geometry["type"] == "MultiPolygon"
    assert west > 179 > -179 > east
    for part in shape(geometry).geoms:
        assert part.bounds[0] == -180.0 or part.bounds[2] == 180.0
        assert part.exterior.is_ccw  # RFC 7946, 3.1.6


@pytest.mark.parametrize("west", [-180, 0])
def test_the_whole_earth(west):
    geometry, bbox = footprint(GeoBox((18, 36), Affine(10, 0, west, 0, -10, 90), "EPSG:4326"))
    assert bbox == [-180.0, -90.0, 180.0, 90.0] == list(shape(geometry).bounds)


def test_a_pole_on_the_outline_gives_all_longitudes():
    geometry, bbox = footprint(GeoBox((10, 20), Affine(1e5, 0, -1e6, 0, -1e5, 1e6), "EPSG:3413"))
    assert shape(geometry).is_valid
    assert list(shape(geometry).bounds) == pytest.approx(bbox, abs=1e-6)
    assert (bbox[0], bbox[2], bbox[3]) == (-180.0, 180.0, 90.0)


def test_a_grid_beyond_its_projection_is_refused():
    with pytest.raises(GridError, match="cannot be converted to degrees"):
        footprint(GeoBox((2, 2), Affine(1e8, 0, 1e9, 0, -1e8, 1e9), "EPSG:32633"))
