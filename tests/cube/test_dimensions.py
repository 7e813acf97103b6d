"""One cube under any order and names of its dimensions: equal values from read_cube, a verb, and the files written."""

from __future__ import annotations

import tempfile
from functools import cache

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import eoaug
from eoaug.cube.dimensions import TIME_NAMES, scalar_time
from eoaug.cube.read import read_cube
from eoaug.cube.synthetic import GENERATED
from eoaug.errors import TimeError
from eoaug.stac.open import open_cube
from eoaug.stac.publish import write
from eoaug.stac.writable_cube import WritableCube
from eoaug.testing import grid

NAMES_YX = [
    ("y", "x"),
    ("lat", "lon"),
    ("latitude", "longitude"),
    ("northing", "easting"),
    ("Y", "X"),
    ("x", "y"),
]
"""The last pair is swapped by its CF attributes."""
VARIABLES = ["B02", "B04", "SCL", "synthetic"]
BAND_DIMS = ["band", "bands", "variable", "wavelength", "channel"]


def canonical(rng: np.random.Generator, shape: tuple[int, int], dates: int, *, degrees: bool) -> xr.Dataset:
    """A cube (time, y, x) of float32 reflectance with holes and a scene classification with clouds."""
    from odc.geo.xr import xr_coords

    geobox = grid(shape, crs="EPSG:4326" if degrees else "EPSG:32633")
    y, x = geobox.dimensions
    coords = {
        "time": np.datetime64("2024-06-01", "ns") + np.arange(dates) * np.timedelta64(9, "D"),
        **xr_coords(geobox),
    }
    ds = xr.Dataset(coords=coords)
    for name in ("B02", "B04"):
        values = rng.uniform(0.1, 0.4, (dates, *shape)).astype(np.float32)
        values[0, 2, 3] = np.nan
        ds[name] = ("time", y, x), values, {"units": "1"}
    classes = np.full((dates, *shape), 4, np.uint8)
    classes[0, 4:9, 5:11] = 9
    ds["SCL"] = ("time", y, x), classes
    return ds.rename({y: "y", x: "x"})


@cache
def reference(
    seed: int, shape: tuple[int, int], dates: int, *, degrees: bool
) -> tuple[xr.Dataset, xr.Dataset]:
    """A canonical cube and what `inpaint` makes of it."""
    plain = canonical(np.random.default_rng(seed), shape, dates, degrees=degrees)
    result = inpaint(plain)
    assert (result.synthetic.values == GENERATED).any()
    return plain, result


def inpaint(cube):
    return eoaug.inpaint(cube, mask="SCL", mask_buffer=0, generator="classical")


@st.composite
def variants(draw, *, stacked: bool):
    """A canonical cube, its result, and the same pixels as another library gives them."""
    shape, dates = draw(st.sampled_from([(16, 20), (24, 17)])), draw(st.integers(1, 2))
    plain, expected = reference(dates, shape, dates, degrees=shape[1] == 17)
    y, x = draw(st.sampled_from(NAMES_YX))
    time = draw(st.sampled_from([*TIME_NAMES, "Time"]))
    cube = plain.copy()
    if (y, x) == ("x", "y"):
        cube.x.attrs["axis"], cube.y.attrs["axis"] = "X", "Y"
    cube = cube.rename({"y": y, "x": x} | ({} if time == "time" else {"time": time}))
    single = dates == 1 and draw(st.booleans())
    if single:
        cube = cube.isel({time: 0})
    dims = [*([] if single else [time]), y, x]
    if stacked:
        band = draw(st.sampled_from(BAND_DIMS))
        array = cube.to_dataarray(band)
        order = draw(st.permutations([band, *dims]))
        return plain, expected, array.transpose(*order), (y, x, None if single else time, band)
    order = draw(st.permutations(dims))
    return plain, expected, cube.transpose(*order), (y, x, None if single else time, None)


def pixels(result, names, variable: str) -> np.ndarray:
    """A variable as (time, y, x)."""
    y, x, time, band = names
    if band is not None:
        layer = result.synthetic if variable == "synthetic" else result.sel({band: variable})
    else:
        layer = result[variable]
    if time is None:
        return layer.transpose(y, x).values[None]
    return layer.transpose(time, y, x).values


@pytest.mark.parametrize("stacked", [False, True], ids=["dataset", "array"])
@settings(max_examples=settings().max_examples // 2 + 1)
@given(data=st.data())
def test_dimensions_in_any_order_and_name_are_one_cube(stacked, data):
    plain, expected, cube, names = data.draw(variants(stacked=stacked))
    read, canonical_form = read_cube(cube), read_cube(plain)
    assert [band.name for band in read.bands] == ["B02", "B04"]
    assert read.names_yx == names[:2]
    for one, other in zip(read.bands, canonical_form.bands, strict=True):
        np.testing.assert_array_equal(np.asarray(one.data), np.asarray(other.data))
    np.testing.assert_allclose(read.geobox.affine, canonical_form.geobox.affine, rtol=0, atol=1e-9)
    result = inpaint(cube)
    for name in VARIABLES:
        np.testing.assert_array_equal(pixels(result, names, name), expected[name].values, err_msg=name)
    assert (result.dims == cube.dims) if stacked else (result.B02.dims == cube.B02.dims)
    to_write = WritableCube.of(result)
    assert to_write.yx == names[:2]
    for name in VARIABLES:
        assert to_write.ds[name].dims == ("time", *names[:2])
        np.testing.assert_array_equal(to_write.ds[name].values, expected[name].values, err_msg=name)
    np.testing.assert_array_equal(to_write.ds.time.values, plain.time.values)
    np.testing.assert_allclose(to_write.geobox.affine, canonical_form.geobox.affine, rtol=0, atol=1e-9)


def check_files(plain, expected, cube, form):
    """Write what `inpaint` makes of a variant, and open it."""
    with tempfile.TemporaryDirectory() as folder:
        write(inpaint(cube), folder, format=form)
        back = open_cube(folder, chunks=None)
    assert set(back.data_vars) == set(VARIABLES)
    yx = read_cube(back).names_yx
    for name in VARIABLES:
        values = back[name].transpose("time", *yx).values
        np.testing.assert_array_equal(values, expected[name].values, err_msg=name)
    np.testing.assert_array_equal(back.time.values.astype("M8[s]"), plain.time.values.astype("M8[s]"))
    np.testing.assert_allclose(back.odc.geobox.affine, read_cube(plain).geobox.affine, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["cog", "zarr"])
@pytest.mark.parametrize("stacked", [False, True], ids=["dataset", "array"])
@given(data=st.data())
def test_every_form_comes_back_from_files_with_its_values_and_marks(stacked, form, data):
    plain, expected, cube, _ = data.draw(variants(stacked=stacked))
    check_files(plain, expected, cube, form)


@pytest.mark.parametrize(
    ("form", "order", "yx", "time"),
    [
        ("cog", ("lon", "lat", "t"), ("lat", "lon"), "t"),
        ("cog", ("longitude", "bands", "date", "latitude"), ("latitude", "longitude"), "date"),
        ("zarr", ("band", "x", "y"), ("y", "x"), "time"),
        ("zarr", ("x", "t", "y"), ("y", "x"), "t"),
    ],
)
def test_transposed_and_renamed_cubes_come_back_from_files(form, order, yx, time):
    plain, expected = reference(7, (18, 21), 1, degrees=True)
    cube = plain.rename({"y": yx[0], "x": yx[1]} | ({} if time == "time" else {"time": time}))
    cube = cube if time in order else cube.isel({time: 0})
    stacked = next((name for name in order if name in BAND_DIMS), None)
    check_files(plain, expected, (cube.to_dataarray(stacked) if stacked else cube).transpose(*order), form)


def test_a_single_date_is_known_by_any_name_and_by_its_attributes():
    plain, _ = reference(7, (18, 21), 1, degrees=True)
    cube = plain.isel(time=0)
    assert scalar_time(cube.coords) == "time"
    sensed = cube.rename(time="sensed")
    assert scalar_time(sensed.coords) is None
    sensed.sensed.attrs["standard_name"] = "time"
    for named in (cube.rename(time="Time"), cube.rename(time="DATE"), sensed):
        np.testing.assert_array_equal(read_cube(named).times, plain.time.values)
        np.testing.assert_array_equal(WritableCube.of(named).ds.time.values, plain.time.values)
    produced = cube.assign_coords(produced=np.datetime64("2025-01-01", "ns"))
    np.testing.assert_array_equal(read_cube(produced).times, plain.time.values)
    lost = cube.assign_coords(time=np.datetime64("NaT", "ns"))
    for read in (read_cube, WritableCube.of):
        with pytest.raises(TimeError, match="NaT") as caught:
            read(lost)
        assert "assign_coords(time=...)" in caught.value.remedy


# -- dates of cftime ----------------------------------------------------------------------------------


def of_calendar(calendar: str, start: str = "2024-06-01") -> xr.Dataset:
    plain, _ = reference(9, (16, 20), 2, degrees=False)
    dates = xr.date_range(start, periods=2, freq="9D", calendar=calendar, use_cftime=True)
    return plain.assign_coords(time=("time", dates, {"long_name": "sensing time"}))


@pytest.mark.parametrize("calendar", ["standard", "gregorian", "proleptic_gregorian"])
def test_dates_of_cftime_are_read_where_their_calendar_is_the_common_one(calendar, tmp_path):
    pytest.importorskip("cftime")
    plain, expected = reference(9, (16, 20), 2, degrees=False)
    cube = of_calendar(calendar)
    np.testing.assert_array_equal(read_cube(cube).times, plain.time.values)
    np.testing.assert_array_equal(read_cube(cube.isel(time=0)).times, plain.time.values[:1])
    result = inpaint(cube)
    xr.testing.assert_identical(result.time, cube.time)
    np.testing.assert_array_equal(result.B02.values, expected.B02.values)
    mask = cube.SCL == 9
    by_dates = eoaug.inpaint(cube, mask=mask, generator="classical")
    np.testing.assert_array_equal(by_dates.synthetic.values, expected.synthetic.values)
    longer = eoaug.extend(cube, times="2024-06-05T12:00:00", generator="classical", mask="none")
    assert [date.isoformat() for date in longer.time.values] == [
        "2024-06-01T00:00:00", "2024-06-05T12:00:00", "2024-06-10T00:00:00",
    ]  # fmt: skip
    assert longer.time.values[1].calendar == cube.time.values[0].calendar
    for cftimed in (result, result.isel(time=0)):
        written = WritableCube.of(cftimed).ds.time
        np.testing.assert_array_equal(written.values, plain.time.values[: written.size])
        assert written.attrs == {"long_name": "sensing time"}


@pytest.mark.parametrize(
    ("calendar", "start"),
    [
        ("noleap", "2024-06-01"),
        ("360_day", "2024-06-01"),
        ("julian", "2024-06-01"),
        ("standard", "1582-10-04"),
    ],
)
def test_dates_of_other_calendars_are_refused_by_verbs_and_write(calendar, start):
    pytest.importorskip("cftime")
    cube = of_calendar(calendar, start)
    for read in (read_cube, WritableCube.of):
        with pytest.raises(TimeError, match=calendar) as caught:
            read(cube)
        assert "convert_calendar" in caught.value.remedy
