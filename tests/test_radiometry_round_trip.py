"""Whatever declares what numbers mean: write, open, verb give equal physical values and equal missing pixels."""

from __future__ import annotations

import tempfile
import warnings

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

import eoaug
from eoaug.cube.read import read_cube
from eoaug.errors import RadiometryError
from eoaug.raster.radiometry import declared_nodata, declared_scaling

FORMS = [
    ("scale_factor", "add_offset"),
    ("scale", "offset"),
    ("raster:scale", "raster:offset"),
    ("reflectance_scale", "reflectance_offset"),
    ("db_scale", "db_offset"),
]
BOX = GeoBox((6, 7), Affine(10, 0, 500000, 0, -10, 5000000), "EPSG:32633")
NAMES = ("B04", "B08")


@st.composite
def declared(draw):
    """A cube of two bands, and the physical values that it means, NaN where missing."""
    dtype = np.dtype(
        draw(st.sampled_from(["uint8", "int8", "uint16", "int16", "int32", "uint32", "float32", "float64"]))
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    physical = rng.uniform(0.05, 0.6, (2, 1, *BOX.shape))
    missing = rng.random(physical.shape) < draw(st.sampled_from([0.0, 0.3]))
    attrs: dict = draw(st.sampled_from([{}, {"units": "1"}]))
    attrs, encoding = dict(attrs), {}
    floating = dtype.kind == "f"
    how = draw(st.sampled_from(["attrs", "attrs", "encoding", "plain"] if floating else ["attrs"]))
    step = {1: 0.01, 2: 1e-4, 4: 1e-4, 8: 1e-4}[dtype.itemsize]
    scale, offset = draw(st.sampled_from([(step, 0.0), (step, -0.1), (step, 0.2), (-step, 0.7)]))
    if dtype.itemsize == 1 or (dtype.kind == "u" and scale < 0):
        scale = abs(scale)
    if draw(st.integers(0, 4)) == 0 and how != "plain":
        scale, offset = 1.0, 0.0  # declared all the same
        physical = np.where(physical > 0.3, 1.0, 0.0) if not floating or how == "encoding" else physical
    if offset > 0 and dtype.kind == "u":
        offset = 0.0
    forms = draw(st.lists(st.sampled_from(FORMS), min_size=1, max_size=2, unique=True))
    numbers = physical
    if how == "attrs":
        numbers = (physical - offset) / scale
        for scale_key, offset_key in forms:
            attrs |= {scale_key: scale} | ({offset_key: offset} if offset or draw(st.booleans()) else {})
    elif how == "encoding":
        encoding = {
            "dtype": draw(st.sampled_from(["int16", "int32"])),
            "scale_factor": scale,
            "add_offset": offset,
        }
        encoding["_FillValue"] = -9999
    numbers = numbers if floating else np.rint(numbers)
    key = draw(st.sampled_from(["_FillValue", "nodata", "missing_value"]))
    as_nan = True
    if not floating:
        as_nan = False
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        number = draw(st.sampled_from([None, high] if scale == 1 else [None, low, high, int(high) - 7]))
        if number is None:
            missing[:] = False
        else:
            (encoding if draw(st.integers(0, 3)) == 0 else attrs)[key] = number
    elif how != "encoding":
        number = draw(st.sampled_from([None, np.nan, -9999.0, -32768.0]))
        if number is not None:
            attrs[key] = number
        as_nan = number is None or np.isnan(number) or draw(st.booleans())
    stored = np.where(missing, np.nan if as_nan else number, numbers) if missing.any() else numbers
    stored = stored.astype(dtype)
    values = numbers.astype(dtype).astype(np.float64)
    values = values * scale + offset if how == "attrs" else values
    values[missing] = np.nan
    coords = {**xr_coords(BOX), "time": np.array(["2024-06-01"], "datetime64[ns]")}
    if draw(st.booleans()):
        cube = xr.Dataset(
            {n: (("time", "y", "x"), stored[i], dict(attrs)) for i, n in enumerate(NAMES)}, coords
        )
        for name in NAMES:
            cube[name].encoding = dict(encoding)
    else:
        cube = xr.DataArray(stored, {**coords, "band": list(NAMES)}, ("band", "time", "y", "x"), attrs=attrs)
        cube.encoding = dict(encoding)
    return cube, values, abs(scale) if how != "plain" else 0.0


def physical_of(obj) -> np.ndarray:
    """What the verbs read: physical values of (band, time, y, x), NaN where missing."""
    out = []
    for band in read_cube(obj).bands:
        stored = np.asarray(band.data)
        values = band.scaling(stored)
        values[~np.isfinite(values)] = np.nan
        if band.nodata is not None:
            values[stored == band.nodata] = np.nan
        out.append(values)
    return np.stack(out)


def check(case, form: str) -> None:
    cube, physical, step = case
    np.testing.assert_allclose(physical_of(cube), physical, rtol=1e-6, atol=1e-6)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        eoaug.write(cube, folder, format=form)
        back = eoaug.open_cube(folder, chunks=None)
        held = physical_of(back)
    # Written in the declared steps; a value never becomes nodata.
    np.testing.assert_array_equal(np.isnan(held), np.isnan(physical))
    np.testing.assert_allclose(held, physical, rtol=1e-6, atol=step / 2 * 1.001 + 1e-6)
    again = eoaug.super_resolve(back, generator="classical")
    np.testing.assert_array_equal(
        np.isnan(physical_of(again)), np.isnan(physical).repeat(2, axis=-1).repeat(2, axis=-2)
    )
    assert np.isnan(again["B04"].values).any() == np.isnan(physical[0]).any(), (
        "NaN, never a number that means it"
    )


RELAXED = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=6, **RELAXED)
@given(case=declared(), form=st.sampled_from(["cog", "zarr"]))
def test_declarations_survive_write_open_verb(case, form):
    check(case, form)


@pytest.mark.long
@settings(max_examples=500, **RELAXED)
@given(case=declared(), form=st.sampled_from(["cog", "zarr"]))
def test_declarations_survive_write_open_verb_500_times(case, form):
    check(case, form)


@settings(max_examples=200, **RELAXED)
@given(case=declared())
def test_the_verbs_read_what_is_declared(case):
    cube, physical, _ = case
    np.testing.assert_allclose(physical_of(cube), physical, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("attrs", "encoding", "words"),
    [
        ({"scale_factor": 1e-4, "raster:scale": 2e-4}, {}, "scale_factor=0.0001 .* raster:scale=0.0002"),
        ({"scale_factor": 1e-4, "offset": -0.1}, {}, "scale_factor=0.0001 .* scale=1 with offset -0.1"),
        ({"scale": 1e-4}, {"scale_factor": 1e-3}, "0.0001 .* attributes, and 0.001 .* encoding"),
        ({}, {"scale_factor": 1e-4}, "only in its encoding"),
    ],
)
def test_contradictions_are_refused(attrs, encoding, words):
    with pytest.raises(RadiometryError, match=words):
        declared_scaling(attrs, "uint16", name="B04", encoding=encoding)


def test_what_xarray_has_applied_is_not_applied_again():
    again = declared_scaling(
        {"raster:scale": 1e-4}, "float32", name="B04", encoding={"scale_factor": np.float32(1e-4)}
    )
    assert again.scale == 1.0


@pytest.mark.parametrize(
    ("attrs", "dtype", "expected"),
    [
        ({"_FillValue": np.nan, "nodata": 0}, "uint16", 0),
        ({"_FillValue": np.nan, "nodata": -9999}, "float32", -9999),
        ({"missing_value": np.array([0])}, "uint16", 0),
        ({"_FillValue": -1.7976931348623157e308}, "float32", None),
    ],
)
def test_nodata_of_several_attributes(attrs, dtype, expected):
    assert declared_nodata(attrs, dtype, name="B04") == expected


def test_two_numbers_for_missing_are_refused():
    with pytest.raises(RadiometryError, match=r"nodata.* = 65535"):
        declared_nodata({"_FillValue": 0, "nodata": 65535}, "uint16", name="B04")


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ({"dtype": "uint8", "scale_factor": 1e-3, "_FillValue": 0}, "holds 0.5, and uint8"),
        ({"dtype": "uint16", "_FillValue": 0}, "without a scale, which stores 0"),
    ],
)
@pytest.mark.parametrize("form", ["cog", "zarr"])
def test_a_type_that_cannot_hold_a_value_is_told(tmp_path, encoding, words, form):
    values = np.full((1, *BOX.shape), 0.5, "float32")
    coords = {**xr_coords(BOX), "time": np.array(["2024-06-01"], "datetime64[ns]")}
    ds = xr.Dataset({"B04": (("time", "y", "x"), values)}, coords)
    ds.B04.encoding = encoding
    with pytest.raises(RadiometryError, match=words):
        eoaug.write(ds, tmp_path, format=form)
    ds.B04.encoding = {}  # the remedy
    eoaug.write(ds, tmp_path, format=form)
    assert float(eoaug.open_cube(tmp_path).B04.mean()) == 0.5
