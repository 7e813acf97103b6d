"""What a mask or the cube's own quality band hides is no evidence for any verb; and what lies unused is said."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr

import eoaug
from eoaug.errors import EoaugError, EoaugWarning, ParameterError
from eoaug.verbs.extend import prepare_extend
from tests.cube.test_mask_buffer import N, cube, disk, spot

VERBS = {
    "extend": {"times": "2024-06-05"},
    "super_resolve": {"factor": 2},
    "synthesize": {"strength": 0.4, "steps": 2},
}


def run(verb, ds, **arguments):
    return getattr(eoaug, verb)(ds, generator="classical", **{**VERBS[verb], **arguments}).compute()


def white(ds, mask):
    """The cube with clouds where the mask is."""
    return ds.assign({band: ds[band].where(~mask, 0.95) for band in ("red", "nir")})


def made(verb, result):
    return result.sel(time="2024-06-05") if verb == "extend" else result.isel(time=0)


@pytest.mark.sweep
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("chunks", [None, {"y": 16, "x": 25}])
def test_what_the_quality_band_hides_changes_no_generated_pixel(verb, chunks):
    ds = cube(spot())
    radius = 0 if verb == "super_resolve" else 100
    hidden = xr.DataArray(np.stack([disk(radius, (10, 10)), np.zeros((N, N), bool)]), dims=("time", "y", "x"))
    cloudy = white(ds, hidden)
    for one in (cloudy, ds):
        assert "scl" in one
    given = [one if chunks is None else one.chunk(chunks) for one in (cloudy, ds)]
    first, second = (made(verb, run(verb, one)) for one in given)
    np.testing.assert_array_equal(first.red, second.red)
    np.testing.assert_array_equal(first.synthetic, second.synthetic)
    seen = made(verb, run(verb, given[0], mask="none"))
    assert not np.array_equal(first.red, seen.red)
    if verb == "super_resolve":
        assert first.red.isnull().values.sum() == 4
        assert (first.synthetic.values[40:42, 40:42] == 255).all()
    else:
        assert float(first.red.max()) < 0.8
        assert (first.synthetic == 1).all()


def test_each_spelling_of_the_mask_hides_the_same_and_is_recorded():
    ds = cube(spot())
    cloud = ds.scl == 9
    bare = ds.drop_vars("scl")
    expected = run("extend", ds)
    assert expected.eoaug.provenance.parameters["mask"] == "scl"
    assert expected.eoaug.provenance.parameters["mask_buffer"] == 100.0
    for one, mask in ((ds, "scl"), (ds, ["cloud_high"]), (bare, ds.scl), (bare.chunk(x=9), ds.scl)):
        np.testing.assert_array_equal(run("extend", one, mask=mask).red, expected.red)
    booleans = run("extend", bare, mask=cloud, mask_buffer="10px")
    np.testing.assert_array_equal(booleans.red, expected.red)
    assert booleans.eoaug.provenance.parameters["mask_buffer"] == "10px"
    none = run("extend", ds, mask="none")
    assert none.eoaug.provenance.parameters["mask"] == "none"
    np.testing.assert_array_equal(none.red, run("extend", bare).red)
    assert "mask" not in run("extend", bare).eoaug.provenance.parameters
    assert len({one.eoaug.provenance.token for one in (expected, booleans, none)}) == 3


@pytest.mark.parametrize("chunks", [None, {"time": 1, "y": 16}])
def test_a_sequence_of_dates_keeps_the_mask_on_the_given_ones(chunks):
    ds = cube(spot(dates=3), dates=3)
    cloudy = white(ds, ds.scl == 9)
    times = ["2024-05-20", "2024-06-05", "2024-07-05"]
    given = [one if chunks is None else one.chunk(chunks) for one in (cloudy, ds)]
    first, second = (run("extend", one, times=times, sequence=True).sel(time=times) for one in given)
    np.testing.assert_array_equal(first.red, second.red)
    kept = run("extend", given[0], times=times, sequence=True).sel(time=ds.time)
    np.testing.assert_array_equal(kept.red, cloudy.red)


def test_land_that_every_date_hides_is_still_made():
    ds = cube(np.concatenate([spot(dates=1)] * 2))
    result = run("extend", white(ds, ds.scl == 9))
    assert (made("extend", result).synthetic == 1).all()
    assert float(made("extend", result).red.max()) < 0.8


def test_a_cube_that_is_cloud_alone_is_refused_and_the_remedy_works():
    ds = cube(np.full((2, N, N), 9, "uint8"))
    for verb in VERBS:
        with pytest.raises(ParameterError, match=r"(?s)outside the mask.*mask='none'"):
            run(verb, ds)
        assert (made(verb, run(verb, ds, mask="none")).synthetic == 1).any()
    with pytest.warns(EoaugWarning, match="mask='none' takes masked pixels too"):
        run("extend", ds.chunk())


def test_the_quality_band_that_is_read():
    ds = cube(spot())
    other = (ds.scl * 0).astype("uint8")

    def band(one):
        return prepare_extend(one, {"generator": "classical"}, times="2024-06-05").plan.mask_note

    assert band(ds) == "scl, dilated by 100 m"
    assert band(ds.assign(cloud_mask=other)) == "scl, dilated by 100 m"
    assert band(ds.rename(scl="SCL_20m").assign(cloud_probability=other)) == "SCL_20m, dilated by 100 m"
    assert (
        band(ds.assign(scl=other + 4).rename(scl="cloud_probability"))
        == "cloud_probability, dilated by 100 m"
    )
    assert band(ds.drop_vars("scl").assign(dataMask=other + 1)) == ""
    with pytest.warns(EoaugWarning, match="labels dropped"):
        assert band(ds.drop_vars("scl").assign(labels=other + 1)) == ""
    share = other.astype("float32")
    assert band(ds.drop_vars("scl").assign(cloud_probability=share)) == ""


def test_a_quality_band_with_odd_numbers_is_refused_and_the_remedy_works():
    ds = cube(np.where(spot() == 9, 77, 4).astype("uint8"))
    with pytest.raises(ParameterError, match=r"(?s)77.*mask='none'"):
        run("extend", ds)
    assert "2024-06-05" in str(run("extend", ds, mask="none").time.values)


@pytest.mark.parametrize("wrong", [False, True, 3])
def test_a_mask_is_switched_off_in_one_way(wrong):
    for verb in ("inpaint", *VERBS):
        with pytest.raises(ParameterError, match=r"(?s)mask is a .*mask='none'"):
            getattr(eoaug, verb)(cube(), mask=wrong, generator="classical", **VERBS.get(verb, {}))
    with pytest.raises(ParameterError, match="like= has no pixels"):
        eoaug.synthesize(like=(0, 0, 10, 10), resolution=1, crs="EPSG:32633", mask="scl")


def test_integers_without_nodata_cannot_hold_what_is_masked():
    ds = cube(spot())
    stored = ds.assign(
        {b: (ds[b] * 1e4).astype("uint16").assign_attrs(scale_factor=1e-4) for b in ("red", "nir")}
    )
    with pytest.warns(EoaugWarning, match=r"'scl' was not used: 'red' is uint16 without a nodata value"):
        kept = run("super_resolve", stored)
    np.testing.assert_array_equal(kept.red, run("super_resolve", stored, mask="none").red)
    with pytest.raises(ParameterError, match=r"(?s)attrs\['nodata'\] = 0.*mask='none'"):
        run("super_resolve", stored, mask="scl")
    for name in ("red", "nir"):
        stored[name].attrs["nodata"] = 0
    assert (run("super_resolve", stored, mask="scl").red == 0).sum() == 4


def test_inpaint_warns_of_cloud_that_lies_unmasked_and_the_remedies_work():
    scl = np.full((2, N, N), 4, "uint8")
    scl[0, :10] = 9
    ds = cube(scl)
    ds.red.values[1, 3] = np.nan
    text = r"'scl' says that 12.5% of the pixels are cloud.*mask='scl'.*mask='none'"
    with pytest.warns(EoaugWarning, match=text) as seen:
        result = eoaug.inpaint(ds, generator="classical")
    assert [one.filename for one in seen] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error", EoaugWarning)
        silent = eoaug.inpaint(ds, mask="none", generator="classical")
        np.testing.assert_array_equal(silent.red, result.red)
        filled = eoaug.inpaint(ds, mask="scl", generator="classical")
        assert (filled.synthetic[0, :10] == 1).all()
        eoaug.inpaint(ds.assign(scl=ds.scl * 0 + 4), generator="classical")
        eoaug.inpaint(ds.chunk(), generator="classical")  # no item says how cloudy it is
    items = ds.chunk().assign_coords(cloud_cover=("time", [30.0, 10.0]))
    with pytest.warns(EoaugWarning, match="20.0% of the pixels are cloud"):
        eoaug.inpaint(items, generator="classical")


def test_a_plan_says_what_is_masked():
    ds = cube(spot())
    assert "mask                    scl, dilated by 100 m" in str(
        eoaug.plan("inpaint", ds, mask="scl", generator="classical").explain()
    )
    pixels = eoaug.plan(
        "extend", ds, mask=ds.scl == 9, mask_buffer="3px", generator="classical", times="2024-07-01"
    )
    assert "as given, dilated by 3px" in str(pixels.explain())
    bare = eoaug.plan("extend", ds, mask="none", generator="classical", times="2024-07-01")
    assert pixels.margin_px - bare.margin_px == 3
    assert pixels.coverage.clear[0] == pytest.approx(1 - disk(3).mean())
    with pytest.raises(EoaugError, match="mask_buffer"):
        eoaug.plan("extend", ds, mask_buffer="far", generator="classical", times="2024-07-01")


def test_a_variation_says_which_dates_are_hidden_and_what_to_do():
    ds = cube(np.stack([np.full((N, N), code, "uint8") for code in (9, 4)]))
    with pytest.warns(EoaugWarning, match=r"hides at least 90% of 2024-06-01, .*inpaint\(mask='scl'\)"):
        run("synthesize", ds, mask_buffer=0)
    # The remedy, as it is printed: every hidden pixel is filled, and the variation has nothing to warn of.
    filled = ds.eoaug.inpaint(mask="scl", generator="classical")
    assert (filled.synthetic.values[0] == 1).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("synthesize", filled, mask="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("synthesize", ds.isel(time=[1]), mask_buffer=0)
