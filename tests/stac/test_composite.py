"""Composites: each pixel is one clear observation, with its date, its classes and its marks; nothing else."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import eoaug
from eoaug.errors import ParameterError, TimeError
from eoaug.raster.masks import dilate
from eoaug.raster.variables import role_of
from tests.cube.test_mask_buffer import N, cube

DAYS = np.array([0, 9, 20, 35, 48, 57], "timedelta64[D]")
DATES = (np.datetime64("2024-06-01") + DAYS).astype("datetime64[ns]")


def series(seed=0, **arguments):
    """Six dates in two months with clouds; the value of a pixel says its date."""
    rng = np.random.default_rng(seed)
    scl = np.full((6, N, N), 4, "uint8")
    for date in range(6):
        row, col = rng.integers(0, N, 2)
        scl[date, row : row + 4, col : col + 9] = 9
    scl[2] = 9
    scl[:, 5, 5] = 8
    ds = cube(scl, dates=6, **arguments).assign_coords(time=DATES)
    for band in ("red", "nir"):
        ds[band] = xr.zeros_like(ds[band]) + xr.DataArray(
            0.2 + 0.01 * np.arange(6, dtype="float32"), dims="time"
        )
    names = ("time", [f"item{date}" for date in range(6)])
    return ds.assign_coords(item_id=names, cloud_cover=("time", np.zeros(6)))


def clear_of(ds):
    return ~dilate(ds.scl.values >= 8, 100, (10, 10))


@pytest.mark.parametrize("chunks", [None, {"time": 1, "y": 17, "x": 23}])
@pytest.mark.parametrize("method", ["monthly", "best"])
def test_every_pixel_is_a_clear_observation_with_its_date_class_and_mark(method, chunks):
    ds = series()
    marks = np.zeros((6, N, N), "uint8")
    marks[4] = 1
    given = ds.assign(dem=(("y", "x"), np.ones((N, N), "float32")))
    given["synthetic"] = (("time", "y", "x"), marks)
    given = given if chunks is None else given.chunk(chunks)
    result = eoaug.open_cube(given, composite=method)
    assert (chunks is None) == (result.red.chunks is None)
    result = result.compute()
    clear = clear_of(ds)
    months = ds.time.dt.month.values
    images = [months == 6, months == 7] if method == "monthly" else [np.ones(6, bool)]
    assert result.sizes["time"] == len(images)
    for image, wanted in enumerate(images):
        one = result.isel(time=image)
        none = ~clear[wanted].any(axis=0)
        assert none[5, 5]
        np.testing.assert_array_equal(one.source_date.values < 0, none)
        np.testing.assert_array_equal(np.isnan(one.red.values), none)
        assert (one.scl.values[none] == 0).all()
        assert (one.synthetic.values[none] == 255).all()
        date = np.searchsorted(DATES.astype("datetime64[D]").astype(int), one.source_date.values)
        rows, cols = np.nonzero(~none)
        chosen = date[rows, cols]
        assert wanted[chosen].all()
        assert clear[chosen, rows, cols].all()
        for name in ("red", "nir", "scl"):
            np.testing.assert_array_equal(one[name].values[rows, cols], ds[name].values[chosen, rows, cols])
        np.testing.assert_array_equal(one.synthetic.values[rows, cols], marks[chosen, rows, cols])
    assert role_of("source_date", result.source_date.attrs) == "ancillary"
    assert result.dem.dims == ("y", "x")
    about = json.loads(result.attrs["eoaug_composite"])
    assert about == {"method": method, "dates": 6, "mask": "scl", "mask_buffer": 100.0}
    assert result.item_id.values[0].startswith("item0;item1")


def test_chunks_change_no_pixel():
    ds = series(seed=3)
    for method in ("monthly", "best"):
        whole = eoaug.open_cube(ds, composite=method)
        lazy = eoaug.open_cube(ds.chunk(time=2, y=13, x=40), composite=method).compute()
        xr.testing.assert_identical(whole, lazy)


def test_the_middle_of_the_period_and_distance_to_cloud_decide():
    ds = series()
    ds["scl"] = xr.full_like(ds.scl, 4)
    best = eoaug.open_cube(ds, composite="best")
    assert (
        best.source_date == DATES[3].astype("datetime64[D]").astype(int)
    ).all()  # 28 days after the first is nearest
    ds.scl.values[3, :2] = 9
    near = eoaug.open_cube(ds, composite="best").source_date.isel(time=0).values
    assert (
        near != DATES[3].astype("datetime64[D]").astype(int)
    ).all()  # the others see no cloud within 1.5 km
    monthly = eoaug.open_cube(ds, composite="monthly")
    assert list(monthly.time.values) == list(pd.to_datetime(["2024-06-01", "2024-07-01"]))
    assert monthly.end_datetime.values[0] == "2024-06-30T23:59:59Z"


def test_bright_observations_and_doubtful_classes_are_the_last_choice():
    ds = series()
    ds["scl"] = xr.full_like(ds.scl, 4)
    ds.red.values[3, 7:9] = 0.9  # cloud that the mask missed, on the date that would be chosen
    ds.scl.values[3, 20:22] = 11
    dates = eoaug.open_cube(ds, composite="best").source_date.isel(time=0).values
    middle = DATES[3].astype("datetime64[D]").astype(int)
    odd = np.zeros((N, N), bool)
    odd[[7, 8, 20, 21]] = True
    np.testing.assert_array_equal(dates != middle, odd)
    ds.scl.values[:, 30] = 11
    snow = eoaug.open_cube(ds, composite="best")
    assert (snow.scl[0, 30] == 11).all()


def test_what_cannot_be_composed_is_refused_and_the_remedies_work():
    ds = series()
    with pytest.raises(ParameterError, match="composite='median' is unknown"):
        eoaug.open_cube(ds, composite="median")
    with pytest.raises(ParameterError, match=r"(?s)no quality band.*bands=\['red', 'nir', 'scl'\]"):
        eoaug.open_cube(ds.drop_vars("scl"), composite="best")
    with pytest.raises(TimeError, match="no dimension time"):
        eoaug.open_cube(ds.isel(time=0, drop=True), composite="best")
    stored = ds.assign(red=(ds.red * 1e4).astype("uint16").assign_attrs(scale_factor=1e-4))
    with pytest.raises(ParameterError, match=r"uint16 without a nodata value(?s:.*)attrs\['nodata'\] = 0"):
        eoaug.open_cube(stored, composite="best")
    stored.red.attrs["nodata"] = 0
    assert eoaug.open_cube(stored, composite="best").red.values[0, 5, 5] == 0


def test_a_composite_is_written_read_and_filled(tmp_path):
    made = eoaug.open_cube(series(), composite="monthly")
    eoaug.write(made, tmp_path)
    back = eoaug.open_cube(tmp_path, chunks=None)
    np.testing.assert_allclose(back.red, made.red)
    np.testing.assert_array_equal(back.source_date, made.source_date)
    filled = eoaug.inpaint(back, generator="classical")
    assert int((filled.synthetic == 1).sum()) <= int((made.source_date < 0).sum())
    assert "source_date" not in filled.eoaug.provenance.bands
