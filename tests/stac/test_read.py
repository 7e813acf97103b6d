from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from eoaug.errors import (
    BandError,
    GridError,
    ParameterError,
    RadiometryError,
    SourceError,
    TimeError,
)
from eoaug.formats.packing import store_form
from eoaug.stac.open import open_cube
from eoaug.stac.search import known_sources

from .conftest import PATCH, SAMPLE, assert_named, grid, made_cube, make_item

S2 = {"collections": "sentinel-2-l2a", "ids": PATCH}


def file_of(band: str):
    return rasterio.open(SAMPLE / "sentinel-2-l2a" / PATCH / f"{band}.tif")


# ----------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize("band", ["B04", "B11", "B01"])
def test_the_native_grid_and_pixels_of_the_file_come_back(band):
    ds = open_cube(SAMPLE, **S2, bands=band)
    with file_of(band) as file:
        assert ds.odc.geobox.shape == file.shape
        assert np.allclose(tuple(ds.odc.geobox.affine), tuple(file.transform), rtol=0, atol=1e-9)
        assert ds.odc.geobox.crs == f"EPSG:{file.crs.to_epsg()}"
        stored = file.read(1)
    assert ds[band].dtype == np.float32
    assert ds[band].values[0] == pytest.approx(stored * 1e-4, abs=1e-7)
    assert np.array_equal(store_form(ds[band]).pack(ds[band].values)[0], stored)


def test_scale_units_and_names_are_recorded_once(cube):
    assert cube.B04.encoding["scale_factor"] == 1e-4
    assert cube.B04.encoding["add_offset"] == 0.0
    assert cube.B04.encoding["_FillValue"] == 0
    assert cube.B04.encoding["dtype"] == "uint16"
    assert cube.B04.attrs == {"units": "1", "common_name": "red", "center_wavelength": 0.6646}
    assert cube.item_id.values.tolist() == [PATCH]
    assert cube.platform.values.tolist() == ["sentinel-2a"]
    assert cube.gsd.values.tolist() == [10.0]
    assert np.isnan(cube.cloud_cover.values).all()
    assert cube.attrs["stac_collection"] == "sentinel-2-l2a"


def test_coarse_bands_come_onto_the_finest_grid_without_new_values(cube):
    with file_of("B11") as file:
        assert np.array_equal(store_form(cube.B11).pack(cube.B11.values)[0, ::2, ::2], file.read(1))


def test_lazy_and_eager_agree_and_lazy_is_lazy():
    lazy, eager = open_cube(SAMPLE, **S2, bands="B02"), open_cube(SAMPLE, **S2, bands="B02", chunks=None)
    assert lazy.B02.chunks is not None
    assert eager.B02.chunks is None
    xr.testing.assert_identical(lazy.compute(), eager)


def test_a_lazy_cube_survives_pickling(cube):
    xr.testing.assert_identical(pickle.loads(pickle.dumps(cube)).compute(), cube.compute())


def test_attributes_fit_into_netcdf(cube, tmp_path):
    pytest.importorskip("h5py")
    cube.to_netcdf(tmp_path / "cube.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "cube.nc", engine="h5netcdf") as back:
        assert np.allclose(back.B04, cube.B04, atol=1e-6)


def test_common_names_are_aliases():
    ds = open_cube(SAMPLE, **S2, bands=["red", "B08"])
    assert list(ds.data_vars) == ["red", "B08"]
    assert np.array_equal(ds.red.values, open_cube(SAMPLE, **S2, bands="B04").B04.values)


def test_radar_in_decibels_has_no_scale():
    ds = open_cube(SAMPLE, collections="sentinel-1-grd", limit=1)
    assert set(ds.data_vars) == {"VV", "VH"}
    assert ds.VV.attrs == {"units": "dB", "common_name": "vv"}
    assert "scale_factor" not in ds.VV.encoding


def test_classes_stay_integers(tmp_path):
    item = make_item(tmp_path, bands=["SCL"], dtype="uint8", values=np.full((32, 32), 9, np.uint8))
    ds = open_cube(item)
    assert ds.SCL.dtype == np.uint8
    assert (ds.SCL == 9).all()
    assert ds.SCL.attrs["nodata"] == 0


def test_nodata_becomes_nan_and_nothing_else_does(tmp_path):
    values = np.full((32, 32), 500, np.uint16)
    values[3, 4] = 0
    ds = open_cube(make_item(tmp_path, values=values))
    assert np.isnan(ds.B02.values[0, 3, 4])
    assert int(np.isnan(ds.B02.values).sum()) == 1


@pytest.mark.parametrize(
    ("properties", "fields", "expected"),
    [
        ({}, {}, 0.0),
        ({}, {"raster:offset": -0.1}, -0.1),
        ({"s2:processing_baseline": "05.09"}, {"raster:offset": None, "raster:scale": None}, -0.1),
        ({"s2:processing_baseline": "02.05"}, {"raster:offset": None, "raster:scale": None}, 0.0),
        (
            {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True},
            {"raster:offset": -0.1},
            0.0,
        ),
    ],
)
def test_the_offset_of_sentinel_2_is_the_declared_one(tmp_path, properties, fields, expected):
    ds = open_cube(make_item(tmp_path, properties=properties, fields=fields))
    assert ds.B02.encoding["add_offset"] == expected
    assert float(ds.B02[0, 0, 0]) == pytest.approx(1e-4 + expected, abs=1e-7)


def test_a_scale_that_nobody_declares_is_not_invented(tmp_path):
    ds = open_cube(make_item(tmp_path, drop=("raster:scale", "raster:offset")))
    assert ds.B02.dtype == np.uint16
    assert ds.B02.attrs["nodata"] == 0


def test_dates_with_different_offsets_share_one_physical_scale(tmp_path):
    items = [
        make_item(tmp_path, "old", datetime="2021-06-01T10:00:00Z"),
        make_item(tmp_path, "new", datetime="2022-06-01T10:00:00Z", fields={"raster:offset": -0.1}),
    ]
    ds = open_cube(items)
    assert np.allclose(ds.B02[0] - ds.B02[1], 0.1, atol=1e-6)
    assert ds.B02.encoding["add_offset"] == -0.1


def test_stac_1_0_lists_are_read(tmp_path):
    item = make_item(
        tmp_path, bands=["x"], drop=("raster:scale", "raster:offset", "data_type", "nodata", "bands")
    )
    document = item.to_dict()
    document["stac_version"] = "1.0.0"
    document["properties"]["proj:epsg"] = 32633
    del document["properties"]["proj:code"]
    document["assets"]["x"] |= {
        "eo:bands": [{"name": "B04", "common_name": "red", "center_wavelength": 0.665}],
        "raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 0.5, "offset": 1.0}],
    }
    ds = open_cube(pystac.Item.from_dict(document), bands=["red"])
    assert ds.red.attrs["center_wavelength"] == 0.665
    assert float(ds.red[0, 0, 0]) == 1.5


def test_what_the_item_leaves_out_is_read_from_the_file(tmp_path):
    drop = (
        "data_type",
        "nodata",
        "proj:shape",
        "proj:transform",
        "proj:code",
        "bands",
        "raster:scale",
        "raster:offset",
    )
    ds = open_cube(make_item(tmp_path, drop=drop))
    assert ds.B02.dtype == np.uint16
    assert ds.odc.geobox.affine == grid().affine


def test_several_bands_in_one_file(tmp_path):
    box = grid()
    with rasterio.open(
        tmp_path / "all.tif", "w", driver="GTiff", width=32, height=32, count=3, dtype="int16",
        crs="EPSG:32633", transform=box.affine,
    ) as file:  # fmt: skip
        for index in (1, 2, 3):
            file.write(np.full((32, 32), index, np.int16), index)
    item = make_item(tmp_path)
    document = item.to_dict()
    names = [{"name": "B04"}, {"name": "B03"}, {"name": "B02"}]
    document["assets"] = {"all": {"href": str(tmp_path / "all.tif"), "type": "image/tiff", "eo:bands": names}}
    ds = open_cube(pystac.Item.from_dict(document))
    assert [int(ds[name][0, 5, 5]) for name in ("B04", "B03", "B02")] == [1, 2, 3]


def test_a_rotated_grid_keeps_its_affine(tmp_path):
    box = GeoBox(
        (16, 16), Affine.translation(5e5, 5e6) * Affine.rotation(20) * Affine.scale(10, -10), "EPSG:32633"
    )
    ds = open_cube(make_item(tmp_path, geobox=box))
    assert np.allclose(tuple(ds.odc.geobox.affine), tuple(box.affine), rtol=0, atol=1e-9)
    assert float(ds.B02[0, 0, 0]) == pytest.approx(1e-4)


# ------------------------------------------------------------------------------------ search and grid


def test_grids_of_two_zones_become_two_nodes():
    ids = [PATCH, "S2B_MSIL2A_20180204T94161_57_38"]
    tree = open_cube(SAMPLE, collections="sentinel-2-l2a", bands="B02", ids=ids)
    assert set(tree.children) == {"epsg32633_10", "epsg32635_10"}


def test_items_of_several_zones_in_one_reference_system(tmp_path):
    items = [
        make_item(tmp_path, "a", geobox=grid(x=700000, y=0.0, epsg=32633)),
        make_item(tmp_path, "b", geobox=grid(x=700000, y=0.0, epsg=32634), datetime="2020-06-02T10:00:00Z"),
    ]
    tree = open_cube(items)
    assert isinstance(tree, xr.DataTree)
    assert set(tree.children) == {"epsg32633_10", "epsg32634_10"}
    one = open_cube(items[:1], crs="EPSG:3857", resolution=20)
    assert one.odc.geobox.crs == "EPSG:3857"
    assert abs(one.odc.geobox.resolution.x) == 20


def test_neighbours_on_one_grid_become_one_cube_of_whole_pixels(tmp_path):
    items = [make_item(tmp_path, "a"), make_item(tmp_path, "b", geobox=grid(x=500320.0))]
    ds = open_cube(items)
    assert dict(ds.sizes) == {"time": 1, "y": 32, "x": 64}
    assert not np.isnan(ds.B02.values).any()
    assert ds.item_id.values.tolist() == ["a;b"]
    assert open_cube(items, groupby="id").sizes["time"] == 2


def test_a_bbox_cuts_whole_pixels_off_the_native_grid():
    whole = open_cube(SAMPLE, **S2, bands="B02")
    box = whole.odc.geobox[30:60, 20:50].extent.to_crs("EPSG:4326").boundingbox
    cut = open_cube(SAMPLE, **S2, bands="B02", bbox=tuple(box))
    assert 30 <= cut.sizes["y"] <= 36
    left = round(float((cut.x[0] - whole.x[0]) / 10))
    top = round(float((whole.y[0] - cut.y[0]) / 10))
    part = whole.B02[:, top : top + cut.sizes["y"], left : left + cut.sizes["x"]]
    assert np.array_equal(cut.B02.values, part.values)


def test_a_bbox_over_the_antimeridian(tmp_path):
    # UTM zone 1 begins at the antimeridian; this grid reaches from 179.97 E to 179.97 W.
    box = GeoBox((20, 40), Affine(100, 0, 164000, 0, -100, 1000), "EPSG:32601")
    item = make_item(tmp_path, geobox=box)
    whole = open_cube(item)
    ds = open_cube(item, bbox=(179.99, -0.01, -179.99, 0.01))
    assert ds.sizes["x"] < whole.sizes["x"]
    assert 15 <= ds.sizes["x"] <= 30


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"datetime": "2017"}, 2),
        ({"datetime": "2017-06-13"}, 1),
        ({"datetime": "../2017-06-14"}, 1),
        ({"datetime": "2017-09-01/2018-12-31"}, 1),
        ({"limit": 1}, 1),
        ({"query": {"s2:mgrs_tile": "33UUP"}}, 1),
        ({"query": {"gsd": {"lte": 10}}, "ids": PATCH}, 1),
    ],
)
def test_filters(arguments, expected):
    ids = [PATCH, "S2A_MSIL2A_20170617T113321_36_85", "S2B_MSIL2A_20180204T94161_57_38"]
    found = open_cube(SAMPLE, **{"collections": ["sentinel-2-l2a"], "bands": "B01", "ids": ids, **arguments})
    nodes = list(found.children) if isinstance(found, xr.DataTree) else [found]
    assert len(nodes) == expected


def test_a_catalog_whose_links_run_in_a_circle(tmp_path):
    item = make_item(tmp_path)
    link = [{"rel": "child", "href": "./catalog.json"}, {"rel": "item", "href": f"./{item.id}.json"}]
    document = {"type": "Catalog", "stac_version": "1.1.0", "id": "c", "description": "d", "links": link}
    (tmp_path / "catalog.json").write_text(json.dumps(document))
    assert open_cube(tmp_path).sizes["time"] == 1


def test_xarray_objects_come_back_as_they_are():
    ds = made_cube(grid())
    assert open_cube(ds) is ds
    assert open_cube(ds.B02) is not None
    with pytest.raises(GridError, match="coordinate reference system"):
        open_cube(
            xr.Dataset(
                {"B02": (("time", "y", "x"), ds.B02.values)}, {"time": ds.time.values, "x": ds.x.values}
            )
        )
    with pytest.raises(ParameterError, match="bands"):
        open_cube(ds, bands="B02")


def test_public_sources_have_addresses():
    for name in ("earth-search", "planetary-computer", "cdse"):
        assert known_sources()[name]["url"].startswith("https://")


@pytest.mark.parametrize("name", ["worldcereal_s2", "naip", "stac_naip", "openeo_geopyspark_stac"])
def test_shared_catalogs_open(data, name):
    found = open_cube(data / "catalogs" / name)
    for node in found.leaves if isinstance(found, xr.DataTree) else [found]:
        assert node.sizes["time"] >= 1


# -------------------------------------------------------------------------------------- wrong uses


def test_an_unreadable_asset_is_an_error_not_zeros(tmp_path):
    item = make_item(tmp_path)
    ds = open_cube(item)
    path = tmp_path / "one-B02.tif"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SourceError, match=r"'B02' of item 'one'"):
        ds.compute()
    path.unlink()
    with pytest.raises(SourceError, match=r"'B02' of item 'one' does not exist"):
        open_cube(item)


def wrong(folder):
    """(how it is called, error, what the message names)."""
    make = lambda name, **kw: make_item(folder, name, **kw)  # noqa: E731
    far = grid(x=600000.0, y=5200000.0)
    (folder / "text.json").write_text("no json")
    (folder / "object.json").write_text('{"type": "Other"}')
    no_time = make("notime")
    no_time.datetime = None
    undated = json.loads((folder / "notime.json").read_text())
    undated["properties"]["datetime"] = None
    (folder / "undated.json").write_text(json.dumps(undated))
    two = make("two", bands=["p", "q"], fields={"bands": [{"name": "x", "eo:common_name": "red"}]})
    return {
        "unknown band": (lambda: open_cube(SAMPLE, **S2, bands="B99"), BandError, "'B99'"),
        "ambiguous band": (lambda: open_cube(two, bands="red"), BandError, "'red'"),
        "empty search": (lambda: open_cube(SAMPLE, ids="nothing"), SourceError, "nothing"),
        "empty time": (lambda: open_cube(SAMPLE, datetime="1999"), SourceError, "1999"),
        "two collections": (lambda: open_cube(SAMPLE), ParameterError, "sentinel-1-grd"),
        "mostly empty": (lambda: open_cube([make("n"), make("f", geobox=far)]), GridError, "empty"),
        "outside bbox": (lambda: open_cube(make("o"), bbox=(100, 10, 101, 11)), SourceError, "bbox"),
        "no crs": (lambda: open_cube(make("nocrs", drop=["proj:code"], crs_in_file=False)), GridError, "'nocrs'"),
        "bad grid": (lambda: open_cube(make("g", fields={"proj:transform": [1, 2]})), GridError, "'g'"),
        "bad code": (lambda: open_cube(make("h", properties={"proj:code": "EPSG:1"})), GridError, "EPSG:1"),
        "no time": (lambda: open_cube(no_time), TimeError, "'notime'"),
        "no time in the file": (lambda: open_cube(folder / "undated.json"), SourceError, "datetime"),
        "no file": (lambda: open_cube(folder / "nowhere"), SourceError, "nowhere"),
        "misspelt source": (lambda: open_cube("earth-serch"), SourceError, "earth-serch"),
        "folder of items": (lambda: open_cube(folder), SourceError, "STAC items and no catalog"),
        "no json": (lambda: open_cube(folder / "text.json"), SourceError, "text.json"),
        "no stac": (lambda: open_cube(folder / "object.json"), SourceError, "object.json"),
        "list of text": (lambda: open_cube(["a"]), SourceError, "str"),
        "a number": (lambda: open_cube(3), SourceError, "int"),
        "bbox of three": (lambda: open_cube(SAMPLE, bbox=(1, 2, 3)), ParameterError, "(1, 2, 3)"),
        "bbox upside down": (lambda: open_cube(SAMPLE, bbox=(1, 5, 2, 4)), ParameterError, "bbox"),
        "datetime": (lambda: open_cube(SAMPLE, datetime="yesterday"), ParameterError, "yesterday"),
        "datetime backwards": (lambda: open_cube(SAMPLE, datetime="2018/2017"), ParameterError, "2018/2017"),
        "query": (lambda: open_cube(SAMPLE, query={"gsd": {"near": 1}}), ParameterError, "near"),
        "query type": (lambda: open_cube(SAMPLE, query={"platform": {"lt": 1}}), ParameterError, "platform"),
        "limit": (lambda: open_cube(SAMPLE, limit=0), ParameterError, "limit=0"),
        "resolution": (lambda: open_cube(SAMPLE, resolution=-1), ParameterError, "-1"),
        "bands": (lambda: open_cube(SAMPLE, bands=[]), ParameterError, "bands"),
        "crs": (lambda: open_cube(make("c"), crs="EPSG:0"), GridError, "EPSG:0"),
        "crs in degrees": (lambda: open_cube(make("d"), crs="EPSG:4326"), GridError, "resolution"),
        "scale 0": (lambda: open_cube(make("s", fields={"raster:scale": 0})), RadiometryError, "'s'"),
        "scale text": (lambda: open_cube(make("t", fields={"raster:scale": "x"})), RadiometryError, "'x'"),
        "type": (lambda: open_cube(make("u", fields={"data_type": "cint16"})), RadiometryError, "cint16"),
        "unmarked gap": (
            lambda: open_cube([make("v", nodata=None), make("w", nodata=None, geobox=grid(x=500320.0))], groupby="id"),
            RadiometryError,
            "nodata",
        ),
        "mixed scales": (
            lambda: open_cube([make("x"), make("y", fields={"raster:offset": -0.1})]), RadiometryError, "'x'",
        ),
        "mixed types": (
            lambda: open_cube([make("z"), make("zz", fields={"data_type": "int16"})]), RadiometryError, "int16",
        ),
        "no raster": (lambda: open_cube(make("e", fields={"type": "text/plain"})), BandError, "'e'"),
    }  # fmt: skip


def test_every_wrong_use_names_culprit_and_remedy(tmp_path):
    cases = wrong(tmp_path)
    assert_named(cases)
    assert len(cases) >= 25


@pytest.mark.parametrize(("lat", "crs"), [(66.0, "EPSG:32660"), (-17.0, "EPSG:32760"), (0.0, "EPSG:3832")])
def test_the_remedy_for_items_on_both_sides_of_the_antimeridian_works(lat, crs, tmp_path):
    step = 1e-3
    items = [
        make_item(tmp_path, name, geobox=GeoBox((64, 64), Affine(step, 0, lon, 0, -step, lat + 0.032), "EPSG:4326"))
        for name, lon in (("east", 179.936), ("west", -180.0))
    ]  # fmt: skip
    with pytest.raises(GridError, match="empty") as caught:
        open_cube(items, chunks=None)
    assert crs in caught.value.remedy
    number = float(re.search(r"resolution=([\d.]+)", caught.value.remedy)[1])
    cube = open_cube(items, chunks=None, crs=crs, resolution=number, groupby="solar_day")
    assert cube.sizes["time"] == 1
    assert float(cube.B02.notnull().mean()) > 0.7
    assert all(open_cube([item], chunks=None).B02.notnull().all() for item in items)
