"""Rotation, scale and translation move image, labels and grid together."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import ndimage

import eoaug
from eoaug.cube.read import read_cube
from eoaug.raster.grid import same_grid
from eoaug.testing.scenes import scene

MOVING = ("rotation", "scale", "translation")


def labelled(shape=(150, 140), smooth=9, **more) -> xr.Dataset:
    ds = scene(shape, **{"dates": 2, "bands": ("red", "nir"), "content": "texture"} | more)
    field = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(shape), smooth)
    classes = (field > 0).astype("uint8") + (field > field.std()).astype("uint8")
    y, x = ds.red.dims[-2:]
    ds["lc"] = (y, x), classes, {"flag_values": np.array([0, 1, 2], "uint8"), "flag_meanings": "a b c"}
    ds["scl"] = ds.red.dims, np.stack([classes + 4] * ds.sizes["time"])
    ds["truth"] = (y, x), classes.astype("float32")
    return ds


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("kind", MOVING)
def test_labels_lie_where_they_were_on_the_ground(kind, severity):
    """Brought back onto the first grid by another library, the classes are those of before."""
    ds = labelled((300, 280), smooth=20, dates=1, bands=("red",))
    result = eoaug.corrupt(ds, kind, severity, seed=severity, labels=["truth"])
    back = result.lc.odc.reproject(ds.odc.geobox, resampling="nearest", dst_nodata=255).values
    inside = back != 255
    assert inside.mean() > 0.2
    for value in (0, 1, 2):
        one, other = (back == value) & inside, (ds.lc.values == value) & inside
        assert other.sum() < 500 or (one & other).sum() / (one | other).sum() >= 0.98 - (
            0.02 if kind == "scale" and severity > 3 else 0
        )
    assert set(np.unique(result.lc)) <= {0, 1, 2, 255}
    assert result.lc.attrs["nodata"] == 255
    assert result.lc.dtype == np.uint8
    assert (result.truth.dims, result.scl.dims) == (ds.truth.dims, ds.scl.dims)
    assert result.truth.isnull().any() == bool((result.lc == 255).any())


@pytest.mark.parametrize("kind", MOVING)
def test_image_and_label_move_together(kind):
    ds = labelled(dtype="float64")
    ds["red"] = ds.red.dims, np.stack([ds.lc.values * 0.2 + 0.1] * 2)
    result = eoaug.corrupt(ds, kind, 4, seed=3)
    nearest = np.rint((result.red.values - 0.1) / 0.2)
    inside = ~np.isnan(nearest)
    np.testing.assert_array_equal(inside[0], result.lc.values != 255)
    assert (nearest[0] == result.lc.values)[inside[0]].mean() > 0.97
    assert (result.scl.values[inside] == result.lc.broadcast_like(result.scl).values[inside] + 4).all()
    assert result.synthetic.values[inside].tolist() == [2] * inside.sum()
    assert (result.synthetic.values[~inside] == 255).all()


@pytest.mark.parametrize("kind", MOVING)
def test_rotation_of_a_window_of_a_lazy_cube(kind):
    ds = labelled((100, 90))
    whole = eoaug.corrupt(ds, kind, 5, seed=8)
    lazy = eoaug.corrupt(ds.chunk({"time": 1, "y": 40, "x": 50}), kind, 5, seed=8)
    part = lazy.isel(y=slice(33, 90), x=slice(20, 70)).compute(scheduler="synchronous")
    for name in ("red", "lc", "scl", "synthetic"):
        np.testing.assert_array_equal(part[name], whole[name].isel(y=slice(33, 90), x=slice(20, 70)))


@pytest.mark.parametrize("kind", MOVING)
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326"])
def test_the_grid_is_declared_so_that_others_read_it(kind, crs):
    ds = scene((60, 50), dates=1, crs=crs, content="texture")
    result = eoaug.corrupt(ds, kind, 3)
    ours = read_cube(result).geobox
    assert same_grid(ours, result.odc.geobox)
    assert ours.crs == ds.odc.geobox.crs
    assert ours != ds.odc.geobox
    again = result.eoaug.corrupt("gaussian_noise")  # what comes out goes in
    assert same_grid(read_cube(again).geobox, ours)


def test_a_rotated_cube_is_written_and_read(tmp_path):
    ds = labelled((64, 64), dates=1, bands=("red",))
    result = eoaug.corrupt(ds, "rotation", 4)
    (item,) = eoaug.write(result, tmp_path / "out")
    assert item.properties["eoaug:operation"] == "corrupt"
    back = eoaug.open_cube(tmp_path / "out", chunks=None)
    assert same_grid(read_cube(back).geobox, read_cube(result).geobox)
    from eoaug.stac.validate import validate

    assert validate(tmp_path / "out").sound


def test_a_cube_without_reference_is_moved_in_pixels():
    ds = scene((40, 40), dates=1, content="texture").drop_vars(["x", "y", "spatial_ref"], errors="ignore")
    result = eoaug.corrupt(ds, "rotation", 5)
    assert result.red.shape == ds.red.shape
    assert (result.red.values[:, 0, 0] == 0).all()


def test_nothing_moves_by_nothing():
    ds = labelled((40, 40))
    for kind, none in (
        ("rotation", {"angle_deg": 0}),
        ("scale", {"factor": 1}),
        ("translation", {"shift_px": 0}),
    ):
        result = eoaug.corrupt(ds, kind, **none)
        for name in ("red", "nir", "lc", "scl"):
            np.testing.assert_array_equal(result[name], ds[name], err_msg=kind)


def test_classes_of_all_numbers_keep_theirs():
    ds = labelled((40, 40))
    ds["lc"] = (
        ds.lc.dims,
        ds.lc.values + 253,
        {"flag_values": np.array([253, 254, 255], "uint8"), "flag_meanings": "a b c"},
    )
    result = eoaug.corrupt(ds, "rotation", 5)
    assert result.lc.attrs["nodata"] == 0
    assert set(np.unique(result.lc)) == {0, 253, 254, 255}
