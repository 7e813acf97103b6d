"""Zarr groups that were written come back as the COGs do."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from eoaug.cube.provenance import ATTRIBUTE, of, stamp
from eoaug.errors import BandError, ParameterError, SourceError
from eoaug.formats.packing import store_form
from eoaug.stac.integrity import MANIFEST, with_checksum, write_json
from eoaug.stac.open import open_cube
from eoaug.stac.publish import write

from .conftest import assert_named, augmented, generated, grid, made_cube, provenance, told_anew

OWN = ("item_id", "item_href")
"""Coordinates that tell which item was read, so they differ between the two forms."""


@pytest.fixture(scope="module")
def series():
    """Three dates with gaps, one packed band, one float band, one of classes, and what a date knows."""
    ds = made_cube(grid(size=64), times=3, names=("B02", "B11"))
    ds.B02[1, 5:9, 3:8] = np.nan
    ds["ndvi"] = (ds.B02.dims, ds.B02.values * 2 - 1, {"grid_mapping": "spatial_ref"})
    ds["scl"] = (ds.B02.dims, np.arange(3 * 64 * 64, dtype=np.uint8).reshape(3, 64, 64) % 11)
    ds.B02.attrs["common_name"] = "blue"
    ds = ds.assign_coords(
        platform=("time", ["sentinel-2a", "sentinel-2b", ""]),
        cloud_cover=("time", [10.0, np.nan, 30.0]),
    )
    mask = np.zeros((3, 64, 64), np.uint8)
    mask[2], mask[1, 5:9, 3:8], mask[2, 0] = 1, 1, 255
    ds = ds.assign(synthetic=(ds.B02.dims, mask))
    prov = provenance(operation="extend", parameters={"times": ["2020-06-11"]}, residual=0.0)
    return stamp(ds, prov)


def stored(ds, name="B02"):
    return store_form(ds[name]).pack(ds[name].values)


def both(ds, folder, **how):
    cogs = write(ds, folder / "cogs", **how)
    (group,) = write(ds, folder / "zarr", format="zarr", **how)
    return cogs, group


@pytest.fixture(scope="module")
def pair(series, tmp_path_factory):
    """The series as COGs in ``cogs`` and as a group in ``zarr``."""
    folder = tmp_path_factory.mktemp("pair")
    return folder, both(series, folder)[1]


def assert_same(one, other):
    """All but what names the items: values bit by bit, coordinates, attributes and encodings."""
    xr.testing.assert_identical(
        one.drop_vars(OWN).drop_attrs(deep=False), other.drop_vars(OWN).drop_attrs(deep=False)
    )
    for name in one.data_vars:
        assert repr(one[name].encoding) == repr(other[name].encoding), name
        assert one[name].dtype == other[name].dtype, name
    assert set(one.attrs) == set(other.attrs)
    assert one.odc.geobox == other.odc.geobox


def test_a_group_comes_back_bit_equal_to_the_cogs(series, pair):
    cogs, group = (open_cube(pair[0] / form, chunks=None) for form in ("cogs", "zarr"))
    assert_same(cogs, group)
    assert group.B02.dtype == np.float32
    assert group.scl.dtype == group.synthetic.dtype == np.uint8
    assert np.isnan(group.B02.values[1, 5:9, 3:8]).all()
    for name in ("B02", "B11"):
        assert np.array_equal(stored(group, name), stored(series, name))
    assert group.B02.attrs["common_name"] == "blue"
    assert group.platform.values.tolist() == ["sentinel-2a", "sentinel-2b", ""]
    assert group.cloud_cover.values[[0, 2]].tolist() == [10.0, 30.0]
    assert np.isnan(group.cloud_cover.values[1])


def test_the_items_and_the_provenance_are_told(pair):
    folder, item = pair
    back, cogs = open_cube(folder / "zarr"), open_cube(folder / "cogs")
    assert back.item_id.values.tolist() == [item.id] * 3
    assert back.item_href.values.tolist() == [item.get_self_href()] * 3
    told = of(back)
    assert (told.operation, told.token, told.parameters) == (
        "extend", provenance().token, {"times": ["2020-06-11"]},
    )  # fmt: skip
    assert told.sources == ({"id": item.id, "href": item.get_self_href()},)
    same = ("generator", "seed", "software", "residual", "cpu_capability", "digital_source_type")
    assert all(getattr(told, name) == getattr(of(cogs), name) for name in same)


def test_reading_is_lazy_in_chunks_and_survives_pickling(pair):
    root = pair[0] / "zarr"
    lazy = open_cube(root, chunks={"y": 32, "x": 20})
    assert lazy.B02.chunks == ((1, 1, 1), (32, 32), (20, 20, 20, 4))
    xr.testing.assert_identical(pickle.loads(pickle.dumps(lazy)).compute(), open_cube(root, chunks=None))


@pytest.mark.parametrize(
    "how",
    [
        {"bands": ["blue", "scl"]},
        {"datetime": "2020-06-02/.."},
        {"bbox": (15.0005, 45.148, 15.004, 45.1505)},
        {"resolution": 7, "bands": "B02", "chunks": {"x": 30}},
        {"resolution": 5, "bands": ["B02", "scl"]},
        {"groupby": "id"},
        {"groupby": "time"},
    ],
    ids=lambda how: "-".join(how),
)
def test_every_selection_gives_what_the_cogs_give(pair, how):
    assert_same(*(open_cube(pair[0] / form, **how).compute() for form in ("cogs", "zarr")))


@pytest.mark.sweep
@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "lanczos", "average"])
@pytest.mark.parametrize("resolution", [6, 31])
def test_another_grid_gives_what_the_cogs_give_and_no_pixel_depends_on_chunks(pair, resampling, resolution):
    where = {"bands": "B02", "datetime": "2020-06-06", "crs": "EPSG:3857", "resolution": resolution}
    how = {**where, "resampling": resampling}
    cogs, group = (open_cube(pair[0] / form, **how, chunks=None).B02 for form in ("cogs", "zarr"))
    # Of files, GDAL chooses kernel and places by the window; so only nearly the same.
    assert np.allclose(cogs, group, atol=0 if resampling == "nearest" else 0.02, equal_nan=True)
    chunked = open_cube(pair[0] / "zarr", **how, chunks={"y": 330 // resolution, "x": 200 // resolution}).B02
    assert np.array_equal(chunked, group, equal_nan=True)


@pytest.mark.parametrize(
    "geobox",
    [
        GeoBox((20, 30), Affine(1e-4, 0, 13.1, 0, -1e-4, 48.2), "EPSG:4326"),
        GeoBox(
            (20, 30), Affine.translation(5e5, 5e6) @ Affine.rotation(25) @ Affine.scale(10, -10), "EPSG:32633"
        ),
        GeoBox(
            (20, 30), Affine(100, 0, 0, 0, -100, 0), "+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84 +units=m"
        ),
        GeoBox((1, 30), Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32633"),
        GeoBox((20, 30), Affine(10 / 3, 0, 500000.1, 0, -10 / 3, 5000000.7), "EPSG:32633"),
    ],
    ids=["degrees", "rotated", "custom", "one-row", "thirds"],
)
def test_every_kind_of_grid_comes_back(geobox, tmp_path):
    both(made_cube(geobox, times=2), tmp_path)
    assert_same(open_cube(tmp_path / "cogs", chunks=None), open_cube(tmp_path / "zarr", chunks=None))


@pytest.mark.parametrize("format", ["cog", "zarr"])
def test_an_ensemble_comes_back_with_its_members(tmp_path, format):  # noqa: A002
    one = made_cube(grid(), times=2)
    ds = xr.concat(
        [one, one + np.float32(0.1), one * 2], dim=xr.DataArray([3, 5, 8], dims="member", name="member")
    )
    ds.B02.encoding = one.B02.encoding
    items = write(generated(ds, operation="synthesize"), tmp_path, format=format)
    back = open_cube(tmp_path)
    assert back.B02.dims == ("member", "time", "y", "x")
    assert back.member.values.tolist() == [3, 5, 8]
    assert np.array_equal(stored(back), stored(ds))
    assert set(";".join(back.item_id.values).split(";")) == {item.id for item in items}
    if format == "cog":
        assert open_cube(tmp_path, query={"eoaug:member": 5}).member.values.tolist() == [5]
        with pytest.raises(SourceError, match="members 3 and 5 have different dates"):
            open_cube(tmp_path, ids=[items[0].id, items[4].id])
        write(one, tmp_path, collection="eoaug", ids=["plain", "plain2"])
        with pytest.raises(ParameterError, match="'plain'"):
            open_cube(tmp_path)


def test_groups_of_two_times_and_two_zones(tmp_path):
    early, far = made_cube(grid(), times=2), made_cube(grid(epsg=32634))
    late = early.assign_coords(time=early.time + np.timedelta64(60, "D"))
    for name, ds in {"late": late, "early": early}.items():
        write(ds, tmp_path, format="zarr", collection="c", ids=[name])
    back = open_cube(tmp_path)
    assert back.item_id.values.tolist() == ["early", "early", "late", "late"]
    assert np.array_equal(stored(back)[:2], stored(early))
    write(far, tmp_path, format="zarr", collection="c", ids=["far"])
    assert set(open_cube(tmp_path).children) == {"epsg32633_10", "epsg32634_10"}


def test_what_was_read_can_be_written_again(series, tmp_path):
    write(series, tmp_path / "a", format="zarr", ids=["whole"])
    back = open_cube(tmp_path / "a")
    items = write(back, tmp_path / "b")
    assert [item.id for item in items] == [
        f"whole-{date}T100000-extend-01234567" for date in ("20200601", "20200606", "20200611")
    ]
    hrefs = {link.get_absolute_href() for link in items[0].links if link.rel == "derived_from"}
    assert hrefs == {str(tmp_path / "a" / "eoaug" / "whole" / "whole.json")}
    assert_same(open_cube(tmp_path / "b", chunks=None), open_cube(tmp_path / "a", chunks=None))


def test_groups_and_files_are_not_laid_over_each_other(series, tmp_path):
    cogs = write(series, tmp_path, collection="c")
    (group,) = write(series, tmp_path, collection="c", format="zarr")
    with pytest.raises(ParameterError, match="Zarr") as caught:
        open_cube(tmp_path)
    assert f"ids={[group.id]!r}" in caught.value.remedy
    assert repr(cogs[0].id) in caught.value.remedy
    assert open_cube(tmp_path, ids=[group.id]).sizes["time"] == 3


def edited(root, change):
    """The catalog with its one item changed."""
    (path,) = [p for p in root.rglob("*.json") if p.parent.name == p.stem]
    item = json.loads(path.read_text())
    change(item, path)
    path.write_text(json.dumps(item))
    return root


def test_every_wrong_group_names_culprit_and_remedy(tmp_path):
    ds = made_cube(grid(), times=2)

    def fresh(name, change):
        write(ds, tmp_path / name, format="zarr", ids=["g"])
        return edited(tmp_path / name, change)

    def there(path):
        return next(path.parent.glob("*/g.zarr"))

    def lose(item, path):
        shutil.rmtree(there(path))

    def empty(item, path):
        group = there(path)
        shutil.rmtree(group)
        group.mkdir()
        told_anew(group)

    def foreign(item, path):
        group = there(path)
        shutil.rmtree(group)
        xr.Dataset({"B02": (("y", "x"), np.zeros((32, 32), np.uint16))}).to_zarr(group)
        told_anew(group)

    def other_array(item, path):
        item["assets"]["data"]["bands"][0]["name"] = "B99"

    def other_shape(item, path):
        item["assets"]["data"]["proj:shape"] = [16, 16]

    def untold(item, path):
        del item["assets"]["data"]["bands"][0]["data_type"]

    def damaged(item, path):
        for chunk in (there(path) / "B02" / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"x")
        told_anew(there(path))

    def one_chunk_less(item, path):
        next(p for p in (there(path) / "B02" / "c").rglob("*") if p.is_file()).unlink()

    def torn_chunk(item, path):
        chunk = next(p for p in (there(path) / "B02" / "c").rglob("*") if p.is_file())
        chunk.write_bytes(chunk.read_bytes()[:-1])

    def no_manifest(item, path):
        there(path).with_name(MANIFEST).unlink()

    def strange_manifest(item, path):
        write_json(there(path).with_name(MANIFEST), with_checksum({"files": [1]}))

    cases = {
        "lost": (lambda: open_cube(fresh("a", lose)), SourceError, "g.zarr"),
        "empty": (lambda: open_cube(fresh("b", empty)), SourceError, "xr.open_zarr"),
        "foreign": (lambda: open_cube(fresh("c", foreign)), SourceError, "time"),
        "array": (lambda: open_cube(fresh("d", other_array)), SourceError, "'B99'"),
        "shape": (lambda: open_cube(fresh("e", other_shape)), SourceError, "'B02'"),
        "type": (lambda: open_cube(fresh("f", untold)), SourceError, "data_type"),
        "damaged": (lambda: open_cube(fresh("g", damaged)).compute(), SourceError, "'g'"),
        # R4: what Zarr would read as missing pixels.
        "one chunk less": (lambda: open_cube(fresh("j", one_chunk_less)), SourceError, "'g.zarr/B02/c/0/0/0' is not there"),
        "torn chunk": (lambda: open_cube(fresh("k", torn_chunk)), SourceError, "bytes instead of"),
        "no manifest": (lambda: open_cube(fresh("l", no_manifest)), SourceError, "'manifest.json' is not there"),
        "strange manifest": (lambda: open_cube(fresh("m", strange_manifest)), SourceError, "'g'"),
        "band": (lambda: open_cube(fresh("h", lambda *_: None), bands="B03"), BandError, "B03"),
        "date": (lambda: open_cube(fresh("i", lambda *_: None), datetime="2020-06-03"), SourceError, "2020-06-03"),
    }  # fmt: skip
    assert_named(cases)


def test_a_real_patch_makes_the_round_trip(cube, tmp_path):
    result = augmented(cube)
    both(result, tmp_path)
    cogs, group = open_cube(tmp_path / "cogs", chunks=None), open_cube(tmp_path / "zarr", chunks=None)
    assert_same(cogs, group)
    assert ATTRIBUTE in group.attrs
