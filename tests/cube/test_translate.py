"""translate: bands from other bands and dates; measured pixels stay, chunks do not matter, baselines are beaten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from eoaug.errors import BandError, ParameterError
from eoaug.generators.translation.spectral_mixture import shipped_mixture
from eoaug.testing import scene
from eoaug.training.spectra import fit_mixture

OPTICAL = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"]
AMPLITUDE = {"units": "amplitude", "scale_factor": 10 ** (-83 / 20)}


@pytest.fixture(scope="module")
def monthly(eoaug_data: Path) -> xr.Dataset:
    """Sentinel-1 and Sentinel-2 of one place that nothing was fitted to: the months without a gap."""
    path = eoaug_data / "cubes/validation/worldcereal_be_monthly_2021.nc"
    with xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False) as whole:
        ds = whole[[*OPTICAL, "VV", "VH"]].isel(y=slice(72), x=slice(72)).load()
    for name in ("VV", "VH"):
        ds[name].attrs |= AMPLITUDE
    full = np.all([(v != v.attrs["_FillValue"]).all(("y", "x")) for v in ds.values()], axis=0)
    assert full.sum() >= 9
    return ds.isel(time=full)


def hidden(ds: xr.Dataset, names: list[str], date: int, where: object = np.s_[:]) -> xr.Dataset:
    """Return a cube in which bands of a date are missing."""
    out = ds.copy(deep=True)
    for name in names:
        out[name].values[date][where] = ds[name].attrs["_FillValue"]
    return out


def psnr(made: object, truth: object) -> float:
    """Return the PSNR of stored reflectances."""
    return float(-10 * np.log10(np.mean((np.asarray(made, float) - np.asarray(truth, float)) ** 2) * 1e-8))


def linear_regression(ds: xr.Dataset, given: list[str], wanted: str, date: int) -> np.ndarray:
    """Return a band as least squares on the others of all other dates say it."""
    x, y = (np.stack([ds[n].values for n in names]).astype(float) for names in (given, [wanted]))
    rest = np.delete(np.arange(x.shape[1]), date)
    design = np.column_stack([np.ones(x[0, rest].size), x[:, rest].reshape(len(given), -1).T])
    slopes = np.linalg.lstsq(design, y[0, rest].ravel(), rcond=None)[0]
    return slopes[0] + np.tensordot(slopes[1:], x[:, date], 1)


@pytest.mark.parametrize("generator", ["classical", "embedded"])
def test_optical_bands_under_full_cloud_come_from_dates_and_radar(monthly, generator):
    optical, date = ["B02", "B04", "B08"], 4
    given = hidden(monthly[[*optical, "VV", "VH"]], optical, date)
    made = given.eoaug.translate(to="sentinel-2", generator=generator, mask="none")
    assert (made.synthetic[date] == 1).all()
    assert (made.synthetic.values[np.arange(given.sizes["time"]) != date] == 0).all()
    radar = mean = ours = 0.0
    for name in optical:
        truth = monthly[name].values[date]
        ours += psnr(made[name][date], truth)
        mean += psnr(np.delete(monthly[name].values, date, 0).mean(0), truth)
        radar += psnr(linear_regression(monthly, ["VV", "VH"], name, date), truth)
        for other in set(range(given.sizes["time"])) - {date}:
            assert made[name].values[other].tobytes() == monthly[name].values[other].tobytes()
    assert ours > max(mean, radar) + 3, (ours, mean, radar)
    for name in ("VV", "VH"):
        assert made[name].values.tobytes() == monthly[name].values.tobytes()
        assert made[name].attrs == monthly[name].attrs


def test_a_missing_band_beats_linear_regression(monthly):
    gains = []
    for date in (1, 4, 6):
        made = hidden(monthly, ["B11"], date).eoaug.translate(
            to=["swir16"], generator="classical", mask="none"
        )
        truth = monthly.B11.values[date]
        regressed = linear_regression(monthly, [*set(OPTICAL) - {"B11"}, "VV", "VH"], "B11", date)
        gains.append(psnr(made.B11[date], truth) - psnr(regressed, truth))
    assert np.mean(gains) > 0.3, gains


def test_bands_that_were_never_measured_come_from_spectra(monthly):
    """Of a place that it was not fitted to: better than linear regression that was fitted to the same pixels."""
    given = monthly[["B02", "B04", "B08"]].isel(time=[6])
    made = given.eoaug.translate(to=["B05", "B11"], generator="classical", mask="none")
    assert list(made.data_vars) == ["B02", "B04", "B08", "B05", "B11", "synthetic"]
    assert (made.B11.attrs["common_name"], made.B11.dtype) == ("swir16", np.float32)
    assert (made.synthetic == 1).all()
    for name, least in (("B05", 25), ("B11", 23)):
        assert psnr(made[name][0] * 1e4, monthly[name].values[6]) > least
    assert made.B02.values.tobytes() == given.B02.values.tobytes()


def test_neither_chunks_nor_a_crop_change_a_byte(monthly):
    given = hidden(monthly, ["B04", "B08"], 5, np.s_[10:60, 5:50])[["B02", "B04", "B08", "VV"]]
    whole = given.eoaug.translate(to=["B04", "B08"], generator="classical", mask="none")
    lazy = given.chunk(time=5, y=40, x=50).eoaug.translate(
        to=["B04", "B08"], generator="classical", mask="none"
    )
    assert lazy.B04.chunks
    for name in ("B04", "B08", "synthetic"):
        assert lazy[name].values.tobytes() == whole[name].values.tobytes(), name
    assert (whole.synthetic.values[5, 10:60, 5:50] == 1).all()
    assert whole.synthetic.values.sum() == 50 * 45


def wide_scene(dates: int) -> xr.Dataset:
    """Radar and two sensors on several tiles; a band that one half lacks, with tiles that hold none of it."""
    ds = scene(
        (150, 210), dates=dates, bands=("blue", "red", "nir08", "vv"), content="texture", dtype="float32"
    )
    ds = ds.rename(blue="SR_B2", red="SR_B4", nir08="SR_B5", vv="VV")
    for name in ("SR_B2", "SR_B4", "SR_B5"):
        ds[name].attrs["platform"] = "landsat-8"
    ds["VV"] = (20 * ds.VV - 25).assign_attrs(common_name="vv", units="dB")
    half = (0.9 * ds.SR_B4 + 0.02).assign_attrs(common_name="red", units="1", platform="sentinel-2")
    half.values[:, :, 50:] = np.nan
    half.values[-1, 60:80] = np.nan
    return ds.assign(B04=half)


WIDE = {"to": "sentinel-2", "mask": "none"}


@pytest.mark.parametrize("dates", [1, 2])
def test_chunks_and_threads_change_no_byte_of_several_tiles(dates):
    ds = wide_scene(dates)
    whole = ds.eoaug.translate(**WIDE, generator="classical", members=2)
    assert np.isfinite(whole.B04.values).all()
    for chunks, scheduler in ((64, "threads"), ({"y": 100, "x": 47, "time": 1}, "synchronous"))[: 3 - dates]:
        lazy = ds.eoaug.translate(**WIDE, generator="classical", members=2, chunks=chunks)
        made = lazy.compute(scheduler=scheduler)
        for name in ("B04", "synthetic"):
            assert made[name].values.tobytes() == whole[name].values.tobytes(), (name, chunks)
        part = lazy.B04[..., 60:90, 90:130]
        assert part.values.tobytes() == whole.B04.values[..., 60:90, 90:130].tobytes()


def test_a_crop_equals_the_whole_beyond_the_margin():
    """What is learnt around a tile ends at the margin that the plan names."""
    whole = scene((64, 420), bands=("blue", "red"), content="texture", dtype="float32")
    whole = whole.rename(blue="B02", red="B04").assign_attrs(platform="sentinel-2a")
    known = xr.zeros_like(whole.B04, dtype=bool)
    known[..., 300:] = True
    whole["B04"] = whole.B04.where(known)
    crop = whole.isel(x=slice(21, None))
    made, again = (
        each.eoaug.translate(to=["B04"], mask="none", generator="classical") for each in (whole, crop)
    )
    margin = eoaug.plan("translate", crop, to=["B04"], mask="none", generator="classical").margin_px
    assert 128 < margin < 250
    assert made.B04[..., 21 + margin :].values.tobytes() == again.B04[..., margin:].values.tobytes()


@pytest.mark.slow
def test_workers_change_no_byte():
    distributed = pytest.importorskip("distributed")
    ds = wide_scene(3)
    whole = ds.eoaug.translate(**WIDE, generator="embedded", members=2)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0", protocol="tcp://"
        ) as cluster,
        distributed.Client(cluster),
    ):
        made = ds.eoaug.translate(**WIDE, generator="embedded", members=2, chunks=64).compute()
    for name in ("B04", "synthetic"):
        assert made[name].values.tobytes() == whole[name].values.tobytes(), name


def test_a_cloud_mask_hides_optical_bands_and_no_radar(monthly):
    mask = xr.zeros_like(monthly.B02, dtype=bool)
    mask[4, 20:60, 20:60] = True
    monthly = monthly[["B04", "B11", "VV", "VH"]]
    made = monthly.eoaug.translate(to=["B11"], mask=mask, mask_buffer=0, generator="classical")
    assert (made.synthetic.values == mask.values).all()
    worse = monthly.drop_vars(["VV", "VH"]).eoaug.translate(
        to=["B11"], mask=mask, mask_buffer=0, generator="classical"
    )
    inside = mask.values[4]
    assert (made.B11.values[4][inside] != worse.B11.values[4][inside]).any(), "radar counts under cloud"


def test_members_spread_as_the_error_that_is_expected(monthly):
    given = hidden(monthly, ["B11"], 6)[["B04", "B08", "B11", "VV"]]
    ensemble = given.eoaug.translate(to=["B11"], generator="classical", mask="none", members=8)
    best = given.eoaug.translate(to=["B11"], generator="embedded", mask="none", uncertainty=True)
    values = ensemble.B11.values[:, 6].astype(float) * 1e-4
    assert ensemble.sizes["member"] == 8
    spread, expected = values.std(axis=0, ddof=1).mean(), float(best.B11_std[6].mean())
    assert spread == pytest.approx(expected, rel=0.2)
    covered = np.abs(best.B11.values[6] - monthly.B11.values[6]) < 1.645e4 * best.B11_std.values[6]
    assert 0.75 < covered.mean() <= 1


def test_radar_from_optical_bands_has_its_speckle(monthly):
    """One draw has the spread of the measured image."""
    given = hidden(monthly[["B04", "B08", "B11", "VV", "VH"]], ["VV", "VH"], 6)
    made = given.eoaug.translate(to="sentinel-1", generator="classical", mask="none", steps=1)
    drawn = eoaug.backscatter(made).VV[6]
    truth = eoaug.backscatter(monthly).VV[6]
    assert float(drawn.std()) == pytest.approx(float(truth.std()), rel=0.25)
    assert float(drawn.mean()) == pytest.approx(float(truth.mean()), abs=1.0)


def test_what_cannot_be_made_is_refused(monthly):
    with pytest.raises(BandError, match="all bands of the cube"):
        monthly[["B02"]].isel(time=[0]).eoaug.translate(to=["B02"], mask="none")
    with pytest.raises(BandError, match="nothing to learn it from"):
        monthly.eoaug.translate(to=["B99"], mask="none")
    with pytest.raises(BandError, match="no band of reflectance"):
        monthly[["VV", "VH"]].eoaug.translate(to=["B11"], mask="none")
    with pytest.raises(ParameterError, match="names no band"):
        monthly.eoaug.translate(to=[], mask="none")


def test_the_mixture_is_a_regression_of_any_bands_on_any_others():
    rng = np.random.default_rng(0)
    x = rng.uniform(0.05, 0.4, (4000, 1))
    pixels = np.hstack([x, 0.5 * x + 0.02, 0.3 - 0.5 * x]) + rng.normal(0, 0.002, (4000, 3))
    mixture = fit_mixture(np.maximum(pixels, 0), ["red", "nir", "swir16"], components=3)
    expected, spread = mixture.estimate(np.array([[0.1, 0.3]]), ["red"], ["nir", "swir16"])
    np.testing.assert_allclose(expected, [[0.07, 0.17], [0.25, 0.15]], atol=0.004)
    assert (spread < 0.01).all()
    shipped = shipped_mixture()
    for covariance in shipped.covariances:
        assert (np.linalg.eigvalsh(covariance) > 0).all()


def test_the_command_writes_items_with_marks(tmp_path: Path):
    out = tmp_path / "translated"
    result = CliRunner().invoke(
        app,
        [
            *(
                "translate",
                "sample",
                "--ids",
                "S2A_MSIL2A_20170613T101031_87_48",
                "--bands",
                "B02,B03,B04,B08",
            ),
            *("--to", "B05,B11", "--generator", "classical", "--mask", "none", "--out", str(out)),
        ],
    )
    assert result.exit_code == 0, result.output
    valid = CliRunner().invoke(app, ["validate", str(out)])
    assert valid.exit_code == 0, valid.output
    cube = eoaug.open_cube(str(out))
    assert {"B05", "B11", "synthetic"} <= set(cube.data_vars)
    plan = eoaug.plan("translate", cube[["B02", "B04", "synthetic"]], to=["B12"], generator="classical")
    assert plan.verb == "translate"
