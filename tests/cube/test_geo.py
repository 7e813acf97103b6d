"""The door: whatever form a cube has, it comes back in that form."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import rioxarray
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

import eoaug
from eoaug.cube.read import read_cube
from eoaug.errors import BandError, GridError, ParameterError, TimeError
from eoaug.generators.classical import Classical
from eoaug.raster.sensor import Sensor
from eoaug.testing import datasets, grid, scene

CLASSICAL = Classical()
MADE = {"eoaug_provenance", "eoaug_synthetic", "history"}


def apply(verb, obj):
    """A verb with arguments under which every pixel format goes through it."""
    extra = {"extend": {"times": "2031-05-01"}, "super_resolve": {"factor": 2}}.get(verb, {})
    extra |= {} if verb == "inpaint" else {"mask": "none"}
    return getattr(eoaug, verb)(obj, generator=CLASSICAL, **extra)


VERBS = st.sampled_from(["synthesize", "inpaint", "extend", "super_resolve"])


def check_variable(before, after, cube, verb):
    assert tuple(d for d in after.dims if d in before.dims) == before.dims
    assert set(after.dims) == set(before.dims)
    assert after.dtype == before.dtype
    assert {k: v for k, v in after.attrs.items() if k not in MADE} == before.attrs
    kept = {k: v for k, v in before.encoding.items() if k not in ("chunks", "preferred_chunks")}
    if verb in ("super_resolve", "extend"):
        assert after.encoding == kept
    else:
        assert after.encoding == before.encoding


def check_coords(before, after, cube, verb):
    y, x = cube.names_yx
    for name, coord in before.coords.items():
        on_grid = {y, x} & set(coord.dims)
        if verb == "super_resolve" and on_grid and name not in (y, x):
            assert name not in after.coords, "a coordinate on the old grid cannot stay"
            continue
        assert name in after.coords, name
        found = after.coords[name]
        assert found.dims == coord.dims
        changed = verb == "super_resolve" and (on_grid or "GeoTransform" in coord.attrs)
        if verb == "extend" and cube.name_time in coord.dims:
            xr.testing.assert_equal(found.sel({cube.name_time: before[cube.name_time]}).drop_vars(name),
                                    coord.drop_vars(name))  # fmt: skip
        elif not changed:
            xr.testing.assert_identical(found.reset_coords(drop=True), coord.reset_coords(drop=True))
    assert set(after.coords) - set(before.coords) <= {"synthetic"}


@pytest.mark.filterwarnings("ignore:.*says that .* of the pixels are cloud:eoaug.errors.EoaugWarning")
@pytest.mark.filterwarnings("ignore:.*filled nothing:eoaug.errors.EoaugWarning")
@settings(max_examples=max(settings().max_examples * 2, 40))
@given(ds=datasets(max_px=20), verb=VERBS)
def test_a_dataset_comes_back_as_it_was(ds, verb):
    cube = read_cube(ds)
    if verb == "extend" and cube.times is None:
        return
    before = ds.copy(deep=True)
    after = apply(verb, ds)
    xr.testing.assert_identical(ds, before)
    assert {k: v for k, v in after.attrs.items() if k not in MADE} == ds.attrs
    assert after.attrs.keys() >= MADE
    kept = [n for n in ds.data_vars if n in after.data_vars]
    assert [*kept, "synthetic"] == list(after.data_vars)
    dropped = set(ds.data_vars) - set(after.data_vars)
    assert dropped == (
        {"scl"} & set(ds.data_vars) if verb in ("super_resolve", "extend") and dropped else set()
    )
    for band in cube.bands:
        check_variable(ds[band.name], after[band.name], cube, verb)
    check_coords(ds, after, cube, verb)
    f = 2 if verb == "super_resolve" else 1
    again = read_cube(after)
    expected = cube.geobox if f == 1 else cube.geobox.zoom_out(1 / f)
    assert again.georeferenced == cube.georeferenced
    if cube.georeferenced:
        assert again.geobox.crs == cube.geobox.crs
        np.testing.assert_allclose(again.geobox.affine, expected.affine, rtol=0, atol=1e-9)
    assert again.lazy == cube.lazy
    assert after.synthetic.dtype == np.uint8


@settings(max_examples=max(settings().max_examples, 20))
@given(ds=datasets(max_px=16, lazy=False), verb=VERBS, data=st.data())
def test_an_array_comes_back_as_it_was_and_equals_the_dataset(ds, verb, data):
    cube = read_cube(ds)
    if verb == "extend" and cube.times is None:
        return
    names = [band.name for band in cube.bands]
    bare = ds[names].drop_vars("elevation", errors="ignore")
    expected = apply(verb, bare)
    single = apply(verb, bare[names[0]])
    assert isinstance(single, xr.DataArray)
    assert single.name == names[0]
    check_variable(bare[names[0]], single, cube, verb)
    np.testing.assert_array_equal(single.values, apply(verb, bare[names[:1]])[names[0]].values)
    stack = bare.to_dataarray("band")
    stack.attrs = dict(ds[names[0]].attrs)
    stack.encoding = dict(ds[names[0]].encoding)
    stack = stack.transpose(*data.draw(st.permutations(stack.dims))).rename("scene")
    many = apply(verb, stack)
    assert many.name == "scene"
    assert many.dims == stack.dims
    assert many.dtype == stack.dtype
    assert many.encoding == stack.encoding
    assert {k: v for k, v in many.attrs.items() if k not in MADE} == stack.attrs
    assert many.band.variable.identical(stack.band.variable)
    for name in names:
        np.testing.assert_array_equal(
            many.sel(band=name).transpose(*expected[name].dims), expected[name].values
        )
    np.testing.assert_array_equal(many.synthetic.transpose(*expected.synthetic.dims), expected.synthetic)


@pytest.mark.filterwarnings("ignore:.*filled nothing:eoaug.errors.EoaugWarning")
def test_a_tree_is_mapped_over_its_nodes():
    one, two = scene((20, 24), dates=2), scene((16, 30), dates=2, crs="EPSG:32634")
    tree = xr.DataTree.from_dict(
        {"/": xr.Dataset(attrs={"title": "all"}), "/a": one, "/b/deep": two}, name="t"
    )
    for verb in ("synthesize", "inpaint", "extend", "super_resolve"):
        after = apply(verb, tree)
        assert isinstance(after, xr.DataTree)
        assert after.name == "t"
        assert after.attrs == {"title": "all"}
        xr.testing.assert_identical(after["/a"].to_dataset(), apply(verb, one))
        xr.testing.assert_identical(after["/b/deep"].to_dataset(), apply(verb, two))
    assert tree.eoaug.super_resolve(generator=CLASSICAL)["/a"].sizes["x"] == 48


# -- grids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [{}, {"crs": "EPSG:4326"}, {"rotation_deg": 30.0}], ids=["utm", "4326", "rotated"]
)
def test_the_grid_is_read_and_crops_keep_it(kind):
    ds = scene((30, 40), dates=1, **kind)
    whole = grid((30, 40), **kind)
    assert read_cube(ds).geobox == whole
    y, x = ds.blue.dims[1:]
    crop = read_cube(ds.isel({y: slice(7, 20), x: slice(3, 33)})).geobox
    np.testing.assert_allclose(crop.affine, whole[7:20, 3:33].affine, rtol=0, atol=1e-9)
    row = read_cube(ds.isel({y: slice(7, 8)})).geobox
    np.testing.assert_allclose(row.affine, whole[7:8, :].affine, rtol=0, atol=1e-9)


def test_other_libraries_read_the_new_grid():
    import odc.geo.xr  # noqa: F401

    for kind in ({}, {"crs": "EPSG:4326"}, {"rotation_deg": 30.0}):
        fine = eoaug.super_resolve(scene((20, 24), dates=1, **kind), factor=3, generator=CLASSICAL)
        expected = grid((20, 24), **kind).affine @ Affine.scale(1 / 3)
        np.testing.assert_allclose(fine.blue.odc.geobox.affine, expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(
            fine.blue.rio.transform(recalc="rotation_deg" not in kind), expected, atol=1e-9
        )
        assert fine.blue.rio.crs == fine.blue.odc.crs


def test_a_grid_mapping_that_was_not_decoded_follows_the_grid():
    ds = scene((20, 24), dates=1).reset_coords("spatial_ref")
    after = eoaug.super_resolve(ds, generator=CLASSICAL)
    assert "spatial_ref" in after.data_vars
    numbers = [float(v) for v in after.spatial_ref.attrs["GeoTransform"].split()]
    assert Affine.from_gdal(*numbers).a == 5.0
    np.testing.assert_allclose(np.diff(after.x), 5.0)


def test_resolution_attributes_follow_the_grid():
    after = eoaug.super_resolve(scene((20, 24), dates=1), generator=CLASSICAL)
    assert (after.x.attrs["resolution"], after.y.attrs["resolution"]) == (5.0, -5.0)


def test_ascending_rows_keep_their_direction():
    ds = scene((24, 20), dates=1, content="texture").isel(y=slice(None, None, -1))
    ds.spatial_ref.attrs.pop("GeoTransform")
    after = eoaug.super_resolve(ds, sensor="box", sensor_noise=0, generator=CLASSICAL)
    np.testing.assert_allclose(np.diff(after.y), 5.0)
    seen = Sensor.of("box", 2, 1).degrade(after.blue.values.astype(float))
    np.testing.assert_allclose(seen, ds.blue, atol=1.0)


@pytest.mark.parametrize(
    "names",
    [("latitude", "longitude"), ("lat", "lon"), ("northing", "easting"), ("Y", "X"), ("row", "column")],
)
def test_dimension_names(names):
    y, x = names
    ds = scene((12, 14), dates=1).rename(y=y, x=x)
    ds[y].attrs["axis"], ds[x].attrs["axis"] = "Y", "X"
    assert read_cube(ds).names_yx == names
    assert eoaug.super_resolve(ds, generator=CLASSICAL).blue.dims == ("time", y, x)


def test_a_band_selected_from_an_array():
    """What ``rioxarray.open_rasterio(...).sel(band=1)`` returns: no name, a scalar coordinate ``band``."""
    ds = scene((20, 24), dates=1, dtype="float32")
    array = ds.isel(time=0, drop=True).to_dataarray("band").rename(None)
    one = array.sel(band="nir")
    after = eoaug.super_resolve(one, generator=CLASSICAL)
    assert after.name is None
    assert after.band.item() == "nir"
    assert read_cube(one).bands[0].common_name == "nir"
    number = array.assign_coords(band=[1, 2, 3, 4]).sel(band=2)
    assert eoaug.super_resolve(number, generator=CLASSICAL).band.item() == 2


def test_a_time_of_one_without_a_coordinate():
    ds = scene((20, 24), dates=1).drop_vars(["time", "cloud_cover"])
    after = eoaug.super_resolve(ds, generator=CLASSICAL)
    assert after.blue.dims == ("time", "y", "x")
    assert "time" not in after.coords


def test_coordinates_along_time_spread_over_new_dates():
    ds = scene((20, 24), dates=2).assign_coords(item_id=("time", ["a", "b"]), orbit=("time", [1, 2]))
    after = eoaug.extend(ds, times="2021-03-05", generator=CLASSICAL)
    assert after.item_id.values.tolist() == ["a", "", "b"]
    np.testing.assert_array_equal(after.orbit, [1, np.nan, 2])
    np.testing.assert_array_equal(after.cloud_cover, [0, np.nan, 50])


# -- refusals -----------------------------------------------------------------------------------------


def changed(**coords):
    return scene((12, 14), dates=3).assign_coords(**coords)


@pytest.mark.parametrize(
    ("obj", "kind", "words"),
    [
        (np.zeros((3, 3)), ParameterError, "ndarray"),
        (scene((12, 14)).rename(x="a"), GridError, "no spatial dimensions"),
        (scene((12, 14)).isel(x=slice(0, 0)), GridError, "'x' is empty"),
        (scene((12, 14)).isel(time=slice(0, 0)), TimeError, "length 0"),
        (scene((12, 14)).isel(time=[1, 0, 2]), TimeError, "not ascending"),
        (scene((12, 14)).isel(time=[0, 0, 1]), TimeError, "not ascending"),
        (changed(time=[1, 2, 3]), TimeError, "int64"),
        (changed(time=np.array(["2021", "NaT", "2022"], "datetime64[ns]")), TimeError, "NaT"),
        (
            changed(time=np.array(["2021-01-01T00:00:00.1", "2021-01-01T00:00:00.7", "2022"], "datetime64[ns]")),
            TimeError,
            "by a second",
        ),
        (changed(x=np.arange(14.0) ** 2), GridError, "not evenly spaced"),
        (changed(y=np.full(12, np.nan)), GridError, "not finite"),
        (changed(x=list("abcdefghijklmn")), GridError, "not numeric"),
        (scene((12, 14)).expand_dims(level=3), ParameterError, "'level'"),
        (scene((12, 14)).astype(bool), BandError, "no band"),
        (scene((12, 14)).drop_vars("time"), TimeError, "no coordinate"),
    ],
)  # fmt: skip
def test_what_is_no_cube_is_refused(obj, kind, words):
    with pytest.raises(kind, match=words) as caught:
        read_cube(obj)
    assert caught.value.remedy


@pytest.mark.parametrize("scales", [(1e-4, 1e-4, 1e-4), (1e-4, 2e-4, 1e-2)])
def test_scales_of_every_band_of_rioxarray_are_read(scales, tmp_path):
    """Without mask_and_scale, rioxarray gives stored numbers, and the scales of the bands as lists."""
    import rasterio

    path = tmp_path / "three.tif"
    values = np.full((3, 8, 8), 2000, np.uint16)
    profile = {"driver": "GTiff", "width": 8, "height": 8, "count": 3, "dtype": "uint16", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", transform=Affine(10, 0, 5e5, 0, -10, 5e6), **profile) as file:
        file.write(values)
        file.scales, file.offsets = scales, (0.0, -0.1, 0.0)
        file.descriptions = ("B02", "B03", "B04")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the lists differ
        with rioxarray.open_rasterio(path, mask_and_scale=False) as stored:
            cube = read_cube(stored.load())
    assert [band.scaling(band.data).max() for band in cube.bands] == pytest.approx(
        [2000 * scale + offset for scale, offset in zip(scales, (0.0, -0.1, 0.0), strict=True)]
    )
    wrong = stored.isel(band=[0, 1])
    wrong.attrs["scales"] = (1e-4, 1e-4, 1e-2)
    with pytest.raises(BandError, match="2 bands") as caught:
        read_cube(wrong)
    assert "del da.attrs['scales']" in caught.value.remedy
