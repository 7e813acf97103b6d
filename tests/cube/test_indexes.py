"""Coordinate indexes of other libraries, and attributes that describe the grid, follow the result's grid."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from affine import Affine

import eoaug
from eoaug.cube.read import read_cube
from eoaug.stac.open import open_cube
from eoaug.stac.publish import write
from eoaug.stac.writable_cube import WritableCube
from eoaug.testing import grid, scene


def cube(dates=2, **kwargs):
    return scene((20, 24), dates=dates, dtype="float32", **kwargs)[["blue", "red"]]


def hole():
    mask = np.zeros((20, 24), bool)
    mask[4:9, 5:11] = True
    return xr.DataArray(mask, dims=("y", "x"))


def inpaint(ds):
    return eoaug.inpaint(ds, mask=hole(), generator="classical")


def super_resolve(ds):
    return eoaug.super_resolve(ds, factor=2, generator="classical")


@pytest.mark.parametrize("form", ["dataset", "array"])
def test_an_index_of_rasterix_comes_back_on_the_grid_of_the_result(form):
    rasterix = pytest.importorskip("rasterix")
    plain = cube() if form == "dataset" else cube().to_dataarray("band")
    indexed = rasterix.assign_index(plain)
    same = inpaint(indexed)
    assert type(same.xindexes["x"]) is type(indexed.xindexes["x"])
    assert same.xindexes["x"].equals(indexed.xindexes["x"])
    assert same.xindexes["y"] is same.xindexes["x"]
    fine = super_resolve(indexed)
    index = fine.xindexes["x"]
    assert type(index) is type(indexed.xindexes["x"])
    expected = grid((20, 24)).affine @ Affine.scale(0.5)
    np.testing.assert_allclose(tuple(index.transform())[:6], tuple(expected)[:6], atol=1e-9)
    reference = super_resolve(plain)
    for name in ("x", "y"):
        np.testing.assert_allclose(fine[name].values, reference[name].values, atol=1e-9)
    values = (fine.blue, reference.blue) if form == "dataset" else (fine, reference)
    np.testing.assert_array_equal(*(v.values for v in values))


def test_a_rotated_grid_is_read_from_its_index():
    rasterix = pytest.importorskip("rasterix")
    geobox = grid((20, 24), rotation_deg=30.0)
    bare = xr.Dataset({"blue": (("y", "x"), np.full((20, 24), 0.2, np.float32), {"units": "1"})})
    index = rasterix.RasterIndex.from_transform(
        geobox.affine, width=24, height=20, x_dim="x", y_dim="y", crs="EPSG:32733"
    )
    ds = bare.assign_coords(xr.Coordinates.from_xindex(index))
    np.testing.assert_allclose(tuple(read_cube(ds).geobox.affine), tuple(geobox.affine), atol=1e-9)
    fine = super_resolve(ds.assign_coords(time=np.datetime64("2024-06-01", "ns")))
    expected = geobox.affine @ Affine.scale(0.5)
    for result in (read_cube(fine), WritableCube.of(fine)):
        np.testing.assert_allclose(tuple(result.geobox.affine), tuple(expected), atol=1e-9)
        assert result.geobox.crs == "EPSG:32733"


def test_an_index_of_xproj_comes_back_and_names_the_reference_system_of_files(tmp_path):
    pytest.importorskip("xproj")
    given = cube().drop_vars("spatial_ref").proj.assign_crs(spatial_ref="EPSG:32733")
    for variable in given.data_vars.values():
        variable.encoding, variable.attrs = {}, {"units": "1"}
    assert read_cube(given).geobox.crs == "EPSG:32733"
    for result in (inpaint(given), super_resolve(given)):
        assert type(result.xindexes["spatial_ref"]) is type(given.xindexes["spatial_ref"])
        assert result.proj.crs.to_epsg() == 32733
        assert WritableCube.of(result).geobox.crs == "EPSG:32733"
    (item, _) = write(result, tmp_path)
    assert item.properties["proj:code"] == "EPSG:32733"


@pytest.mark.parametrize("corner", [False, True], ids=["centres", "corners"])
def test_attributes_of_the_grid_are_renewed(corner):
    """stackstac keeps crs, transform and resolution in the attributes, and upper left corners in the coordinates."""
    geobox = grid((20, 24))
    array = cube().to_dataarray("band").drop_vars("spatial_ref")
    array.encoding = {}
    if corner:
        array = array.assign_coords(x=array.x - 5, y=array.y + 5)
    array.attrs = {
        "crs": "epsg:32733", "transform": geobox.affine, "resolution": 10.0, "spec": "x", "units": "1",
    }  # fmt: skip
    fine = super_resolve(array)
    expected = geobox.affine @ Affine.scale(0.5)
    np.testing.assert_allclose(tuple(fine.attrs["transform"])[:6], tuple(expected)[:6])
    assert fine.attrs.get("resolution", 5.0) == 5.0
    assert "spec" not in fine.attrs
    # The result's coordinates are centres: the usual convention, and the transform places them there.
    assert (float(fine.x[0]), float(fine.y[0])) == (expected.c + 2.5, expected.f - 2.5)
    np.testing.assert_allclose(tuple(read_cube(fine).geobox.affine), tuple(expected), atol=1e-9)
    same = inpaint(array)
    assert {k: v for k, v in same.attrs.items() if k in array.attrs} == array.attrs
    np.testing.assert_allclose(tuple(WritableCube.of(same).geobox.affine), tuple(geobox.affine), atol=1e-9)


@pytest.mark.parametrize("given", ["GeoTransform", "none"])
def test_degrees_in_float32_are_read_beside_a_geotransform(given, tmp_path):
    ds = cube(dates=1, crs="EPSG:4326")
    y, x = read_cube(ds).names_yx
    geobox = read_cube(ds).geobox
    coarse = ds.assign_coords({n: (n, ds[n].values.astype(np.float32), ds[n].attrs) for n in (y, x)})
    if given == "none":
        del coarse.spatial_ref.attrs["GeoTransform"]
    transform = read_cube(coarse).geobox.affine
    tolerance = 1e-12 if given == "GeoTransform" else 1e-5
    np.testing.assert_allclose(tuple(transform), tuple(geobox.affine), rtol=0, atol=tolerance)
    mask = hole().rename(y=y, x=x)
    result = eoaug.inpaint(coarse, mask=mask, generator="classical")
    np.testing.assert_array_equal(result[x].values, coarse[x].values)
    expected = eoaug.inpaint(ds, mask=mask, generator="classical")
    if given == "GeoTransform":
        np.testing.assert_array_equal(result.blue.values, expected.blue.values)
        write(result, tmp_path)
        back = open_cube(tmp_path, chunks=None)
        np.testing.assert_allclose(tuple(back.odc.geobox.affine), tuple(geobox.affine), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(back.blue.values, expected.blue.values)


@pytest.mark.parametrize(("form", "time"), [("cog", "t"), ("zarr", "time")])
def test_a_scene_classification_among_the_bands_of_an_array(form, time, tmp_path):
    ds = cube().rename(blue="B02", red="B04")
    classes = np.full(ds.B02.shape, 4, np.float32)
    classes[0, 4:9, 5:11] = 9
    stack = ds.assign(SCL=(ds.B02.dims, classes)).to_dataarray("band").rename(time=time)
    stack.attrs = {"units": "1"}
    plain = ds.assign(SCL=(ds.B02.dims, classes.astype(np.uint8)))
    expected = eoaug.inpaint(plain, mask="scl", mask_buffer=0, generator="classical")
    result = eoaug.inpaint(stack, mask="scl", mask_buffer=0, generator="classical")
    assert result.dims == stack.dims
    assert result.band.values.tolist() == ["B02", "B04", "SCL"]
    for name in ("B02", "B04", "SCL"):
        np.testing.assert_array_equal(result.sel(band=name).values, expected[name].values, err_msg=name)
    np.testing.assert_array_equal(result.synthetic.values, expected.synthetic.values)
    assert (result.synthetic.values[0] == 1).sum() == 30
    write(result, tmp_path, format=form)
    back = open_cube(tmp_path, chunks=None)
    for name in ("B02", "B04", "SCL", "synthetic"):
        np.testing.assert_array_equal(back[name].values, expected[name].values, err_msg=name)
    again = eoaug.inpaint(back, mask="SCL", mask_buffer=0, generator="classical")
    np.testing.assert_array_equal(again.synthetic.values, expected.synthetic.values)
