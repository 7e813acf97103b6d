"""Numbers to units and back: exact maps, and a cast that never wraps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from eoaug.errors import RadiometryError
from eoaug.raster.radiometry import Scaling, cast, declared_scaling

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64"]


@st.composite
def casts(draw):
    kind = np.dtype(draw(st.sampled_from(INTEGERS)))
    info = np.iinfo(kind)
    nodata = draw(
        st.none() | st.sampled_from([info.min, 0, 1, info.max if kind.itemsize < 8 else 2**31])
        | st.integers(max(info.min, -(2**31)), min(info.max, 2**31))
    )  # fmt: skip
    width = draw(st.sampled_from([32, 64]))
    near = st.floats(float(info.min), float(info.max), width=64).map(float)
    any_float = st.floats(allow_nan=nodata is not None, allow_infinity=True, width=64)
    around = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]).map(lambda d: (nodata or 0) + d)
    values = draw(st.lists(near | any_float | around, min_size=1, max_size=30))
    with np.errstate(over="ignore"):
        return np.array(values).astype(f"f{width // 8}"), kind, nodata


@given(casts())
@example((np.array([70000.0, -5.0, np.nan, np.inf, -np.inf, 3.6]), np.dtype("uint16"), 0))
@example((np.array([2.0**63, -(2.0**63), 2.0**62]), np.dtype("int64"), None))
def test_a_cast_never_wraps(case):
    values, kind, nodata = case
    out = cast(values, kind, nodata)
    info = np.iinfo(kind)
    assert out.dtype == kind
    assert out.shape == values.shape
    for value, stored in zip(values.tolist(), out.tolist(), strict=True):
        if np.isnan(value):
            assert stored == nodata
            continue
        assert stored != nodata
        nearest = round(value) if abs(value) < 1e300 else (info.max if value > 0 else info.min)
        inside = min(max(nearest, info.min), info.max)
        assert stored == inside or (inside == nodata and abs(stored - inside) == 1)
        if info.min <= value <= info.max and inside != nodata:
            assert abs(stored - value) <= 0.5


@given(hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e4, 1e4)))
def test_half_way_goes_to_the_even_number(values):
    halves = np.floor(values) + 0.5
    assert (cast(halves, "int32", None) % 2 == 0).all()


@pytest.mark.parametrize("nodata", [None, np.nan, -9999.0, 0.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_keep_their_value_and_never_equal_nodata(dtype, nodata):
    values = np.array([0.0, -9999.0, 1.5, np.nan, 1e300])
    out = cast(values, dtype, nodata)
    missing = np.isnan(values)
    if nodata is None or np.isnan(nodata):
        np.testing.assert_array_equal(np.isnan(out), missing)
    else:
        np.testing.assert_array_equal(out == nodata, missing)
        np.testing.assert_allclose(out[:3], values[:3], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("values", "dtype", "nodata", "words"),
    [
        ([np.nan, 1.0, np.nan], "uint16", None, "2 missing values .* uint16"),
        ([1.0], "uint8", 256, "nodata 256 .* uint8"),
        ([1.0], "uint16", -9999, "-9999"),
    ],
)
def test_a_cast_that_cannot_be_done_is_refused(values, dtype, nodata, words):
    with pytest.raises(RadiometryError, match=words):
        cast(np.array(values), dtype, nodata)


scales = st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6)
offsets = st.floats(-1e6, 1e6)


@given(scales, offsets, scales, offsets, st.floats(-1e4, 1e4))
def test_maps_compose_and_invert(scale, offset, scale2, offset2, value):
    one, two = Scaling(scale, offset), Scaling(scale2, offset2)
    here = np.array([value])
    size = abs(offset) * abs(scale2) + abs(value * scale * scale2) + abs(offset2) + 1
    np.testing.assert_allclose(one.then(two)(here), two(one(here)), rtol=1e-9, atol=1e-9 * size)
    np.testing.assert_allclose(one.inverse(one(here)), here, rtol=1e-9, atol=1e-9 * (1 + abs(offset / scale)))


@given(st.integers(0, 65535), st.sampled_from([(1e-4, 0.0), (1e-4, -0.1), (2.75e-5, -0.2)]))
def test_a_stored_number_survives_the_way_to_model_units_in_float32(number, declared):
    to_model = Scaling(*declared).then(Scaling(1 / 0.1, -0.2 / 0.1))
    model = to_model(np.array([number])).astype(np.float32)
    assert cast(to_model.inverse(model), "uint16", None)[0] == number


@pytest.mark.parametrize("scale", [0.0, np.nan, np.inf])
def test_a_scale_that_cannot_be_inverted_is_refused(scale):
    with pytest.raises(RadiometryError, match=str(scale)):
        Scaling(scale, 0.0)


@pytest.mark.parametrize(
    ("attrs", "dtype", "expected"),
    [
        ({"scale_factor": 1e-4, "add_offset": -0.1}, "uint16", (1e-4, -0.1)),
        ({"scale": "0.0001"}, "int16", (1e-4, 0.0)),
        ({"raster:scale": 2e-4, "raster:offset": 1}, "uint8", (2e-4, 1.0)),
        ({"db_scale": 0.01, "db_offset": -50}, "uint16", (0.01, -50.0)),
        ({}, "float32", (1.0, 0.0)),
        ({"scale_factor": 0.5}, "float64", (0.5, 0.0)),
    ],
)
def test_declared_scalings(attrs, dtype, expected):
    found = declared_scaling(attrs, dtype, name="B04")
    assert (found.scale, found.offset) == expected


@pytest.mark.parametrize(
    ("attrs", "words"),
    [({}, "'B04' holds uint16 .* no scale"), ({"scale_factor": "much"}, "'much'"), ({"scale": 0}, "scale=0")],
)
def test_a_scale_is_never_guessed(attrs, words):
    with pytest.raises(RadiometryError, match=words):
        declared_scaling(attrs, "uint16", name="B04")
