"""corrupt: the same for any chunks and windows, worse with the severity, marked, and physically right."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import eoaug
from eoaug.corruptions.arrays import corrupt_image
from eoaug.corruptions.corrupt import _request
from eoaug.corruptions.image_work import margin_px
from eoaug.corruptions.kinds import KINDS, REOBENCH, parameters_of
from eoaug.cube.provenance import of
from eoaug.cube.read import read_cube
from eoaug.testing import datasets
from eoaug.testing.scenes import scene

SAR = ("speckle", "thermal_noise", "border_noise")
MOVING = ("rotation", "scale", "translation")


def cube_for(kind: str, shape=(36, 40), dates=2) -> xr.Dataset:
    if kind not in SAR:
        # Half as bright as the texture: reflectances of land, below those of clouds.
        bands = ("blue", "green", "red", "nir")[0 if kind == "missing_bands" else 2 :]
        ds = scene(shape, dates=dates, bands=bands, content="texture")
        return ds.map(lambda v: v // 2 if v.ndim == 3 else v, keep_attrs=True)
    ds = scene(shape, dates=dates, bands=("vv", "vh"), dtype="float32", content="texture")
    return ds.map(lambda v: v * 20 - 20 if v.name in ("vv", "vh") else v, keep_attrs=True)


def bands_of(ds: xr.Dataset) -> list[str]:
    return [name for name in ds.data_vars if name in ("blue", "green", "red", "nir", "vv", "vh")]


def physical(ds: xr.Dataset) -> np.ndarray:
    scale = 1e-4 if ds[bands_of(ds)[0]].dtype.kind in "iu" else 1.0
    return np.stack([np.where(ds[n] == 0, 0, ds[n]) for n in bands_of(ds)]).astype(float) * scale


def same(one: xr.Dataset, other: xr.Dataset) -> None:
    assert list(one.data_vars) == list(other.data_vars)
    for name, var in one.data_vars.items():
        assert var.dtype == other[name].dtype
        np.testing.assert_array_equal(var.values, other[name].values, err_msg=name)


def lazy_is_eager(kind: str, severities: range) -> None:
    ds = cube_for(kind, (30, 32), dates=2 if kind == "missing_dates" else 1)
    for severity in severities:
        lazy = eoaug.corrupt(ds.chunk({"time": 1, "y": 17}), kind, severity, seed=3)
        assert all(var.chunks for var in lazy.data_vars.values() if var.ndim == 3)
        same(eoaug.corrupt(ds, kind, severity, seed=3), lazy.compute(scheduler="synchronous"))


@pytest.mark.parametrize("kind", KINDS)
def test_lazy_is_eager(kind):
    lazy_is_eager(kind, range(4, 5))


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_lazy_is_eager_at_every_severity(kind):
    lazy_is_eager(kind, range(1, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_severity_makes_it_worse(kind):
    ds = cube_for(kind, (30, 32), dates=2 if kind == "missing_dates" else 1)
    results = [eoaug.corrupt(ds, kind, severity, seed=3) for severity in range(1, 6)]
    errors = [np.sqrt(((np.nan_to_num(physical(r)) - physical(ds)) ** 2).mean()) for r in results]
    assert errors == sorted(errors)
    assert errors[-1] > errors[0] or kind == "missing_dates"  # of two dates, one is always lost
    assert errors[-1] > 0


def margin_of(ds: xr.Dataset, kind: str, severity: int) -> int | None:
    return margin_px(_request(read_cube(ds), kind, parameters_of(kind, severity, {}), None, 0))


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k not in (*MOVING, "compression", "missing_dates", "border_noise")]
)
def test_a_window_is_a_part_of_the_whole(kind):
    severity = 5
    ds = cube_for(kind, (90, 84), dates=1)
    window = {"y": slice(7, 82), "x": slice(13, 80)}
    whole = eoaug.corrupt(ds, kind, severity, seed=1)
    if KINDS[kind].scope == "cube":
        # The level of the clouds is that of the whole: the reference grid says so.
        alone = eoaug.corrupt(ds.isel(window), kind, severity, seed=1, like=ds.odc.geobox)
        margin = 0
    else:
        alone, margin = eoaug.corrupt(ds.isel(window), kind, severity, seed=1), margin_of(ds, kind, severity)
    height, width = alone.sizes["y"], alone.sizes["x"]
    inner = {"y": slice(margin, height - margin), "x": slice(margin, width - margin)}
    assert height > 2 * margin
    same(whole.isel(window).isel(inner), alone.isel(inner))


def test_compression_depends_on_no_more_than_its_tiles():
    ds = scene((620, 580), dates=1, bands=("red",), content="texture")
    whole = eoaug.corrupt(ds, "compression", 4)
    margin = margin_of(ds, "compression", 4)
    alone = eoaug.corrupt(ds.isel(y=slice(20, 600), x=slice(9, 579)), "compression", 4)
    inner = alone.red.values[:, margin:-margin, margin:-margin]
    assert inner.size
    np.testing.assert_array_equal(
        inner, whole.red.values[:, 20 + margin : 600 - margin, 9 + margin : 579 - margin]
    )


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("missing_bands", "missing_dates")])
def test_other_bands_and_dates_change_nothing(kind):
    ds = cube_for(kind, (32, 32), dates=3)
    names = bands_of(ds)
    whole = eoaug.corrupt(ds, kind, 4, seed=9)
    of = {"of": "bands"} if kind == "coregistration" else {}
    part = eoaug.corrupt(ds[[names[1]]].isel(time=[1]), kind, 4, seed=9, **of)
    np.testing.assert_array_equal(part[names[1]].values, whole[names[1]].values[1:2])


@pytest.mark.parametrize("kind", KINDS)
def test_marks_say_which_pixels_are_no_measurements(kind):
    ds = cube_for(kind)
    result = eoaug.corrupt(ds, kind, 2, seed=5)
    marks, names = result.synthetic.values, bands_of(ds)
    missing = np.all([np.isnan(result[n]) | (result[n] == 0) for n in names], axis=0)
    np.testing.assert_array_equal(marks == 255, missing)
    if kind not in MOVING:
        equal = np.all([result[n].values == ds[n].values for n in names], axis=0)
        np.testing.assert_array_equal(marks == 0, equal & ~missing)
        assert set(np.unique(marks)) <= {0, 2, 255}
    record = of(result)
    assert (record.operation, record.generator, record.seed) == ("corrupt", kind, 5)
    assert record.parameters["severity"] == 2
    assert set(record.bands.values()) <= {"transferred", "observed"}
    assert ("rasterio" in record.software) == (kind == "compression")
    json.loads(record.to_json())


def test_what_was_generated_stays_generated():
    ds = scene((32, 32), dates=2, content="texture")
    mask = xr.zeros_like(ds.red, dtype=bool)
    mask[:, 8:16, 8:16] = True
    filled = ds.eoaug.inpaint(mask=mask, generator="classical")
    noisy = filled.eoaug.corrupt("gaussian_noise", 3)
    assert (noisy.synthetic.values[mask.values] == 1).all()
    turned = filled.eoaug.corrupt("rotation", 3)
    back = turned.synthetic.values == 1
    assert back.sum() >= (filled.synthetic.values == 1).sum()
    with pytest.raises(eoaug.EoaugError, match="mask 'synthetic' is missing"):
        eoaug.corrupt(filled.drop_vars("synthetic"), "haze")


# -- right values -----------------------------------------------------------------------------------------


def flat(value: float, shape=(256, 256), bands=("red", "nir"), dtype="float64") -> xr.Dataset:
    ds = scene(shape, dates=1, bands=bands, dtype=dtype, content="texture")
    return ds.map(lambda v: xr.full_like(v, value) if v.name in bands else v, keep_attrs=True)


@pytest.mark.parametrize("snr", [100, 12])
def test_noise_has_the_signal_to_noise_ratio(snr):
    noise = eoaug.corrupt(flat(0.3), "gaussian_noise", snr=snr)
    for name in ("red", "nir"):
        assert float(noise[name].std()) == pytest.approx(0.1 / snr, rel=0.02)
        assert float(noise[name].mean()) == pytest.approx(0.3, abs=0.001)
    assert abs(np.corrcoef(noise.red.values.ravel(), noise.nir.values.ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("looks", [16, 4, 1])
def test_speckle_has_the_number_of_looks(looks):
    result = eoaug.corrupt(flat(-12.0, bands=("vv",)), "speckle", looks=looks)
    intensity = 10 ** (result.vv.values / 10)
    assert intensity.mean() ** 2 / intensity.var() == pytest.approx(looks, rel=0.05)
    assert intensity.mean() == pytest.approx(10**-1.2, rel=0.02)


def test_border_noise_lies_along_one_edge():
    result = eoaug.corrupt(flat(-10.0, (64, 64), bands=("vv",)), "border_noise", width_px=10).vv.values[0]
    low = result < -15
    widths = low.sum(axis=1)
    assert 6 <= widths.min() < widths.max() <= 14
    assert low[:, 14:-14].sum() == 0
    assert (result[~low] == -10).all()


def test_thermal_noise_lifts_the_floor():
    result = eoaug.corrupt(flat(-40.0, bands=("vh",)), "thermal_noise", floor_db=-20)
    assert 10 * np.log10((10 ** (result.vh.values / 10)).mean()) == pytest.approx(-20, abs=0.1)


@pytest.mark.parametrize(("kind", "of"), [("salt_and_pepper", "share"), ("data_gaps", "share")])
@pytest.mark.parametrize("share", [0.05, 0.4])
def test_shares_are_those_asked_for(kind, of, share):
    shape = (640, 2048) if kind == "data_gaps" else (400, 400)
    result = eoaug.corrupt(flat(0.3, shape, bands=("red",), dtype="float32"), kind, **{of: share})
    changed = result.red.values != np.float32(0.3)
    assert changed.mean() == pytest.approx(share, rel=0.15)


def test_gaps_are_missing_in_all_bands():
    result = eoaug.corrupt(flat(0.3), "data_gaps", 5)
    np.testing.assert_array_equal(np.isnan(result.red), np.isnan(result.nir))
    assert np.isnan(result.red).any()


def test_gain_and_offset_err_by_the_stated_amount():
    result = eoaug.corrupt(flat(0.3), "brightness_contrast", 3)
    for name in ("red", "nir"):
        assert abs(float(result[name].values.flat[0]) - 0.3) == pytest.approx(0.3 * 0.12 + 0.012)


def test_saturation_and_bit_depth():
    ds = scene((40, 40), dates=1, dtype="float64", content="texture")
    assert float(eoaug.corrupt(ds, "saturation", most=0.4).red.max()) == 0.4
    values = np.unique(eoaug.corrupt(ds, "bit_depth", bits=4).red)
    assert len(values) <= 16
    np.testing.assert_allclose(values * 15, np.rint(values * 15), atol=1e-9)


def test_haze_follows_the_wavelength():
    result = eoaug.corrupt(flat(0.05, (64, 64), bands=("blue", "red", "swir22")), "haze", 4)
    added = [float(result[name].mean()) for name in ("blue", "red", "swir22")]
    assert added == sorted(added, reverse=True)
    assert eoaug.corrupt(flat(0.3, (32, 32)), "haze", 5).red.values == pytest.approx(0.3)


def test_blur_has_the_transfer_at_nyquist():
    ds = flat(0.3, (64, 64), bands=("red",))
    ds["red"] = ds.red + 0.1 * (-1.0) ** np.arange(64)  # a wave at the Nyquist frequency of x
    for sigma, transfer in ((0.541, 0.3), (0.718, 0.1), (0.917, 0.02)):
        inner = eoaug.corrupt(ds, "gaussian_blur", sigma_px=sigma).red.values[0, 20:-20, 20:-20]
        assert np.ptp(inner) / 0.2 == pytest.approx(transfer, rel=0.02)
        assert inner.mean() == pytest.approx(0.3)


@pytest.mark.parametrize("shift", [0.25, 0.5, 4.0])
def test_bands_shift_by_the_stated_amount(shift):
    ds = scene((32, 32), dates=1, dtype="float64", content="texture")
    moved = []
    for slope in (np.arange(32)[:, None] / 100, np.arange(32)[None, :] / 100):  # ramps tell the shift exactly
        ramps = ds.map(lambda v, slope=slope: v * 0 + slope if v.ndim == 3 else v, keep_attrs=True)
        result = eoaug.corrupt(ramps, "coregistration", shift_px=shift)
        moved.append([((result[n] - ramps[n]) * 100).values[0, 16, 16] for n in bands_of(ds)])
    np.testing.assert_allclose(np.hypot(*moved), shift, rtol=1e-6)
    assert len(set(np.round(np.arctan2(*moved), 2))) == 4


def test_motion_smears_along_the_track_only():
    ds = flat(0.0, (41, 41), bands=("red",))
    ds.red[0, 20, 20] = 1.0
    smear = eoaug.corrupt(ds, "motion_blur", length_px=9, heading_deg=0).red.values[0]
    assert smear.sum() == pytest.approx(1)
    np.testing.assert_allclose(smear[17:24, 20], 1 / 9, rtol=0.02)
    assert smear[:, [*range(20), *range(21, 41)]].max() < 1e-12


@pytest.mark.parametrize("quality", [25, 2])
def test_compression_loses_little_at_high_quality(quality):
    ds = scene((96, 96), dates=1, bands=("red",), dtype="float64", content="texture")
    error = np.sqrt(((eoaug.corrupt(ds, "compression", quality=quality).red - ds.red) ** 2).mean())
    assert (0 < error < 0.003) if quality == 25 else (0.003 < error < 0.1)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {*MOVING, "missing_dates"}))
def test_plain_arrays_get_the_pixels_of_a_cube_without_a_place(kind):
    names = ["vv", "vh"] if kind in SAR else ["red", "lwir11"] if kind == "clouds" else ["red", "nir"]
    image = np.random.default_rng(0).random((2, 24, 20)) * 0.4
    image += {"vv": -20, "red": 0}[names[0]]
    image[1] += 290 * (names[1] == "lwir11")
    ds = xr.Dataset({name: (("y", "x"), band) for name, band in zip(names, image, strict=True)})
    result = corrupt_image(image, names, kind, 3, seed=5)
    expected = eoaug.corrupt(ds, kind, 3, seed=5)
    for name, band in zip(names, result, strict=True):
        np.testing.assert_array_equal(band, expected[name])
    assert corrupt_image(image.astype("float32"), names, kind).dtype == np.float32
    with pytest.raises(eoaug.EoaugError, match="an array has no grid"):
        corrupt_image(image, names, "rotation")


# -- dirty data and forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in (*SAR, *MOVING)])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_missing_stays_missing_and_values_stay_values(kind, dtype):
    ds = scene((24, 32), dates=2, bands=("red", "nir"), dtype=dtype, content="texture")
    gone = 0 if dtype == "uint16" else np.nan
    for name in bands_of(ds):
        ds[name].values[:, 5:20, 10:30] = gone
    result = eoaug.corrupt(ds, kind, 5, seed=2)
    for name in bands_of(ds):
        missing = (result[name] == 0) if dtype == "uint16" else np.isnan(result[name])
        assert missing.values[:, 5:20, 10:30].all()
        if not KINDS[kind].loses:
            assert missing.sum() == 2 * 15 * 20


def test_quality_bands_labels_and_angles_are_not_touched():
    ds = scene((40, 40), dates=2, content="texture")
    rng = np.random.default_rng(0)
    ds["scl"] = ds.red.dims, rng.integers(0, 12, ds.red.shape).astype("uint8")
    ds["lc"] = ds.red.dims[1:], rng.integers(0, 5, (40, 40)).astype("uint8"), {"flag_values": [0, 1, 2, 3, 4]}
    ds["truth"] = ds.red.dims, rng.integers(0, 3, ds.red.shape).astype("int16")
    ds["sun_zenith"] = ds.red.dims, rng.random(ds.red.shape)
    for kind in KINDS:
        if kind in (*SAR, *MOVING):
            continue
        result = eoaug.corrupt(ds, kind, 3, labels="truth")
        for name in ("scl", "lc", "truth", "sun_zenith"):
            assert result[name].dtype == ds[name].dtype
            assert result[name].equals(ds[name]), (kind, name)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(datasets(max_px=20), st.sampled_from(sorted(set(KINDS) - set(SAR))), st.integers(1, 5))
def test_cubes_of_any_form(ds, kind, severity):
    try:
        result = eoaug.corrupt(ds, kind, severity)
    except eoaug.EoaugError:
        assume(not KINDS[kind].loses)  # of one band or date, or of a type that cannot say what is missing
        raise
    same(result, eoaug.corrupt(ds.chunk(7), kind, severity).compute(scheduler="synchronous"))
    for name in set(ds.data_vars) & set(result.data_vars):
        assert (result[name].dims, result[name].dtype) == (ds[name].dims, ds[name].dtype)


def test_arrays_and_trees():
    ds = scene((40, 48), dates=2, dtype="float32", content="texture")
    expected = eoaug.corrupt(ds, "gaussian_noise", 3, seed=4)
    names = bands_of(ds)
    stack = ds[names].to_dataarray("band")
    result = stack.eoaug.corrupt("gaussian_noise", 3, seed=4)
    assert result.dims == stack.dims
    np.testing.assert_array_equal(result.sel(band="red"), expected.red)
    single = eoaug.corrupt(ds.red, "gaussian_noise", 3, seed=4)
    np.testing.assert_array_equal(single, expected.red)
    tree = xr.DataTree.from_dict({"/": xr.Dataset(), "/fine": ds})
    np.testing.assert_array_equal(tree.eoaug.corrupt("gaussian_noise", 3, seed=4)["fine/red"], expected.red)
    assert {"synthetic"} <= set(stack.eoaug.corrupt("rotation").coords)


def test_the_pair_is_the_input_bit_for_bit():
    ds = scene((40, 40), dates=2, content="texture")
    result = eoaug.corrupt(ds, "clouds", 4, pair=True)
    for name in bands_of(ds):
        np.testing.assert_array_equal(result[f"{name}_clear"], ds[name])
    again = read_cube(result)
    assert [band.name for band in again.bands] == bands_of(ds)
    with pytest.raises(eoaug.EoaugError, match="pair=True needs a Dataset"):
        eoaug.corrupt(ds, "rotation", pair=True)


def test_severities_fall_in_number_and_names_are_those_of_reobench():
    assert REOBENCH[0] == "gaussian_noise"
    assert REOBENCH[-1] == "translation"
    assert len(REOBENCH) == 12
    assert len(KINDS) >= 16
    for kind in KINDS.values():
        for values in kind.severities.values():
            assert list(values) in (sorted(values), sorted(values, reverse=True))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("cloud", {}, "there is no corruption 'cloud'"),
        ("clouds", {"severity": 6}, "severity=6 is not an integer"),
        ("clouds", {"covr": 0.3}, "no parameter 'covr'"),
        ("clouds", {"cover": 1.3}, "cover=1.3 is not a number from 0 to 1"),
        ("speckle", {}, "changes SAR in dB only"),
        ("haze", {"labels": ["lc"]}, "the cube has no variable 'lc'"),
        ("missing_dates", {}, "would leave nothing of a cube with one date"),
        ("gaussian_noise", {"seed": -1}, "seed=-1"),
    ],
)
def test_errors_name_the_value_and_a_remedy(kind, options, message):
    with pytest.raises(eoaug.EoaugError, match=message) as raised:
        eoaug.corrupt(scene((32, 32), dates=1), kind, **options)
    assert raised.value.remedy


@pytest.mark.parametrize("kind", [k for k, v in KINDS.items() if v.loses and k != "scale"])
def test_integers_without_nodata_are_refused_with_a_remedy_that_works(kind):
    ds = scene((32, 32), dates=2, content="texture")
    for name in bands_of(ds):
        ds[name].attrs.pop("_FillValue", None)
        ds[name].attrs.pop("nodata", None)
        ds[name].encoding.clear()
    with pytest.raises(eoaug.EoaugError, match="has no number for them") as raised:
        eoaug.corrupt(ds, kind)
    assert "attrs['nodata'] = 0" in raised.value.remedy
    for name in bands_of(ds):
        ds[name].attrs["nodata"] = 0
    eoaug.corrupt(ds, kind)
