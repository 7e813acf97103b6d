"""What a mask says is dilated: the right disk in metres, on any chunks, written into the record, by default where due."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

import eoaug
from eoaug.errors import EoaugWarning, ParameterError
from eoaug.raster.grid import edges_m, gsd_m
from eoaug.raster.masks import dilate
from eoaug.testing import scene
from eoaug.verbs.inpaint import prepare_inpaint

N = 40


def cube(scl=None, dates=2, crs="EPSG:32633", pixel=(10.0, 10.0), name="scl", missing=None):
    """Two bands and a classification; clear where none is given."""
    box = GeoBox((N, N), Affine(pixel[1], 0, 500000, 0, -pixel[0], 5000000), crs)
    rng = np.random.default_rng(0)
    times = pd.date_range("2024-06-01", periods=dates, freq="10D").values
    ds = xr.Dataset(coords=dict(xr_coords(box))).assign_coords(time=times)
    for band in ("red", "nir"):
        values = rng.uniform(0.1, 0.4, (dates, N, N)).astype("float32")
        ds[band] = (("time", "y", "x"), values if missing is None else np.where(missing, np.nan, values))
        ds[band].encoding["grid_mapping"] = "spatial_ref"
    scl = np.full((dates, N, N), 4, "uint8") if scl is None else scl
    ds[name] = (("time", "y", "x"), scl)
    return ds


def spot(dates=2, row=20, col=20):
    scl = np.full((dates, N, N), 4, "uint8")
    scl[0, row, col] = 9
    return scl


def filled(ds, **arguments):
    """The mask that inpaint gets."""
    return np.asarray(prepare_inpaint(ds, {"generator": "classical"}, **arguments).inputs.mask)


def disk(radius, pixel=(1.0, 1.0), row=20, col=20):
    rows, cols = np.ogrid[:N, :N]
    return np.hypot((rows - row) * pixel[0], (cols - col) * pixel[1]) <= radius + 1e-9


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_a_dilated_mask_is_the_brute_force_disk(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    mask = rng.random((2, N, N)) < data.draw(st.sampled_from([0.0, 0.002, 0.02]))
    pixel = (data.draw(st.sampled_from([10.0, 20.0])), data.draw(st.sampled_from([10.0, 30.0])))
    radius = data.draw(st.sampled_from([0.0, 9.99, 10.0, 42.0, 100.0, 900.0]))
    expected = np.zeros_like(mask)
    for date, row, col in np.argwhere(mask):
        expected[date] |= disk(radius, pixel, row, col)
    np.testing.assert_array_equal(dilate(mask, radius, pixel), expected)


@pytest.mark.parametrize("chunks", [{"y": 14, "x": 22}, {"y": 40, "x": 7}])
@pytest.mark.parametrize("radius", [42, 170])
def test_chunks_change_no_pixel_of_the_buffer(chunks, radius):
    rng = np.random.default_rng(radius)
    ds = cube(np.where(rng.random((2, N, N)) < 0.003, 9, 4).astype("uint8"), pixel=(10, 20))
    whole = filled(ds, mask="scl", mask_buffer=radius)
    np.testing.assert_array_equal(filled(ds.chunk(chunks), mask="scl", mask_buffer=radius), whole)
    assert 0.02 < whole.mean() < 0.95


def test_masks_taller_than_a_strip_have_no_seam():
    mask = np.zeros((2100, 3), bool)
    mask[[0, 1020, 1027, 2047, 2099]] = True
    rows = np.arange(2100)
    near = np.min([abs(rows - r) for r in (0, 1020, 1027, 2047, 2099)], axis=0) <= 7
    np.testing.assert_array_equal(dilate(mask, 7), np.repeat(near[:, None], 3, axis=1))


def test_the_default_is_100_m_for_a_quality_band_and_0_for_booleans():
    ds = cube(spot())
    near, exact = np.stack([disk(100, (10, 10)), np.zeros((N, N), bool)]), ds.scl.values == 9
    flags = {"flag_values": [4, 9], "flag_meanings": "clear cloud"}
    for mask in ("scl", ds.scl, ["cloud_high"], ds.scl.rename("classes").assign_attrs(flags)):
        np.testing.assert_array_equal(filled(ds, mask=mask), near)
        np.testing.assert_array_equal(filled(ds, mask=mask, mask_buffer=0), exact)
    for mask in (ds.scl == 9, ds.scl.isin([8, 9]), (ds.scl == 9).astype(int).rename("fill")):
        np.testing.assert_array_equal(filled(ds, mask=mask), exact)
        np.testing.assert_array_equal(filled(ds, mask=mask, mask_buffer=100), near)
    one_date = (ds.scl == 9).isel(time=0, drop=True)
    np.testing.assert_array_equal(filled(ds, mask=one_date, mask_buffer="3px")[1], disk(3))


@pytest.mark.filterwarnings("ignore:.*says that .* of the pixels are cloud:eoaug.errors.EoaugWarning")
@pytest.mark.filterwarnings("ignore:.*filled nothing:eoaug.errors.EoaugWarning")
def test_buffered_pixels_are_filled_and_marked_and_the_radius_is_recorded():
    ds = cube(spot())
    result = eoaug.inpaint(ds, mask="scl", generator="classical")
    near = disk(100, (10, 10))
    np.testing.assert_array_equal(result.synthetic[0] == 1, near)
    assert not (result.synthetic[1] == 1).any()
    np.testing.assert_array_equal(result.red.values[0][~near], ds.red.values[0][~near])
    assert (result.red.values[0][near] != ds.red.values[0][near]).mean() > 0.9
    record = eoaug.inpaint(ds, mask="scl", mask_buffer="2 px", generator="classical").eoaug.provenance
    assert result.eoaug.provenance.parameters["mask_buffer"] == 100.0
    assert result.eoaug.provenance.parameters["mask"] == "scl"
    assert record.parameters["mask_buffer"] == "2px"
    assert record.token != result.eoaug.provenance.token
    booleans = eoaug.inpaint(ds, mask=ds.scl == 9, generator="classical").eoaug.provenance
    assert booleans.parameters["mask_buffer"] == 0.0
    assert (
        "mask_buffer" not in eoaug.inpaint(ds, fill="all", generator="classical").eoaug.provenance.parameters
    )


def test_a_cloud_at_the_edge_of_a_swath_does_not_grow_beyond_it():
    missing = np.zeros((2, N, N), bool)
    missing[:, :, 22:] = True
    scl = np.where(missing, 0, spot())
    ds = cube(scl, missing=missing)
    for one in (ds, ds.chunk({"y": 7, "x": 11})):
        np.testing.assert_array_equal(filled(one, mask="scl")[0], disk(100, (10, 10)) & ~missing[0])


def test_pixels_in_degrees_and_unequal_ones_are_measured_on_the_ground():
    box = GeoBox((N, N), Affine(1e-4, 0, 10.0, 0, -1e-4, 60.0), "EPSG:4326")
    high, wide = edges_m(box)
    assert high == pytest.approx(
        11.14, rel=2e-3
    )  # a ten thousandth of a degree of the meridian at 60 degrees north
    assert wide == pytest.approx(5.58, rel=2e-3)
    assert np.sqrt(high * wide) == pytest.approx(gsd_m(box))
    feet = GeoBox((N, N), Affine(30, 0, 1e6, 0, -30, 1e6), "EPSG:2263")
    assert edges_m(feet) == pytest.approx((9.144, 9.144), rel=1e-4)
    turned = GeoBox((N, N), Affine(6, 8, 5e5, 8, -6, 5e6), "EPSG:32633")
    assert edges_m(turned) == pytest.approx((10.0, 10.0))


def test_without_a_reference_system_metres_are_refused_and_the_remedies_work():
    ds = cube(spot(), crs=None)
    exact = ds.scl.values == 9
    with pytest.warns(EoaugWarning, match=r"not dilated.*mask_buffer='10px'.*mask_buffer=0"):
        np.testing.assert_array_equal(filled(ds, mask="scl"), exact)
    with pytest.raises(ParameterError, match=r"(?s)metres.*mask_buffer='10px'.*assign_crs\('EPSG:32633'\)"):
        filled(ds, mask="scl", mask_buffer=100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(filled(ds, mask="scl", mask_buffer="10px")[0], disk(10))
        np.testing.assert_array_equal(filled(ds, mask="scl", mask_buffer=0), exact)
        with_crs = ds.odc.assign_crs("EPSG:32633")
        np.testing.assert_array_equal(filled(with_crs, mask="scl")[0], disk(100, (10, 10)))


@pytest.mark.parametrize("wrong", [-1, np.nan, np.inf, True, "far", "10 km", "-3px", "1.2.3", [3], 1e9])
def test_what_is_no_distance_is_refused(wrong):
    with pytest.raises(ParameterError, match=r"mask_buffer=.*no distance"):
        filled(cube(spot()), mask="scl", mask_buffer=wrong)


def test_a_buffer_without_a_mask_is_refused():
    with pytest.raises(ParameterError, match="there is none"):
        filled(cube(), mask_buffer=50)


@pytest.mark.parametrize("name", ["valid_mask", "dataMask"])
def test_a_mask_of_valid_pixels_is_not_dilated(name: str) -> None:
    """It says where data are missing; only clouds have rims that a mask misses."""
    ds = scene((40, 40), dates=1, bands=("red",))
    valid = np.ones(ds.red.shape, np.uint8)
    valid[..., 10:14, 10:14] = 0
    ds = ds.assign({name: (ds.red.dims, valid)})
    result = eoaug.inpaint(ds, mask=name, generator="classical")
    np.testing.assert_array_equal(result.synthetic.values == 1, valid == 0)
    wide = eoaug.inpaint(ds, mask=name, mask_buffer=20, generator="classical")
    assert (wide.synthetic.values == 1).sum() > (valid == 0).sum()
