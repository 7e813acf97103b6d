"""One reader: a file has the same pixels, clear pixels and metadata in training and in evaluation."""

import numpy as np
import pytest
import xarray as xr

from eoaug.datasets.netcdf import cloud_mask
from eoaug.datasets.series import read_masks, read_series
from eoaug.datasets.training_cubes import from_dataset, metadata, read_training_cube
from eoaug.errors import RadiometryError, SourceError

BANDS = ("blue", "green", "red", "nir")
MEANINGS = "clear cloud cloud_shadow snow cirrus no_data"


def save(path, *, px=64, dates=1, dtype="uint16", mask=None, names=("blue", "nir"), **attrs):
    """A cube of reflectance 0.1 where a scale of 1e-4 is declared (8-bit: grey level 100)."""
    ds = xr.Dataset(coords={"time": np.arange(1, dates + 1).astype("datetime64[D]").astype("datetime64[ns]")})
    for name in names:
        stored = np.full((dates, px, px), 1000 if dtype != "uint8" else 100)
        ds[name] = (("time", "y", "x"), stored.astype(dtype), {"common_name": name, "gsd_m": 10.0, **attrs})
    if mask is not None:
        ds = ds.assign(mask)
    ds.attrs["bbox_lonlat"] = [10.0, 45.0, 12.0, 47.0]
    ds.to_netcdf(path, engine="h5netcdf")
    return path


def classes(values, name="cloud_mask", px=64, dates=1, **attrs):
    """A mask with one class per stripe of columns, each of equal width."""
    stripes = np.asarray(values, np.uint8)[np.arange(px) * len(values) // px]
    return {name: (("time", "y", "x"), np.broadcast_to(stripes, (dates, px, px)).copy(), attrs)}


def both(path):
    cube = read_training_cube(path, BANDS)
    (window,) = read_series(path, BANDS)
    return cube, window


SCALE = {"reflectance_scale": 1e-4, "reflectance_offset": 0.0}


@pytest.mark.parametrize(
    ("values", "attrs", "clear"),
    [
        ([0, 1, 2, 3], {}, [True, False, False, True]),
        ([0, 1, 2, 3, 4, 255], {}, [True, False, False, True, False, True]),
        (
            [0, 1, 2, 3, 4, 255],
            {"flag_values": np.uint8([0, 1, 2, 3, 4, 255]), "flag_meanings": MEANINGS},
            [True, False, False, True, False, True],
        ),
        # Other numbers for the same meanings.
        (
            [0, 1, 2],
            {"flag_values": np.uint8([0, 1, 2]), "flag_meanings": "cloud snow clear"},
            [False, True, True],
        ),
    ],
)
def test_classes_of_a_mask_mean_the_same_in_both(tmp_path, values, attrs, clear):
    cube, window = both(save(tmp_path / "a.nc", mask=classes(values, **attrs), **SCALE))
    expected = np.asarray(clear)[np.arange(64) * len(values) // 64]
    for found in (cube.clear, window.clear):
        np.testing.assert_array_equal(found, np.broadcast_to(expected, (1, 64, 64)))
    share = 1 - expected.mean()
    assert metadata(cube, np.array([0]))[0, 3] == window.metadata[0, 3] == pytest.approx(share)
    masks = read_masks(tmp_path / "a.nc")[64]
    np.testing.assert_array_equal(masks[0], np.broadcast_to(~expected, (64, 64)))


def test_quality_bands_mean_the_same_in_files_and_in_datasets(tmp_path):
    scl = classes(np.arange(12), "scl")
    bits = np.array(
        [21824, 22280, 23888, 54596, 30048, 1], np.uint16
    )  # clear, cloud, shadow, cirrus, snow, fill
    qa = {"qa_pixel": (("time", "y", "x"), np.tile(bits.repeat(8), (1, 48, 1)))}
    for mask, px in ((scl, 64), (qa, 48)):
        path = save(tmp_path / "a.nc", mask=mask, px=px, **SCALE)
        cube = read_training_cube(path, BANDS)
        with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as ds:
            ds = ds.assign_coords(y=10.0 * np.arange(px)[::-1] + 5e6, x=10.0 * np.arange(px) + 5e5).load()
        opened = from_dataset(ds.rename({n: n.upper() for n in mask}), "a", ["blue"])
        assert 0.2 < cube.clear.mean() < 0.9
        np.testing.assert_array_equal(cube.clear, opened.clear)
        np.testing.assert_array_equal(cube.cloud_fraction, opened.cloud_fraction)


def test_without_a_mask_bright_pixels_are_cloud_and_the_cloud_fraction_is_unknown(tmp_path):
    path = save(tmp_path / "a.nc", **SCALE)
    with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as ds:
        ds = ds.load()
    ds["blue"][0, :4, :3] = 3600
    ds["blue"][0, 8:, :3] = 3400
    ds.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    for bands in (BANDS, BANDS[::-1]):
        cube, window = read_training_cube(tmp_path / "b.nc", bands), read_series(tmp_path / "b.nc", bands)[0]
        for found in (cube, window):
            assert (~found.clear).sum() == 12
            assert not found.clear[0, :4, :3].any()
        assert np.isnan(metadata(cube, np.array([0]))[0, 3])
        assert np.isnan(window.metadata[0, 3])


@pytest.mark.parametrize(
    "attrs",
    [
        {"reflectance_scale": 1e-4, "reflectance_offset": -0.02},
        {"scale_factor": 1e-4, "add_offset": -0.02},
        {"raster:scale": 1e-4, "raster:offset": -0.02},
        {"scale": 1e-4, "offset": -0.02},
    ],
)
def test_every_declared_scale_counts_in_both(tmp_path, attrs):
    for found in both(save(tmp_path / "a.nc", _FillValue=np.uint16(0), **attrs)):
        np.testing.assert_allclose(found.values[0, 0], 0.08, atol=1e-7)
        assert np.isnan(found.values[0, 1]).all()
    assert read_training_cube(tmp_path / "a.nc", BANDS).calibrated


def test_8_bit_values_with_a_scale_are_calibrated_and_without_one_are_display_values(tmp_path):
    (cube, window) = both(save(tmp_path / "a.nc", dtype="uint8", scale_factor=1e-3))
    assert cube.calibrated
    np.testing.assert_allclose(cube.values[0, 0], 0.1, atol=1e-7)
    np.testing.assert_array_equal(cube.values, window.values)
    path = save(tmp_path / "b.nc", dtype="uint8")
    cube = read_training_cube(path, BANDS)
    assert not cube.calibrated
    with pytest.raises(RadiometryError, match="8-bit display values"):
        read_series(path, BANDS)
    (window,) = read_series(path, BANDS, display_values=True)
    np.testing.assert_array_equal(cube.values, window.values)
    np.testing.assert_allclose(cube.values[0, 0], 50 / 255, atol=1e-7)


@pytest.mark.parametrize(
    ("gsd_m", "native_gsd_m", "sharp"),
    [(10.0, None, True), (10.0, 10.0, True), (14.0, 10.0, False), (10.0, 20.0, False), (20.0, 10.0, True)],
)
def test_sharpness_follows_the_native_pixel_in_both(tmp_path, gsd_m, native_gsd_m, sharp):
    native = {} if native_gsd_m is None else {"native_gsd_m": native_gsd_m}
    cube, window = both(save(tmp_path / "a.nc", **SCALE | {"gsd_m": gsd_m} | native))
    assert cube.sharp == sharp
    np.testing.assert_array_equal(window.sharp, np.isin(BANDS, ["blue", "nir"]) & sharp)
    assert cube.gsd_m == gsd_m


def test_a_band_may_stand_in_for_another_in_both_and_the_band_itself_comes_first(tmp_path):
    cube, window = both(save(tmp_path / "a.nc", names=("nir08", "blue"), **SCALE))
    assert cube.bands.tolist() == window.present.tolist() == [True, False, False, True]
    path = save(tmp_path / "b.nc", names=("nir08", "nir"), **SCALE)
    with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as ds:
        ds = ds.load()
    ds["nir"][:] = 3000
    ds.to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    for found in both(tmp_path / "c.nc"):
        np.testing.assert_allclose(found.values[0, 3], 0.3, atol=1e-7)


def test_metadata_are_the_same_in_both(tmp_path):
    cube, window = both(save(tmp_path / "a.nc", dates=3, mask=classes([0, 1, 0, 0], dates=3), **SCALE))
    rows = metadata(cube, np.arange(3))
    np.testing.assert_array_equal(rows, window.metadata)
    assert rows[2].tolist() == [11.0, 46.0, 10.0, 0.25, 1970.0, 1.0, 4.0]


def test_bands_on_two_grids_are_refused_in_both(tmp_path):
    path = save(tmp_path / "a.nc", **SCALE)
    with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as ds:
        ds = ds.load()
    ds["red"] = (("time", "y2", "x2"), np.zeros((1, 32, 32), np.uint16), SCALE | {"common_name": "red"})
    ds.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    for read in (read_training_cube, read_series):
        with pytest.raises(SourceError, match=r"'red' of b\.nc has shape \(1, 32, 32\)"):
            read(tmp_path / "b.nc", BANDS)


def test_a_dataset_without_quality_bands_has_no_mask():
    assert cloud_mask(xr.Dataset({"red": ("x", [1])})) is None
