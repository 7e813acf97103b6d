"""Clouds: exact cover, one field for all grids, shadows where the sun puts them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from affine import Affine

import eoaug
from eoaug.corruptions.clouds import cloud_layers, field_of
from eoaug.corruptions.ground import GroundField
from eoaug.raster.sun import sun_angles
from eoaug.raster.tiles import Window
from eoaug.testing.scenes import grid, scene


def clouds_on(geobox, cover=0.4, shadow=(0.0, 0.0), **more):
    return field_of(
        geobox,
        **{"seed": 7, "time": 0, "cover": cover, "thickness": 1.0, "size_m": 1500.0, "shadow": shadow} | more,
    )


def layers(clouds, like, geobox=None, window=None):
    geobox = like if geobox is None else geobox
    return cloud_layers(clouds, geobox, like, window or Window(0, 0, *geobox.shape.yx))


@pytest.mark.parametrize("percent", range(101))
def test_cover_is_exact_to_a_pixel(percent):
    geobox = grid((57, 43))
    opacity = layers(clouds_on(geobox, percent / 100), geobox).opacity
    assert np.count_nonzero(opacity > 0) == round(percent / 100 * 57 * 43)


def test_cover_is_exact_in_strips():
    geobox = grid((700, 90))
    for cover in (0.001, 0.5, 0.999):
        opacity = layers(clouds_on(geobox, cover), geobox).opacity
        assert np.count_nonzero(opacity > 0) == round(cover * 700 * 90)


@pytest.mark.parametrize("metres", [10, 20, 30, 500])
def test_coarse_opacity_is_the_mean_of_the_fine(metres):
    from odc.geo.geobox import GeoBox

    like, factor = grid((300, 150)), metres // 10
    shape = (300 // factor, 150 // factor)
    coarse = GeoBox(shape, like.affine @ Affine.scale(factor), like.crs)
    clouds = clouds_on(like, shadow=(400.0, 100.0))
    fine, mean = layers(clouds, like), layers(clouds, like, coarse)
    for name in ("opacity", "brightness", "shadow", "covered"):
        blocks = getattr(fine, name).reshape(shape[0], factor, shape[1], factor).mean(axis=(1, 3))
        np.testing.assert_allclose(getattr(mean, name), blocks, rtol=0, atol=1e-12)


def test_pixels_that_cut_those_of_the_reference_weigh_them_by_area():
    from odc.geo.geobox import GeoBox

    like = grid((60, 60))
    # 15 m pixels that begin a quarter of a reference pixel off: sixths of the reference pixels, by repetition.
    other = GeoBox((30, 30), like.affine @ Affine.translation(2.5, 2.5) @ Affine.scale(1.5), like.crs)
    clouds = clouds_on(like)
    fine = np.kron(layers(clouds, like).opacity, np.ones((2, 2)))[5:, 5:][:90, :90]
    expected = fine.reshape(30, 3, 30, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(layers(clouds, like, other).opacity, expected, atol=1e-9)


def test_windows_are_parts_of_the_whole_bit_for_bit():
    like = grid((90, 80))
    clouds = clouds_on(like, shadow=(333.3, 111.1))
    whole, part = layers(clouds, like), layers(clouds, like, window=Window(13, 7, 60, 80))
    for name in ("opacity", "brightness", "shadow"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[13:60, 7:80])


@pytest.mark.parametrize("azimuth", range(0, 360, 45))
def test_shadows_are_the_clouds_bit_by_bit_where_they_move_by_whole_pixels(azimuth):
    like = grid((64, 64))
    steps = [round(f(math.radians(azimuth)) * 1.42) * 17 for f in (math.sin, math.cos)]  # towards the sun
    east, north = steps[0] * 10.0, steps[1] * 10.0
    shadow = layers(clouds_on(like, shadow=(-east, -north)), like).shadow
    caster = layers(clouds_on(like), like, window=Window(0, 0, 64, 64).shift(-steps[1], steps[0])).opacity
    np.testing.assert_allclose(shadow, caster, atol=1e-9)


@pytest.mark.parametrize("azimuth", range(0, 360, 45))
@pytest.mark.parametrize("rotation", [0, 30])
def test_shadows_lie_away_from_the_sun(azimuth, rotation):
    """The shadow is the opacity, displaced by h tan(zenith) away from the sun."""
    from skimage.registration import phase_cross_correlation

    height_m, zenith = 800.0, 40.0
    like = grid((128, 128), rotation_deg=rotation)
    away = height_m * math.tan(math.radians(zenith))
    east, north = (-away * f(math.radians(azimuth)) for f in (math.sin, math.cos))
    drawn = layers(clouds_on(like, shadow=(east, north)), like)
    # The place on the ground where the shadow of the first pixel's cloud falls, in pixels.
    left, top = like.affine @ (0, 0)
    cols, rows = (round(value, 9) for value in ~like.affine @ (left + east, top + north))
    whole = Window(-round(rows), -round(cols), 128 - round(rows), 128 - round(cols))
    moved = layers(clouds_on(like), like, window=whole).opacity
    # Without a window, the edges of the images would draw the estimate to 0.
    one, other = (image * np.outer(*[np.hanning(128)] * 2) for image in (drawn.shadow, moved))
    rest, *_ = phase_cross_correlation(one, other, upsample_factor=20)
    assert np.abs(np.array(rest) - (rows - round(rows), cols - round(cols))).max() <= 0.5
    assert np.corrcoef(drawn.shadow.ravel(), moved.ravel())[0, 1] > 0.98


def test_corrupt_gives_clouds_and_shadows_their_places():
    ds = scene((120, 100), dates=1, dtype="float64", content="texture")
    result = eoaug.corrupt(
        ds, "clouds", cover=0.25, sun_zenith_deg=45, sun_azimuth_deg=135, height_m=300, thickness=4
    )
    mask = result.added_cloud_mask.values
    assert np.count_nonzero(mask == 1) == round(0.25 * 120 * 100)
    inside, shadow = mask == 1, (mask == 2)
    for name, least in (("red", 0.7), ("nir", 0.7)):
        assert result[name].values[inside & (result.added_cloud_opacity.values > 0.9)].min() > least - 0.1
        assert (result[name].values[shadow] < ds[name].values[shadow]).all()
    clear = (mask == 0) & (result.added_cloud_opacity.values == 0)
    close = np.abs(result.red.values - ds.red.values)[clear] <= 0.1 * ds.red.values[clear]
    assert close.all()
    # In the shadow there is more light left at short wavelengths.
    kept = {n: (result[n].values / ds[n].values)[shadow].mean() for n in ("blue", "nir")}
    assert kept["blue"] > kept["nir"]


def test_two_sensors_see_one_field():
    from odc.geo.geobox import GeoBox
    from odc.geo.xr import xr_coords

    fine = scene((120, 90), dates=1, dtype="float64", content="texture")
    coarse = fine.coarsen(y=3, x=3).mean()
    box = GeoBox((40, 30), fine.odc.geobox.affine @ Affine.scale(3), fine.odc.geobox.crs)
    coarse = coarse.assign_coords(xr_coords(box)).assign_coords(time=fine.time + np.timedelta64(25, "m"))
    one = eoaug.corrupt(fine, "clouds", 3, seed=1)
    other = eoaug.corrupt(coarse, "clouds", 3, seed=1, like=fine.odc.geobox)
    mean = one.added_cloud_opacity.coarsen(y=3, x=3).mean().values
    np.testing.assert_allclose(other.added_cloud_opacity.values, mean, atol=1e-6)
    tree = xr.DataTree.from_dict({"/fine": fine, "/coarse": coarse}).eoaug.corrupt("clouds", 3, seed=1)
    np.testing.assert_array_equal(tree["coarse/added_cloud_opacity"].values, other.added_cloud_opacity.values)


def test_dates_have_clouds_of_their_own_and_bands_share_them():
    ds = scene((60, 60), dates=3, content="texture")
    opacity = eoaug.corrupt(ds, "clouds", 3).added_cloud_opacity.values
    assert abs(np.corrcoef(opacity[0].ravel(), opacity[1].ravel())[0, 1]) < 0.9
    assert not np.array_equal(opacity[0], opacity[1])


def test_clouds_above_clouds_and_inpaint_under_them():
    ds = scene((32, 32), dates=2, bands=("red",), content="texture")
    once = eoaug.corrupt(ds, "clouds", 2, seed=1)
    twice = eoaug.corrupt(once, "clouds", 2, seed=2)
    masks = [eoaug.corrupt(ds, "clouds", 2, seed=seed).added_cloud_mask.values == 1 for seed in (1, 2)]
    np.testing.assert_array_equal(twice.added_cloud_mask.values == 1, masks[0] | masks[1])
    lazy = eoaug.corrupt(once.chunk({"x": 20}), "clouds", 2, seed=2)
    assert lazy.added_cloud_mask.chunks
    np.testing.assert_array_equal(lazy.added_cloud_mask, twice.added_cloud_mask)
    filled = once.eoaug.inpaint(mask="added_cloud_mask", mask_buffer=0, generator="classical")
    np.testing.assert_array_equal(filled.synthetic == 1, once.added_cloud_mask > 0)


def test_thermal_bands_cool_and_radar_sees_through():
    ds = scene((60, 60), dates=1, bands=("red", "lwir11", "vv"), dtype="float64", content="texture")
    ds["lwir11"] = xr.full_like(ds.lwir11, 300.0)
    ds["vv"] = ds.vv * 10 - 15
    result = eoaug.corrupt(ds, "clouds", 4, thickness=9)
    assert result.vv.identical(ds.vv.assign_attrs(result.vv.attrs))
    cold = result.lwir11.values[result.added_cloud_opacity.values > 0.95]
    assert cold.size
    assert cold.max() < 271


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:32634", "EPSG:4326"])
def test_grids_of_other_axes_and_systems_see_the_same_clouds(crs):
    like = grid((120, 120))
    ds = scene((40, 40), dates=1, dtype="float64", content="texture")
    if crs == "EPSG:32633":  # rotated
        ds = eoaug.corrupt(ds, "rotation", 5).drop_vars("synthetic")
        ds = ds.drop_attrs(deep=False)
        for var in ds.data_vars.values():
            var.attrs.pop("eoaug_synthetic", None)
    else:
        ds = ds.odc.reproject(crs)
    inside = ~np.isnan(ds.red.values)
    other = eoaug.corrupt(ds, "clouds", 3, seed=1, like=like).added_cloud_opacity.values
    fine = eoaug.corrupt(scene((120, 120), dates=1, dtype="float64"), "clouds", 3, seed=1)
    expected = (
        fine[["added_cloud_opacity"]].odc.reproject(ds.odc.geobox, resampling="nearest").added_cloud_opacity
    )
    assert np.corrcoef(other[inside], expected.values[inside])[0, 1] > 0.99


def test_a_cube_without_a_place_has_no_part_in_the_clouds_of_another():
    ds = scene((32, 32), dates=1).drop_vars(["x", "y", "spatial_ref"], errors="ignore")
    with pytest.raises(eoaug.EoaugError, match="the cube has none"):
        eoaug.corrupt(ds, "clouds", like=grid((32, 32)))


def test_points_and_grids_give_one_field():
    field = GroundField("test", 0, 0, ((300.0, 1.0), (80.0, 0.5)))
    rows, cols = np.arange(0, 900, 37.0), np.arange(0, 700, 41.0)
    y, x = np.meshgrid(rows, cols, indexing="ij")
    np.testing.assert_allclose(field.at(rows, cols), field.at_points(y, x), atol=1e-12)


def test_fields_have_unit_variance_and_no_mean():
    field = GroundField("test", 0, 0, ((300.0, 1.0), (80.0, 0.5)))
    values = field.at(np.arange(0, 20_000, 50.0), np.arange(0, 20_000, 50.0))
    assert values.std() == pytest.approx(1, abs=0.05)
    assert values.mean() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    ("when", "place", "zenith", "azimuth"),
    [
        # NREL SPA's own example (Reda and Andreas 2004): 2003-10-17 19:30:30 UTC, 105.1786 W, 39.742476 N.
        ("2003-10-17T19:30:30", (-105.1786, 39.742476), 50.11162, 194.34024),
        # Equinox at noon on the equator and the prime meridian, but for the equation of time.
        ("2024-03-20T12:07:30", (0.0, 0.0), 0.2, None),
    ],
)
def test_the_sun_stands_where_the_almanac_says(when, place, zenith, azimuth):
    seconds = int(np.datetime64(when, "s").astype(int))
    got = sun_angles(seconds, *place)
    assert got[0] == pytest.approx(zenith, abs=0.05 if azimuth else 0.3)
    assert azimuth is None or got[1] == pytest.approx(azimuth, abs=0.05)


def test_the_sun_is_taken_from_the_cube_first():
    ds = scene((32, 32), dates=2)
    ds = ds.assign_coords(
        {"view:sun_elevation": ("time", [30.0, 40.0]), "view:sun_azimuth": ("time", [100.0, 200.0])}
    )
    record = eoaug.corrupt(ds, "clouds").eoaug.provenance.parameters
    assert record["sun_zenith_deg"] == [60.0, 50.0]
    assert record["sun_azimuth_deg"] == [100.0, 200.0]
    assert eoaug.corrupt(ds, "clouds", sun_zenith_deg=10).eoaug.provenance.parameters["sun_zenith_deg"] == [
        10.0,
        10.0,
    ]
