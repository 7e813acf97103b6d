"""Masks through inpaint: the right pixels or a refusal, never the inverse; and cubes of which nothing is known."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

import eoaug
from eoaug.errors import EoaugError, EoaugWarning, GridError, ParameterError, TimeError
from eoaug.verbs.inpaint import prepare_inpaint
from eoaug.verbs.planning import check_known

N = 12
SCL_MEANINGS = (
    "no_data saturated_or_defective topographic_casted_shadows cloud_shadows vegetation not_vegetated water "
    "unclassified cloud_medium_probability cloud_high_probability thin_cirrus snow"
)
CONVENTIONS = {
    # name: (clear, cloudy, unmeasured, flag_meanings by number or None)
    "SCL": ([4, 5, 2, 11], [3, 8, 9, 10], [0], dict(enumerate(SCL_MEANINGS.split()))),
    "SCL_20m": ([4, 7], [9], [0], dict(enumerate(SCL_MEANINGS.split()))),
    "scene_classification": ([4, 6], [8, 10], [0], None),
    "QA_PIXEL": ([64, 128, 32], [2, 4, 8, 16, 72], [1], None),
    "pixel_qa": ([2, 4, 16], [8, 32], [1], None),
    "BQA": ([0, 32], [16, 96], [1], None),
    "Fmask": ([0, 16, 32, 64], [1, 2, 4, 8], [255], None),
    "cfmask": ([0, 1, 3], [2, 4], [255], {0: "clear", 1: "water", 2: "cloud_shadow", 3: "snow", 4: "cloud", 255: "fill"}),
    "udm": ([0], [2], [1], None),
    "CLM": ([0], [1], [255], {0: "clear", 1: "cloud", 255: "no_data"}),
    "dataMask": ([1], [0], [], {0: "invalid", 1: "valid"}),
    "valid_mask": ([1], [0], [], {0: "invalid", 1: "valid"}),
    "validPixels": ([1], [0], [], None),
    "clear": ([1], [0], [], {0: "not_clear_cloud", 1: "clear"}),
    "cloud_free": ([1], [0], [], None),
    "udm2_clear": ([1], [0], [], None),
    "cloud_mask": ([0], [1], [], {0: "clear", 1: "cloud"}),
    "is_cloud": ([0], [1], [], {0: "no_cloud", 1: "cloud"}),
    "not_valid": ([0], [1], [], None),
    "udm2_haze_heavy": ([0], [1], [], None),
    "cloud_probability": ([0, 10, 39], [40, 41, 100], [], None),
    "MSK_CLDPRB_20m": ([0, 39], [40, 100], [], None),
    "CLP": ([0, 101], [103, 255], [], None),
    "quality": ([1], [0], [], {0: "cloudy_sky", 1: "clear_sky"}),
    "qa": ([0], [1], [], None),
    "udm2": ([1], [0], [], None),
    "fmask": ([0, 1], [2, 4], [255], None),
}  # fmt: skip


def cube(mask=None, name="mask", attrs=None, dates=1, platform="HLS.L30 T33"):
    box = GeoBox((N, N), Affine(10, 0, 500000, 0, -10, 5000000), "EPSG:32633")
    rng = np.random.default_rng(0)
    ds = xr.Dataset(coords=dict(xr_coords(box))).assign_coords(
        time=pd.date_range("2024-06-01", periods=dates, freq="10D").values
    )
    for band in ("red", "nir"):
        ds[band] = (("time", "y", "x"), rng.uniform(0.1, 0.4, (dates, N, N)).astype("float32"))
        ds[band].encoding["grid_mapping"] = "spatial_ref"
    if mask is not None:
        ds[name] = (("time", "y", "x"), mask, attrs or {})
    return ds.assign_attrs(product=platform)


def run(ds, **arguments):
    """The pixels that are filled; a mask as it is, without its buffer."""
    arguments = {"mask_buffer": 0, **arguments} if "mask" in arguments else arguments
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EoaugWarning)
        return eoaug.inpaint(ds, generator="classical", **arguments).synthetic.values == 1


@settings(max_examples=2 * settings().max_examples)
@given(st.data())
def test_the_right_pixels_or_a_refusal(data):
    name = data.draw(st.sampled_from(sorted(CONVENTIONS)))
    clear, cloudy, unmeasured, meanings = CONVENTIONS[name]
    seed = data.draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    fill = rng.random((1, N, N)) < 0.3
    fill[0, 0] = [False, True] * (N // 2)
    mask = np.where(fill, rng.choice(cloudy, fill.shape), rng.choice(clear, fill.shape))
    if unmeasured and data.draw(st.booleans()):
        out = rng.random(fill.shape) < 0.1
        out[0, 0] = False
        mask, fill = np.where(out, unmeasured[0], mask), fill & ~out
    dtype = data.draw(st.sampled_from(["uint8", "uint16", "int16", "int32", "int64", "float32", "float64"]))
    attrs = {}
    if meanings and data.draw(st.booleans()):
        numbers = data.draw(st.permutations(sorted(meanings)))
        attrs = {
            "flag_values": np.array(numbers, "uint8"),
            "flag_meanings": " ".join(meanings[n] for n in numbers),
        }
    ds = cube(mask.astype(dtype), name, attrs, platform="" if name == "fmask" else "HLS.L30")
    given_as = data.draw(
        st.sampled_from(["name", "ds[name]", "booleans", "inverted", "inverted number", "classes"])
    )
    if given_as == "classes" and not attrs:
        given_as = "name"
    if data.draw(st.booleans()):
        ds = ds.chunk({"y": 5})
    arguments = {
        "name": lambda: name,
        "ds[name]": lambda: ds[name],
        "booleans": lambda: ds[name].isin(cloudy),
        "inverted": lambda: ~ds[name].isin([*clear, *unmeasured]),
        "inverted number": lambda: 1 - ds[name].isin([*clear, *unmeasured]).astype(dtype),
        "classes": lambda: [m for n, m in attrs_classes(attrs) if n in cloudy],
    }[given_as]()
    if given_as not in ("name", "classes", "ds[name]"):
        ds = ds.drop_vars(name)
    refused, filled = mask_or_refusal(ds, arguments)
    if refused is None:
        np.testing.assert_array_equal(filled, fill)
        return
    assert refused.remedy
    if given_as == "name" and "float" not in dtype:
        assert name in ("qa", "udm2", "fmask", "quality"), refused


def mask_or_refusal(ds, mask):
    """The refusal, and the pixels that inpaint fills."""
    try:
        found = prepare_inpaint(ds, {"generator": "classical"}, mask=mask, mask_buffer=0).inputs.mask
        return None, np.asarray(found)
    except EoaugError as error:
        return error, None


def attrs_classes(attrs):
    return zip(attrs["flag_values"].tolist(), attrs["flag_meanings"].split(), strict=True)


def test_names_that_do_not_say_which_number_is_good_are_refused_and_the_remedy_works():
    mask = np.zeros((1, N, N), "uint8")
    mask[0, :3] = 1
    for name in ("qa", "udm2", "quality_flag", "valid_cloud"):
        ds = cube(mask, name)
        with pytest.raises(ParameterError, match="whether 1 means good or bad"):
            run(ds, mask=name)
        np.testing.assert_array_equal(run(ds.drop_vars(name), mask=(ds[name] == 1).rename("fill")), mask == 1)
        ds[name].attrs.update(flag_values=[0, 1], flag_meanings="clear cloud")
        np.testing.assert_array_equal(run(ds, mask=name), mask == 1)


@pytest.mark.parametrize("lazy", [False, True])
def test_what_begins_with_a_valid_mask_is_not_read_the_other_way_round(lazy):
    valid = np.ones((1, N, N), "uint8")
    valid[0, 2:5] = 0
    ds = cube(valid, "valid_mask", {"flag_values": [0, 1], "flag_meanings": "invalid valid"})
    ds = ds.chunk({"y": 5}) if lazy else ds
    for mask in (ds.valid_mask, "valid_mask", (ds.valid_mask == 0).rename("fill"), ["invalid"]):
        np.testing.assert_array_equal(run(ds, mask=mask), valid == 0)
    for mask in (1 - ds.valid_mask, ds.valid_mask.astype(bool), ds.valid_mask.astype("int32")):
        with pytest.raises(ParameterError, match=r"(?s)valid_mask.*rename\('fill'\)"):
            run(ds, mask=mask)


def test_probabilities_need_their_unit():
    share = np.linspace(0, 1, N * N).reshape(1, N, N).astype("float32")
    ds = cube(share, "cloud_probability")
    with pytest.raises(ParameterError, match=r"0\.4"):
        run(ds, mask="cloud_probability")
    np.testing.assert_array_equal(run(ds, mask=ds.cloud_probability > 0.4), share > 0.4)
    ds.cloud_probability.attrs["units"] = "1"
    np.testing.assert_array_equal(run(ds, mask="cloud_probability"), share >= 0.4)
    percent = cube((share * 100).astype("uint8"), "cloud_probability")
    np.testing.assert_array_equal(run(percent, mask="cloud_probability"), (share * 100).astype("uint8") >= 40)


def test_declared_nodata_is_no_cloud_and_a_class_wins():
    scl = np.full((1, N, N), 4, "uint8")
    scl[0, :2], scl[0, 3] = 255, 9
    ds = cube(scl, "SCL", {"_FillValue": 255})
    np.testing.assert_array_equal(run(ds, mask="SCL"), scl == 9)
    mask = np.zeros((1, N, N), "uint8")
    mask[0, 2:] = 1
    np.testing.assert_array_equal(run(cube(mask, "dataMask", {"nodata": 0}), mask="dataMask"), mask == 0)


def test_a_mask_that_is_not_loaded_is_named_with_the_way_to_load_it():
    with pytest.raises(ParameterError, match=r"(?s)'scl'.*red.*bands=\['red', 'nir', 'scl'\]"):
        run(cube(), mask="scl")


def test_masks_with_missing_values_dates_or_grids_are_refused_and_the_remedies_work():
    ds = cube(dates=2)
    hole = np.zeros((2, N, N), bool)
    hole[:, 2:5] = True
    mask = xr.DataArray(hole, coords={d: ds[d] for d in ("time", "y", "x")}, dims=("time", "y", "x"))
    later = mask.assign_coords(time=ds.time.values + np.timedelta64(3, "h"))
    with pytest.raises(TimeError, match="nearest"):
        run(ds, mask=later)
    np.testing.assert_array_equal(run(ds, mask=later.reindex(time=ds.time, method="nearest")), hole)
    with pytest.raises(ParameterError, match=r"NaN.*\n.*fillna\(0\)"):
        run(ds, mask=later.reindex(time=ds.time))
    holes = mask.where(ds.x > 500030)
    with pytest.raises(ParameterError, match=r"NaN.*\n.*fillna\(0\)"):
        run(ds, mask=holes)
    np.testing.assert_array_equal(run(ds, mask=holes.fillna(0)), hole & (ds.x > 500030).values)
    with pytest.raises(GridError, match="reproject"):
        run(ds, mask=mask.isel(x=slice(0, 6)))
    scl = (mask * 5 + 4).astype("float32").rename("scl").where(ds.x > 500030)
    with pytest.raises(ParameterError, match=r"NaN.*\n.*fillna\(0\)"):
        run(ds, mask=scl)
    np.testing.assert_array_equal(run(ds, mask=scl.fillna(0)), hole & (ds.x > 500030).values)


# -- nothing, everything, nothing known --------------------------------------------------------------


def missing(ds):
    out = ds.copy(deep=True)
    for band in ("red", "nir"):
        out[band].values[:] = np.nan
    return out


def test_a_cube_without_a_known_pixel_is_refused_and_filled_when_asked_by_name():
    for ds in (missing(cube()), missing(cube(dates=3))):
        with pytest.raises(ParameterError, match=r"(?s)not one pixel of red, nir.*12 x 12.*fill='all'"):
            run(ds)
        assert run(ds, fill="all").all()
    ds = cube(dates=2)
    everywhere = xr.ones_like(ds.red, bool).rename("everywhere")
    with pytest.raises(ParameterError, match="measured outside the mask"):
        run(ds, mask=everywhere)
    assert run(ds, mask=everywhere, fill="all").all()
    with pytest.raises(ParameterError, match="not one pixel"):
        run(missing(cube()), chunks={"y": 5})


@pytest.mark.parametrize("chunks", [{"y": 5}, {"x": 4, "y": 4}, {}])
def test_a_lazy_cube_without_a_known_pixel_stays_missing_whatever_its_chunks(chunks):
    ds = missing(cube()).chunk(chunks)
    result = eoaug.inpaint(ds, generator="classical")
    with pytest.warns(EoaugWarning, match="not one pixel is measured"):
        computed = result.compute(scheduler="synchronous")
    assert (computed.synthetic == 255).all()
    assert computed.red.isnull().all()
    assert run(ds, fill="all").all()


def test_one_known_pixel_anywhere_fills_all_chunks_as_if_there_were_one():
    ds = missing(cube())
    ds.red.values[0, -1, -1] = 0.3
    with pytest.warns(EoaugWarning, match="everything"):
        whole = eoaug.inpaint(ds, generator="classical")
    lazy = eoaug.inpaint(ds.chunk({"y": 3, "x": 3}), generator="classical")
    lazy = pickle.loads(pickle.dumps(lazy)).compute(scheduler="synchronous")
    np.testing.assert_array_equal(lazy.red, whole.red)
    np.testing.assert_array_equal(lazy.synthetic, whole.synthetic)


def test_nothing_and_everything_are_said_once():
    with pytest.warns(EoaugWarning, match="inpaint filled nothing: 0 %") as seen:
        eoaug.inpaint(cube(), generator="classical")
    assert len(seen) == 1
    assert seen[0].filename == __file__
    with pytest.warns(EoaugWarning, match="inpaint filled everything: 100 %"):
        eoaug.inpaint(missing(cube()), fill="all", generator="classical")


def test_a_plan_tells_clear_share_and_share_to_fill_by_date():
    ds = cube(dates=2)
    ds.red.values[0, :3] = ds.nir.values[0, :3] = np.nan
    text = str(eoaug.plan("inpaint", ds, generator="classical").explain())
    assert "2024-06-01              clear 75.0%, to fill 25.0%" in text
    assert "2024-06-11              clear 100.0%, to fill 0.0%" in text
    assert "unknown until computed" in str(eoaug.plan("inpaint", ds.chunk(), generator="classical").explain())
    nothing = eoaug.plan("inpaint", cube(), generator="classical").explain()
    assert any("fill nothing" in warning for warning in nothing.warnings)


@pytest.mark.filterwarnings("ignore:.*says that .* of the pixels are cloud:eoaug.errors.EoaugWarning")
@pytest.mark.parametrize("verb", ["inpaint", "extend", "super_resolve", "synthesize"])
@pytest.mark.parametrize("rule", [{}, {"fill": "all"}, {"mask": "cloud_mask", "mask_buffer": "1px"}])
def test_the_plan_shares_are_those_of_the_result(verb, rule):
    if rule and verb != "inpaint":
        pytest.skip("inpaint only")
    rng = np.random.default_rng(3)
    ds = cube((rng.random((3, N, N)) < 0.3).astype("uint8"), "cloud_mask", dates=3)
    for band in ("red", "nir"):
        ds[band].values[rng.random((3, N, N)) < 0.2] = np.nan
    arguments = {**rule, **({"times": "2024-06-05"} if verb == "extend" else {})}
    arguments |= {"mask_buffer": 0} if verb != "inpaint" else {}
    plan = eoaug.plan(verb, ds, generator="classical", **arguments)
    made = getattr(eoaug, verb)(ds, generator="classical", **arguments).synthetic.values == 1
    np.testing.assert_allclose(
        plan.coverage.fill, made.mean(axis=(1, 2)), atol=0 if verb != "super_resolve" else 0.3
    )


def two_dates() -> xr.Dataset:
    """Two dates of one band that is measured everywhere."""
    coords = {
        **xr_coords(GeoBox((8, 8), Affine(10, 0, 5e5, 0, -10, 5e6), 32633)),
        "time": pd.to_datetime(["2024-06-01", "2024-06-11"]),
    }
    values = np.full((2, 8, 8), 0.2, np.float32)
    return xr.Dataset({"B04": (("time", "y", "x"), values, {"grid_mapping": "spatial_ref"})}, coords)


def test_a_tree_warns_once_per_call():
    ds = two_dates()
    tree = xr.DataTree.from_dict({"/a": ds, "/b": ds, "/c/d": ds})
    with pytest.warns(EoaugWarning) as caught:
        eoaug.inpaint(tree, mask=xr.zeros_like(ds.B04, dtype=bool).rename("fill"), generator="classical")
    texts = [str(one.message) for one in caught if "filled nothing" in str(one.message)]
    assert len(texts) == 1
    assert texts[0].startswith("/a, /b, /c/d: inpaint filled nothing")


def test_a_job_s_check_of_known_pixels_reads_a_lazy_cube_and_refuses():
    ds = two_dates()
    nothing = ds.assign(B04=ds.B04.where(ds.B04 < 0))
    for cube in (nothing, nothing.chunk(time=1, y=4, x=4)):
        with pytest.raises(ParameterError, match="not one pixel of B04 is measured"):
            check_known("inpaint", cube, generator="classical")
        check_known("inpaint", cube, generator="classical", fill="all")
        check_known("synthesize", cube, generator="classical")
    hidden = xr.ones_like(ds.B04, dtype=bool).rename("fill")
    with pytest.raises(ParameterError, match="outside the mask") as caught:
        check_known("inpaint", ds.chunk(y=4), generator="classical", mask=hidden)
    assert "fill='all'" in caught.value.remedy
    check_known("inpaint", ds.chunk(y=4), generator="classical")
