"""Grids: the absolute index of a pixel, refinement, and what a grid says about the ground."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Geod

from eoaug.errors import GridError
from eoaug.raster.grid import absolute_origin, as_geobox, gsd_m, lonlat, refine, same_grid
from eoaug.testing import grid

pixels = st.integers(-(10**6), 10**6)
kinds = st.sampled_from([{}, {"crs": "EPSG:4326"}, {"rotation_deg": 30.0}])


@given(kinds, st.integers(0, 500), st.integers(0, 500))
def test_two_crops_count_their_pixels_from_one_origin(kind, row, col):
    whole = grid((1000, 1000), **kind)
    top, left = absolute_origin(whole.affine)
    assert absolute_origin(whole[row:, col:].affine) == (top + row, left + col)


@given(
    row=pixels,
    col=pixels,
    size=st.sampled_from([10.0, 30.0, 0.3, 1 / 3600, 2.0**-13]),
    half=st.sampled_from([0.0, 0.5]),
    noise=st.floats(-0.2, 0.2),
)
def test_the_index_stands_rounding_at_whole_and_half_pixels(row, col, size, half, noise):
    affine = Affine(size, 0, (col + half + noise) * size, 0, -size, -(row + half + noise) * size)
    assert absolute_origin(affine) == (row, col)


@given(kinds, st.integers(2, 8))
def test_a_refined_grid_has_the_same_bounds(kind, factor):
    coarse = grid((30, 40), **kind)
    fine = refine(coarse, factor)
    assert fine.shape == (30 * factor, 40 * factor)
    for corner in [(0, 0), (40, 0), (0, 30), (40, 30)]:
        there = fine.affine @ (corner[0] * factor, corner[1] * factor)
        np.testing.assert_allclose(there, coarse.affine @ corner, rtol=0, atol=1e-7)
    assert fine.crs == coarse.crs


def test_same_grid():
    one = grid((30, 40))
    assert same_grid(one, GeoBox((30, 40), one.affine @ Affine.translation(1e-4, 0), one.crs))
    assert not same_grid(one, GeoBox((30, 40), one.affine @ Affine.translation(0.01, 0), one.crs))
    assert not same_grid(one, GeoBox((30, 40), one.affine @ Affine.rotation(0.1), one.crs))
    assert not same_grid(one, GeoBox((30, 41), one.affine, one.crs))
    assert not same_grid(one, GeoBox((30, 40), one.affine, "EPSG:32634"))


def test_like_takes_a_box_or_a_bounding_box():
    box = grid((30, 40))
    assert as_geobox(box) is box
    made = as_geobox((500_000, 5_300_000, 500_400, 5_300_300), resolution=10, crs="EPSG:32633")
    assert made.shape == (30, 40)
    assert made.affine == Affine(10, 0, 500_000, 0, -10, 5_300_300)


@pytest.mark.parametrize(
    ("like", "options", "words"),
    [
        ("europe", {}, "'europe'"),
        ((0, 0, 1), {"crs": 4326, "resolution": 1}, "four numbers"),
        ((1, 0, 0, 1), {"crs": 4326, "resolution": 1}, "no area"),
        ((0, 0, 1, 1), {"crs": 4326}, "resolution=None"),
        ((0, 0, 1, 1), {"resolution": 1}, "crs=None"),
        ((0, 0, 1, 1), {"resolution": -1, "crs": 4326}, "-1.0"),
        ((0, 0, 1, 1), {"resolution": 1, "crs": "EPSG:0"}, "EPSG:0"),
        ((0, 0, 1, 1), {"resolution": "fine", "crs": 4326}, "'fine'"),
        (GeoBox((3, 3), Affine.identity(), None), {}, "no CRS"),
    ],
)
def test_a_box_that_says_nothing_is_refused(like, options, words):
    with pytest.raises(GridError, match=words):
        as_geobox(like, **options)


def test_ground_sampling_distance():
    assert gsd_m(grid((10, 10))) == pytest.approx(10.0)
    assert gsd_m(grid((10, 10), rotation_deg=30)) == pytest.approx(10.0)
    feet = GeoBox((10, 10), Affine(10, 0, 0, 0, -10, 0), "EPSG:2263")
    assert gsd_m(feet) == pytest.approx(3.048, rel=1e-4)
    oblong = GeoBox((10, 10), Affine(10, 0, 5e5, 0, -20, 5e6), "EPSG:32633")
    assert gsd_m(oblong) == pytest.approx(np.sqrt(200.0))
    degrees = grid((10, 10), crs="EPSG:4326")
    edge = 2.0**-13 * np.pi / 180 * 6378137.0
    assert gsd_m(degrees, 0.0) == pytest.approx(edge * np.sqrt(1 - 0.00669438), rel=1e-8)
    assert gsd_m(degrees) == pytest.approx(gsd_m(degrees, 48.25), rel=1e-3)


@pytest.mark.parametrize(("crs", "ellipsoid"), [("EPSG:4326", "WGS84"), ("EPSG:4314", "bessel")])
@pytest.mark.parametrize("lat", [0.0, 48.0, 65.0, -48.0, 89.9])
@pytest.mark.parametrize("size", [(2.5e-4, 2.5e-4), (1e-4, 4e-4)])
def test_degrees_are_measured_on_the_ellipsoid(crs, ellipsoid, lat, size):
    width, height = size
    geod = Geod(ellps=ellipsoid)
    *_, along_x = geod.inv(-width / 2, lat, width / 2, lat)
    *_, along_y = geod.inv(0, lat - height / 2, 0, lat + height / 2)
    expected = np.sqrt(along_x * along_y)
    pixels = GeoBox((10, 10), Affine(width, 0, -5 * width, 0, -height, lat + 5 * height), crs)
    assert gsd_m(pixels) == pytest.approx(expected, rel=1e-6)
    assert gsd_m(pixels[:5], lat) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("lat", "metres"), [(0.0, 27.736), (48.0, 22.773), (65.0, 18.131)])
def test_geographic_pixels_measure(lat, metres):
    # Lengths of a degree on WGS 84 as trigonometric series, e.g. 111191 m along the meridian and 74625 m along the
    # parallel of 48 degrees (https://en.wikipedia.org/wiki/Geographic_coordinate_system#Length_of_a_degree).
    pixels = GeoBox((2, 2), Affine(2.5e-4, 0, 13, 0, -2.5e-4, lat + 2.5e-4), "EPSG:4326")
    assert gsd_m(pixels) == pytest.approx(metres, abs=2e-3)


@given(st.integers(0, 900), st.integers(0, 900))
def test_positions_in_degrees(row, col):
    whole = grid((1000, 1000), crs="EPSG:4326")
    expected = whole.affine @ (col, row)
    np.testing.assert_allclose(lonlat(whole, [row], [col])[0], expected, rtol=0, atol=1e-9)
    utm = grid((1000, 1000))
    lon, lat = lonlat(utm, [row], [col])[0]
    assert 14.9 < lon < 15.3
    assert 47.7 < lat < 47.9


def test_positions_without_a_crs_are_unknown():
    assert np.isnan(lonlat(GeoBox((3, 3), Affine.identity(), None), [0, 1], [0, 1])).all()


@pytest.mark.parametrize("part", [0, 0.25, 0.5, 0.75])
def test_windows_of_a_grid_in_decimal_degrees_count_the_same_pixels(part):
    res = 0.00025
    whole = GeoBox((60, 3000), Affine(res, 0, 12.3 + part * res, 0, -res, 48.25 + part * res), "EPSG:4326")
    row, col = absolute_origin(whole.affine)
    for left in range(0, 2900, 7):
        window = whole[3:40, left : left + 40]
        assert absolute_origin(window.affine) == (row + 3, col + left), left
