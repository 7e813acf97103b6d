"""`open_cube` of files without items: the same cube as from items, or an error that says what to type."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from eoaug.errors import EoaugError, ParameterError, SourceError, TimeError
from eoaug.stac.file_dates import date_in_name, without_dates
from eoaug.testing import scenes

RED = np.arange(1, 257, dtype=np.uint16).reshape(16, 16)


def tif(path, values=RED, *, names=(), scale=None, nodata=None, x0=500000.0, crs="EPSG:32633", tags=None):
    values = np.asarray(values)
    values = values[None] if values.ndim == 2 else values
    transform = Affine(10, 0, x0, 0, -10, 5000000.0)
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(
        path, "w", driver="GTiff", crs=crs, transform=transform, nodata=nodata, **shape
    ) as file:
        file.write(values)
        if scale is not None:
            file.scales, file.offsets = (scale[0],) * count, (scale[1],) * count
        for number, name in enumerate(names, 1):
            file.set_band_description(number, name)
        file.update_tags(**(tags or {}))
    return path


def item(folder: Path, asset: str, bands: list[str], date: str) -> Path:
    """A minimal item of a file."""
    fields = {
        "href": asset,
        "type": "image/tiff",
        "roles": ["data"],
        "bands": [{"name": name} for name in bands],
    }
    document = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": "x",
        "links": [],
        "geometry": None,
        "properties": {"datetime": date},
        "assets": {"image": fields},
    }
    path = folder / "item" / "x.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("scale", [None, (1e-4, -0.1)])
@pytest.mark.parametrize("nodata", [None, 7])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_a_file_is_read_as_an_item_made_of_it(tmp_path, dtype, nodata, scale):
    values = np.stack([RED % 200, RED % 100]).astype(dtype)
    path = tif(tmp_path / "scene_20240601.tif", values, names=["B02", "B04"], nodata=nodata, scale=scale)
    document = item(tmp_path, str(path), ["B02", "B04"], "2024-06-01T00:00:00Z")
    as_file, as_item = eoaug.open_cube(path), eoaug.open_cube(document, allow=[str(tmp_path)])
    own = ["item_id", "item_href"]
    xr.testing.assert_identical(as_file.drop_vars(own).compute(), as_item.drop_vars(own).compute())
    for name in ("B02", "B04"):
        assert str(as_file[name].encoding) == str(as_item[name].encoding)


def test_a_folder_of_files_is_a_cube_over_time(tmp_path):
    for day, add in (("20240601", 0), ("20240611", 1)):
        for band in ("B02", "B04"):
            tif(tmp_path / f"T33UUP_{day}T101530_{band}_10m.tif", RED + add, scale=(1e-4, 0), nodata=0)
    cube = eoaug.open_cube(tmp_path)
    assert dict(cube.sizes) == {"y": 16, "x": 16, "time": 2}
    assert list(cube.data_vars) == ["B02", "B04"]
    np.testing.assert_allclose(cube.B04.values[1], (RED + 1) * 1e-4, rtol=1e-6)
    assert str(cube.time.values[0]).startswith("2024-06-01T10:15:30")
    assert eoaug.open_cube(tmp_path, datetime="2024-06-11", bands="B04").sizes["time"] == 1


def test_a_file_without_a_date_has_no_time(tmp_path):
    path = tif(tmp_path / "dem.tif")
    cube = eoaug.open_cube(path)
    assert "time" not in cube.coords
    np.testing.assert_array_equal(cube.dem.values, RED)
    with pytest.raises(ParameterError, match="no date is known of 'dem'"):
        eoaug.open_cube(path, datetime="2024")


def test_undated_files_never_hide_each_other(tmp_path):
    for name, shift in (("a", 0), ("b", 0)):
        tif(tmp_path / f"{name}.tif", RED + shift, names=["B04"])
    with pytest.raises(TimeError, match="both hold 'B04' of the same place"):
        eoaug.open_cube(tmp_path)
    assert eoaug.open_cube(tmp_path, ids=["b"]).sizes["x"] == 16
    tif(tmp_path / "b.tif", RED + 1, names=["B04"], x0=500160.0, nodata=0)
    tif(tmp_path / "a.tif", RED, names=["B04"], nodata=0)
    cube = eoaug.open_cube(tmp_path)
    np.testing.assert_array_equal(cube.B04.values, np.hstack([RED, RED + 1]))


def test_dated_and_undated_files_are_not_mixed(tmp_path):
    tif(tmp_path / "a_20240601.tif", names=["B04"])
    tif(tmp_path / "b.tif", names=["B08"])
    with pytest.raises(TimeError, match="the date of 'b' is not known"):
        eoaug.open_cube(tmp_path)


def test_generated_files_are_refused_and_the_remedy_works(tmp_path):
    cube = scenes.cube() if hasattr(scenes, "cube") else None
    if cube is None:
        cube = eoaug.open_cube(
            eoaug.sample(), ids=["S2A_MSIL2A_20170617T113321_36_85"], bands=["B04"], chunks=None
        )
    mask = xr.DataArray(np.eye(*cube.odc.geobox.shape, dtype=bool), dims=cube.odc.spatial_dims)
    filled = cube.eoaug.inpaint(mask=mask, generator="classical")
    (written, *_) = eoaug.write(filled, tmp_path / "out")
    home = Path(written.get_self_href()).parent
    file = next(path for path in sorted(home.rglob("*.tif")) if "synthetic" not in path.name)
    with pytest.raises(SourceError, match="holds pixels that eoaug generated") as caught:
        eoaug.open_cube(file)
    assert str(home / f"{home.name}.json") in str(caught.value)
    assert "synthetic" in eoaug.open_cube(home / f"{home.name}.json")


def test_a_mask_inside_a_file_is_not_ignored(tmp_path):
    path = tif(tmp_path / "a_20240601.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(RED > 9)
    with pytest.raises(SourceError, match="marks missing pixels in a mask inside it"):
        eoaug.open_cube(path)


# -- netCDF and Zarr ----------------------------------------------------------------------------------


def stored(tmp_path: Path, form: str, name: str = "cube", times=("2024-06-01", "2024-06-11")) -> Path:
    """A cube with a scaled band, a class band and a grid mapping, in a file."""
    cube = eoaug.open_cube(tif(tmp_path / "scene_20240601.tif", names=["B04"], nodata=0, scale=(1e-4, 0)))
    cube = cube[["B04"]].drop_vars(
        [name for name in cube.coords if name not in ("x", "y", "time", "spatial_ref")]
    )
    values = np.stack([RED, RED + 1]).astype("uint16")[: len(times)]
    values[0, 0, 0] = 0
    scaled = {
        "scale_factor": 1e-4,
        "add_offset": 0.0,
        "_FillValue": np.uint16(0),
        "grid_mapping": "spatial_ref",
    }
    ds = xr.Dataset(
        {
            "B04": (("time", "y", "x"), values, scaled),
            "SCL": (("time", "y", "x"), (values % 12).astype("uint8"), {"grid_mapping": "spatial_ref"}),
        },
        {
            "x": cube.x,
            "y": cube.y,
            "spatial_ref": cube.spatial_ref,
            "time": np.array(times, "datetime64[ns]"),
        },
    )
    ds.SCL.attrs["_FillValue"] = np.uint8(0)
    path = tmp_path / f"{name}.{form}"
    if form == "zarr":
        ds.to_zarr(path, consolidated=False)
    else:
        ds.to_netcdf(path, engine="h5netcdf")
    (tmp_path / "scene_20240601.tif").unlink()
    return path


@pytest.mark.parametrize("form", ["nc", "zarr"])
def test_arrays_are_physical_and_classes_stay_classes(tmp_path, form):
    path = stored(tmp_path, form)
    for source in (path, tmp_path):
        cube = eoaug.open_cube(source)
        assert cube.B04.dtype == np.float32
        assert np.isnan(cube.B04.values[0, 0, 0])
        np.testing.assert_allclose(cube.B04.values[1], (RED + 1) * 1e-4, rtol=1e-6)
        assert cube.SCL.dtype == np.uint8
        assert cube.SCL.attrs["nodata"] == 0
        assert cube.odc.geobox.crs.to_epsg() == 32633
    later = eoaug.open_cube(path, bands="B04", datetime="2024-06-11", chunks=None)
    assert (list(later.data_vars), later.sizes["time"]) == (["B04"], 1)
    filled = later.eoaug.inpaint(mask=xr.DataArray(RED < 3, dims=("y", "x")), generator="classical")
    assert int(filled.synthetic.sum()) == 2


def test_several_arrays_are_joined_along_time(tmp_path):
    stored(tmp_path, "nc", "b", ("2024-07-01",))
    stored(tmp_path, "nc", "a", ("2024-08-01",))
    cube = eoaug.open_cube(tmp_path)
    assert [str(time)[:10] for time in cube.time.values] == ["2024-07-01", "2024-08-01"]
    stored(tmp_path, "nc", "c", ("2024-08-01",))
    with pytest.raises(TimeError, match="twice"):
        eoaug.open_cube(tmp_path)


def test_a_generated_zarr_group_keeps_its_marks(tmp_path):
    cube = eoaug.open_cube(stored(tmp_path, "nc"), bands=["B04"], chunks=None)
    filled = cube.eoaug.inpaint(mask=xr.DataArray(RED < 9, dims=("y", "x")), generator="classical")
    (written, *_) = eoaug.write(filled, tmp_path / "out", format="zarr")
    (group,) = (path for path in Path(written.get_self_href()).parent.rglob("*.zarr"))
    again = eoaug.open_cube(group, bands=["B04"])
    np.testing.assert_array_equal(again.synthetic.values, filled.synthetic.values)
    assert again.eoaug.provenance.operation == "inpaint"


def test_links_and_code_in_arrays_are_refused(tmp_path):
    path = stored(tmp_path, "nc")
    with h5py.File(path, "r+") as file:
        file["outside"] = h5py.ExternalLink("/etc/secret.h5", "/data")
    with pytest.raises(SourceError, match=r"refers to another file at '.*outside'"):
        eoaug.open_cube(path)
    group = stored(tmp_path, "zarr")
    document = json.loads((group / "B04" / "zarr.json").read_text())
    document["codecs"].append({"name": "pickle"})
    (group / "B04" / "zarr.json").write_text(json.dumps(document).replace("pickle", "p\\u0069ckle"))
    with pytest.raises(SourceError, match="codec 'pickle'"):
        eoaug.open_cube(group)


def test_options_of_items_are_refused_for_arrays(tmp_path):
    path = stored(tmp_path, "nc")
    with pytest.raises(ParameterError, match="resolution were given"):
        eoaug.open_cube(path, resolution=20)


# -- anything else --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.vrt", "gdal_translate a.vrt a.tif"),
        ("a.h5", "xr.open_dataset"),
        ("a.zip", "unpack it"),
        ("a.nc", "check that the file is complete"),
        ("a.tif", "check that it is a complete GeoTIFF"),
    ],
)
def test_other_files_say_what_to_type(tmp_path, name, told):
    (tmp_path / name).write_bytes(b"nothing of this kind")
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(EoaugError) as caught:
            eoaug.open_cube(source)
        assert told in str(caught.value)


def test_a_folder_says_what_it_holds(tmp_path):
    with pytest.raises(SourceError, match="it holds nothing"):
        eoaug.open_cube(tmp_path)
    (tmp_path / "inner").mkdir()
    tif(tmp_path / "inner" / "a_20240601.tif")
    with pytest.raises(SourceError) as caught:
        eoaug.open_cube(tmp_path)
    assert str(tmp_path / "inner") in str(caught.value)
    path = stored(tmp_path / "inner", "nc")
    tif(tmp_path / "inner" / "a_20240601.tif")
    with pytest.raises(SourceError, match="1 raster files and 1 netCDF files"):
        eoaug.open_cube(path.parent)


def test_the_command_line_takes_files(tmp_path):
    path = tif(tmp_path / "scene_20240601.tif", names=["B04"], nodata=0, scale=(1e-4, 0))
    for arguments in (
        ["inspect", path],
        ["plan", "super-resolve", path, "--factor", "2", "--generator", "classical"],
        [
            "super-resolve",
            path,
            "--factor",
            "2",
            "--generator",
            "classical",
            "--each",
            "--out",
            tmp_path / "out",
        ],
    ):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    array = stored(tmp_path, "nc")
    result = CliRunner().invoke(app, ["inspect", str(array)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "B04" in result.output


# -- dates in names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "date"),
    [
        ("S2A_MSIL2A_20240601T100031_N0510_R122_T33TWM_20240602T140000", "2024-06-01T10:00:31"),
        ("LC08_L2SP_192029_20240601_20240610_02_T1_SR_B4", "2024-06-01T00:00:00"),
        ("HLS.L30.T33TWM.2024153T100031.v2.0.B04", "2024-06-01T10:00:31"),
        ("MOD09GA.A2024153.h18v04", "2024-06-01T00:00:00"),
        ("20240601_101530_ssc4", "2024-06-01T10:15:30"),
        ("scene-2024-06-01", "2024-06-01T00:00:00"),
        ("a_20240601_20240601T101530", "2024-06-01T10:15:30"),
        ("a_20240601_20240610", None),
        ("a_20241350", None),
        ("a_21000101", None),
        ("tile_120240601", None),
        ("dem", None),
    ],
)
def test_dates_in_names(stem, date):
    expected = None if date is None else datetime.fromisoformat(date).replace(tzinfo=UTC)
    assert date_in_name(stem) == expected


@settings(max_examples=50, deadline=None)
@given(
    st.dates(datetime(1972, 1, 1).date(), datetime(2025, 12, 31).date()), st.sampled_from(["", "-", "_", "."])
)
def test_a_single_date_is_found_and_removed(date, separator):
    stem = f"ndvi_{date.strftime(separator.join(['%Y', '%m', '%d']))}_mean"
    time = date_in_name(stem)
    assert time is not None
    assert time.date() == date
    assert without_dates(stem) == "ndvi_mean"
