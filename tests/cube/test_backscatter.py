"""Radar bands: forms are told apart, converted exactly, and kept through the verbs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import eoaug
from eoaug.cube import provenance
from eoaug.cube.read import read_cube
from eoaug.errors import BandError, ParameterError, RadiometryError
from eoaug.evaluate.sar_distributions import distribution_distances, enl
from eoaug.raster.backscatter import calibration_of, convert_backscatter
from eoaug.testing import scene


def radar(form: str, **attrs: object) -> xr.Dataset:
    """Return a small cube of two polarisations and three dates with a gap, in one form."""
    ds = scene(bands=("vv", "vh"), dates=3, dtype="float32", shape_yx=(32, 32))[["vv", "vh"]]
    rng = np.random.default_rng(0)
    for name, level in (("vv", 0.08), ("vh", 0.015)):
        power = level * rng.gamma(4.0, 0.25, ds[name].shape)
        values = convert_backscatter(power, "intensity", form)
        values[1, 8:20, 8:20] = np.nan
        band = ds[name].copy(data=values.astype(np.float32))
        band.attrs = {
            "common_name": name,
            "units": {"decibel": "dB", "intensity": "m2 m-2"}.get(form, form),
            **attrs,
        }
        band.encoding = {}
        ds[name] = band
    return ds


@pytest.mark.parametrize("form", ["amplitude", "intensity", "decibel"])
@pytest.mark.parametrize("to", ["amplitude", "intensity", "decibel"])
def test_every_form_becomes_every_other_and_back(form, to):
    ds = radar(form, long_name="gamma nought")
    there = eoaug.backscatter(ds, to)
    assert (there.vv.attrs["backscatter"], there.vv.attrs["calibration"]) == (to, "gamma0")
    back = there.eoaug.backscatter(form)
    np.testing.assert_allclose(back.vv, ds.vv, rtol=2e-5, atol=2e-5)
    assert np.isnan(there.vv.values).sum() == np.isnan(ds.vv.values).sum()


def test_decibels_are_ten_logarithms_of_power_and_twenty_of_amplitude():
    assert convert_backscatter(np.array([100.0]), "intensity", "decibel") == 20
    assert convert_backscatter(np.array([100.0]), "amplitude", "decibel") == 40
    assert convert_backscatter(np.array([-10.0]), "decibel", "intensity") == pytest.approx(0.1)
    assert np.isnan(convert_backscatter(np.array([0.0, -1.0]), "intensity", "amplitude")).all()


def test_a_verb_gives_the_same_backscatter_in_every_form():
    """The generator sees decibels: a gap in power is filled as the gap in decibels is, and stays power."""
    filled = {
        form: radar(form).eoaug.inpaint(generator="classical")
        for form in ("amplitude", "intensity", "decibel")
    }
    for form, cube in filled.items():
        given = radar(form)
        clear = np.isfinite(given.vv.values)
        assert cube.vv.values[clear].tobytes() == given.vv.values[clear].tobytes(), form
        assert cube.vv.attrs["units"] == given.vv.attrs["units"]
        decibels = eoaug.backscatter(cube).vv
        np.testing.assert_allclose(decibels, filled["decibel"].vv, atol=1e-4, err_msg=form)
    assert (filled["intensity"].vv.values > 0).all()


def test_zero_power_is_no_measurement():
    ds = radar("intensity").fillna(0.0)
    filled = ds.eoaug.inpaint(generator="classical")
    assert (filled.synthetic.values[1, 8:20, 8:20] == 1).all()
    assert (filled.vv.values > 0).all()


def test_amplitude_is_normalised_by_its_mean_and_three_deviations_and_restored():
    ds = radar("intensity")
    one = ds.eoaug.backscatter("amplitude", normalise=True)
    amplitude = eoaug.backscatter(ds, "amplitude").vv
    white = float(amplitude.mean() + 3 * amplitude.std())
    assert one.vv.attrs["scale_factor"] == pytest.approx(white, rel=1e-6)
    assert float(one.vv.max()) == 1.0
    restored = eoaug.backscatter(one, "amplitude").vv
    below = (amplitude < white).values
    np.testing.assert_allclose(restored.values[below], amplitude.values[below], rtol=1e-5)
    fixed = eoaug.backscatter(ds, "amplitude", normalise=(0.2, 0.1))
    assert fixed.vv.attrs["scale_factor"] == pytest.approx(0.5)


def test_complex_images_become_amplitude_and_noise_below_the_floor_is_missing():
    slc = xr.Dataset({"slc": (("y", "x"), np.array([[3 + 4j, 1e-3 + 0j], [0j, 1j]]))})
    amplitude = eoaug.backscatter(slc, "amplitude", bands=["slc"], floor_db="sentinel-1").slc
    np.testing.assert_allclose(amplitude, [[5, np.nan], [np.nan, 1]])


def test_integers_keep_their_scale_and_dask_stays_dask():
    dn = np.array([[1000, 5000], [0, 20000]], np.uint16)
    attrs = {"nodata": 0, "scale_factor": 10 ** (-83 / 20), "units": "amplitude"}
    ds = xr.Dataset({"VV": (("y", "x"), dn, attrs)})
    lazy = eoaug.backscatter(ds.chunk(y=1))
    assert lazy.VV.chunks
    np.testing.assert_allclose(
        lazy.VV.values, [[-23, 20 * np.log10(5e3) - 83], [np.nan, 20 * np.log10(2e4) - 83]], atol=1e-5
    )


def test_what_is_not_said_is_asked_for():
    with pytest.raises(RadiometryError, match="does not say whether"):
        eoaug.backscatter(radar("intensity", units="1"))
    with pytest.raises(BandError, match="no radar band"):
        eoaug.backscatter(scene())
    with pytest.raises(ParameterError, match="normalise= is for amplitudes"):
        eoaug.backscatter(radar("decibel"), "intensity", normalise=True)
    with pytest.raises(RadiometryError, match="'watts' is unknown"):
        eoaug.backscatter(radar("decibel", backscatter="watts"))


def test_calibrations_are_told_apart():
    assert calibration_of({"long_name": "sigma0 VV, digital number"}) == "sigma0"
    assert calibration_of({}, "Gamma0_VH") == "gamma0"
    assert calibration_of({"long_name": "sigma0 or gamma0"}) is None
    assert calibration_of({}, "vv") is None


def test_real_sentinel_1_amplitudes_are_decibels_to_the_verbs(eoaug_data: Path):
    path = eoaug_data / "cubes/validation/worldcereal_be_monthly_2021.nc"
    with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as whole:
        ds = whole[["VV", "VH"]].load()
    for name in ("VV", "VH"):
        ds[name].attrs |= {"units": "amplitude", "scale_factor": 10 ** (-83 / 20)}
    cube = read_cube(ds)
    decibels = 20 * np.log10(ds.VV.values[0].astype(float)) - 83
    np.testing.assert_allclose(cube.bands[0].scaling(ds.VV.values[0]), decibels, atol=1e-6)
    assert calibration_of(ds.VV.attrs) == "sigma0"
    assert -20 < np.median(decibels) < -5


@pytest.mark.filterwarnings("ignore:.*has no slot")
def test_samples_in_gaps_have_the_speckle_of_the_image(eoaug_data: Path):
    """Their distribution is nearer to the image's own than that of the classical fill, and their looks are."""
    path = eoaug_data / "cubes/train/worldcereal_be_bruges_2019_s1grd_20m.nc"
    with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as whole:
        ds = eoaug.backscatter(whole[["VV", "VH"]].isel(time=[3]).load())
    hidden = ds.copy(deep=True)
    for name in ("VV", "VH"):
        hidden[name].values[0, 8:24, 8:24] = np.nan
    drawn = hidden.eoaug.inpaint(generator="embedded", fill="all", steps=2)
    lazy = hidden.chunk(y=16, x=20).eoaug.inpaint(generator="embedded", fill="all", steps=2)
    smooth = hidden.eoaug.inpaint(generator="classical", fill="all")
    for name in ("VV", "VH"):
        own = ds[name].values[0]
        around = np.ones(own.shape, bool)
        around[8:24, 8:24] = False
        near, far = (
            distribution_distances(own[around], made[name].values[0][~around], limits=(-35, 5)).ks
            for made in (drawn, smooth)
        )
        assert near < 0.8 * far, (name, near, far)
        assert drawn[name].values[0][around].tobytes() == own[around].tobytes()
        assert lazy[name].values.tobytes() == drawn[name].values.tobytes()
        looks = [
            enl(convert_backscatter(image[8:24, 8:24], "decibel", "intensity"), patch_px=8, share=1.0)
            for image in (drawn[name].values[0], own, smooth[name].values[0])
        ]
        assert 0.4 < looks[0] / looks[1] < 2.5 < looks[2] / looks[1], looks


@pytest.mark.parametrize("form", ["amplitude", "intensity", "decibel"])
@pytest.mark.filterwarnings("ignore:.*has no slot")
@pytest.mark.parametrize(("generator", "sensor"), [("classical", "box"), ("embedded", 0.3)])
def test_a_coarse_pixel_of_radar_is_the_mean_of_power(form, generator, sensor):
    """Whatever form is stored: the mean of speckle in decibels is lower, and would darken the result."""
    ds = radar(form).isel(time=[0])
    made = ds.eoaug.super_resolve(factor=2, sensor=sensor, sensor_noise=0, generator=generator)
    fine, coarse = (eoaug.backscatter(each, "intensity") for each in (made, ds))
    for name in ("vv", "vh"):
        power, measured = fine[name].values, coarse[name].values
        assert (power > 0).all()
        # White speckle is not the image of any blur: only the box reproduces it exactly.
        assert power.mean() == pytest.approx(measured.mean(), rel=2e-4 if sensor == "box" else 0.05)
        if sensor == "box":
            cells = power.reshape(1, 32, 2, 32, 2).mean(axis=(2, 4))
            np.testing.assert_allclose(cells, measured, rtol=2e-4)
    if sensor == "box":
        assert max(provenance.of(made).residual.values()) < 0.001  # decibels


def test_every_form_gives_one_super_resolved_image():
    images = [
        eoaug.backscatter(
            radar(form).isel(time=[0]).eoaug.super_resolve(factor=2, sensor="box", generator="classical"),
            "decibel",
        ).vv.values
        for form in ("amplitude", "intensity", "decibel")
    ]
    for image in images[1:]:
        np.testing.assert_allclose(image, images[0], atol=2e-3)
