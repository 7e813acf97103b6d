"""Cubes become samples by their attributes; a sample is a request that the engine could have written."""

import numpy as np
import pytest
import xarray as xr

from eoaug.datasets import training_cubes
from eoaug.errors import ParameterError, RadiometryError, SourceError
from eoaug.training import samples

BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
MEAN, STD = (0.1,) * 6, (0.05,) * 6


@pytest.fixture(scope="module")
def cube(tmp_path_factory, write):
    path = write(tmp_path_factory.mktemp("cube") / "a.nc", cloudy=(1,))
    return training_cubes.read_training_cube(path, BANDS)


def draw(cube, task, seed=0, **changes):
    return samples.draw(np.random.default_rng(seed), [cube], task, mean=MEAN, std=STD, **changes)


def test_reflectance_follows_scale_and_offset_and_slots_follow_common_names(cube):
    assert cube.bands.tolist() == [True, False, True, True, False, False]
    assert cube.values[0, 0, 0, 0] == pytest.approx(1100e-4 - 0.1)
    assert cube.values[2, 3, 5, 7] == pytest.approx((1300 + 20 + 12) * 1e-4 - 0.1)
    assert np.isnan(cube.values[:, 1]).all()
    assert cube.lonlat_deg == (11.0, 46.0)
    assert cube.times.tolist() == [0, 86_400, 172_800, 259_200]
    assert cube.clear[1].mean() == 0.5


def test_fill_values_are_missing(tmp_path, write):
    path = write(tmp_path / "a.nc")
    with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as ds:
        holed = ds.load()
    holed["B0"][0, 3, 4] = 0
    holed.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    assert np.isnan(training_cubes.read_training_cube(tmp_path / "b.nc", BANDS).values[0, 0, 3, 4])


def test_an_unscaled_band_that_is_not_8_bit_is_refused(tmp_path, write):
    path = write(tmp_path / "a.nc", attrs={})
    with pytest.raises(RadiometryError, match="declares no scale"):
        training_cubes.read_training_cube(path, BANDS)


def test_a_file_without_bands_is_refused_alone_and_passed_over_in_a_folder(tmp_path, write):
    write(tmp_path / "radar.nc", names=("vv",))
    write(tmp_path / "small.nc", px=32)
    write(tmp_path / "good.nc", px=128)
    with pytest.raises(SourceError, match=r"radar\.nc"):
        training_cubes.read_training_cube(tmp_path / "radar.nc", BANDS)
    found = training_cubes.read_training_cubes(tmp_path, BANDS, tile_px=64, pyramid=1)
    assert [(c.name, c.gsd_m) for c in found] == [("good", 10.0), ("good/2", 20.0)]


def test_a_coarser_file_of_the_same_ground_joins_its_bands(tmp_path, write):
    write(tmp_path / "place.nc", px=128, names=("red",))
    write(tmp_path / "place_20m.nc", px=64, names=("swir16",), gsd_m=20.0)
    found = {c.name: c for c in training_cubes.read_training_cubes(tmp_path, BANDS, tile_px=64, pyramid=1)}
    assert set(found) == {"place", "place_20m"}
    assert found["place_20m"].bands.tolist() == [False, False, True, False, True, False]
    fine = found["place"].values[0, 2, :2, :2].mean()
    assert found["place_20m"].values[0, 2, 0, 0] == pytest.approx(fine)


def test_a_resampled_cube_does_not_teach_super_resolution(tmp_path, write):
    cube = training_cubes.read_training_cube(write(tmp_path / "a.nc", native_gsd_m=10.0, gsd_m=14.0), BANDS)
    assert not cube.sharp
    with pytest.raises(SourceError, match="x4"):
        draw(cube, "x4")
    draw(cube, "holes")


@pytest.mark.parametrize("seed", range(20))
def test_a_usable_window_is_whole_and_at_most_5_percent_cloudy(cube, seed):
    sample = draw(cube, "free", seed)
    present = sample.request.fill[0].any(axis=(1, 2))
    assert (sample.measured[present].mean(axis=(1, 2)) >= samples.MIN_CLEAR).all()
    assert not sample.measured[~present].any()
    assert sample.request.verb == "synthesize"


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("task", samples.SAMPLE_KINDS)
def test_a_sample_is_a_request_with_one_target(cube, task, seed):
    sample = draw(cube, task, seed)
    request = sample.request
    assert request.target.sum() == 1
    assert len(request.times) <= 3
    target = int(np.flatnonzero(request.target)[0])
    assert not (request.known & request.fill).any()
    assert not request.values[~request.known].any()
    # Where the request and the truth both speak they say the same.
    both = request.known[target] & sample.measured
    np.testing.assert_array_equal(request.values[target][both], sample.truth[both])
    assert np.isfinite(sample.truth).all()
    expected = {"holes": "inpaint", "dates": "extend", "free": "synthesize"}.get(task, "super_resolve")
    assert request.verb == expected
    assert (np.diff(request.times) > 0).all()


@pytest.mark.parametrize("task", ["x2", "x4", "x8"])
def test_the_coarse_image_is_what_the_sensor_sees_of_the_truth(cube, task):
    sample = draw(cube, task, seed=3)
    request = sample.request
    seen = request.sensor.degrade(sample.truth)
    present = request.fill[0].any(axis=(1, 2))
    np.testing.assert_allclose(request.coarse[0][present], seen[present], atol=1e-4)
    assert np.isnan(request.coarse[0][~present]).all()


def test_metadata_are_place_pixel_and_date(cube):
    row = draw(cube, "free").request.metadata[0]
    assert row[:3].tolist() == [11.0, 46.0, 10.0]
    assert row[4:6].tolist() in ([1970.0, 1.0], [np.nan, np.nan]) or np.isnan(row[4])


def test_draws_depend_on_the_generator_alone(cube):
    first, again, other = (draw(cube, "holes", seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.request.known, again.request.known)
    np.testing.assert_array_equal(first.truth, again.truth)
    assert not np.array_equal(first.request.known, other.request.known)


def test_an_unknown_kind_is_refused(cube):
    with pytest.raises(ParameterError, match="'x3'"):
        draw(cube, "x3")


def test_statistics_weigh_calibrated_cubes_alike(tmp_path, write):
    cube = training_cubes.read_training_cube(write(tmp_path / "a.nc"), BANDS)
    found = training_cubes.statistics([cube])
    assert np.isnan(found["mean"][1])
    assert found["mean"][0] == pytest.approx(float(cube.values[:, 0].mean()), abs=1e-4)
    assert found["std"][0] == pytest.approx(float(cube.values[:, 0].std()), abs=1e-4)
