from __future__ import annotations

import hashlib
import json
import os
import stat

import dask.array as da
import numpy as np
import odc.stac
import pystac
import pytest
import rasterio
import rioxarray
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rio_cogeo import cog_validate

from eoaug.cube.provenance import ATTRIBUTE, TRAINED, Provenance, of, stamp
from eoaug.errors import (
    EoaugError,
    GridError,
    ParameterError,
    RadiometryError,
    SourceError,
    TargetError,
    TimeError,
)
from eoaug.formats import cog
from eoaug.formats.packing import store_form
from eoaug.raster.grid import gsd_m
from eoaug.stac.footprint import footprint
from eoaug.stac.open import open_cube
from eoaug.stac.publish import write

from .conftest import PATCH, SAMPLE, assert_named, augmented, generated, grid, made_cube, provenance

BANDS = ["B02", "B04", "B08", "B11"]


@pytest.fixture(scope="module")
def result(cube):
    return augmented(cube)


@pytest.fixture(scope="module")
def cogs(result, tmp_path_factory):
    root = tmp_path_factory.mktemp("cogs")
    return root, write(result, root)


@pytest.fixture(scope="module")
def group(result, tmp_path_factory):
    root = tmp_path_factory.mktemp("zarr")
    return root, write(result, root, format="zarr")


def stored(ds: xr.Dataset, name: str) -> np.ndarray:
    return store_form(ds[name]).pack(ds[name].values)


def same_grid(one, other) -> bool:
    return np.allclose(tuple(one)[:6], tuple(other)[:6], rtol=0, atol=1e-9)


# ----------------------------------------------------------------------------------------- round trip


def test_odc_reads_the_cogs_back(result, cogs):
    back = odc.stac.load(cogs[1])
    assert same_grid(back.odc.geobox.affine, result.odc.geobox.affine)
    for name in BANDS:
        assert back[name].dtype == np.uint16
        assert np.array_equal(back[name].values, stored(result, name))


def test_rioxarray_and_gdal_read_every_cog(result, cogs):
    (item,) = cogs[1]
    assert set(item.assets) == {*BANDS, "synthetic", "thumbnail"}
    for name, asset in item.assets.items():
        if name == "thumbnail":
            continue
        path = asset.get_absolute_href()
        opened = rioxarray.open_rasterio(path)
        assert opened.rio.crs.to_epsg() == 32633
        assert same_grid(opened.rio.transform(), result.odc.geobox.affine)
        assert np.array_equal(opened.values[0], stored(result, name)[0])
        assert cog_validate(path, strict=True)[0]
        with rasterio.open(path) as file:
            assert file.descriptions == (name,)
            assert file.tags()["EOAUG_SYNTHETIC"] == "true"
            assert "digitalsourcetype" in file.tags()["DigitalSourceType"]
            if name != "synthetic":
                assert (file.scales, file.offsets, file.nodata) == ((1e-4,), (0.0,), 0)


def test_measured_pixels_equal_the_source_file(cogs):
    (item,) = cogs[1]
    with rasterio.open(SAMPLE / "sentinel-2-l2a" / PATCH / "B04.tif") as file:
        source = file.read(1)
    with rasterio.open(item.assets["B04"].get_absolute_href()) as file:
        written = file.read(1)
    with rasterio.open(item.assets["synthetic"].get_absolute_href()) as file:
        mask = file.read(1)
    assert np.array_equal(source[mask == 0], written[mask == 0])
    assert (written[mask == 1] == 1234).all()


def test_our_own_reader_closes_the_circle(result, cogs):
    back = open_cube(cogs[0])
    for name in BANDS:
        assert np.array_equal(
            back[name].values, result[name].values.round(4).astype(np.float32)
        ) or np.allclose(back[name], result[name], atol=5e-5)
    assert np.array_equal(back.synthetic.values, result.synthetic.values)
    assert of(back).operation == "inpaint"
    assert of(back).token == provenance().token


def test_every_reader_sees_the_grid_of_each_zarr_array(result, group):
    path = group[1][0].assets["data"].get_absolute_href()
    with xr.open_zarr(path) as back:
        for name in BANDS:
            assert np.allclose(back[name], result[name], atol=1e-6)
            assert same_grid(back[name].odc.geobox.affine, result.odc.geobox.affine)
            assert back[name].rio.crs.to_epsg() == 32633
            assert back[name].attrs["proj:code"] == "EPSG:32633"
            assert same_grid(back[name].attrs["spatial:transform"], result.odc.geobox.affine)
        assert back.attrs["proj:wkt2"].startswith("PROJCRS")
        assert {c["uuid"][:8] for c in back.attrs["zarr_conventions"]} == {"f17cb550", "689b58e2"}
        assert np.array_equal(back.synthetic, result.synthetic)
        assert of(back).generator == "classical"
        assert back.attrs["EOAUG_SYNTHETIC"] == "true"
    for name in [*BANDS, "synthetic"]:
        with rasterio.open(f'ZARR:"{path}":/{name}') as file:
            assert file.crs.to_epsg() == 32633
            assert same_grid(file.transform, result.odc.geobox.affine)
            assert np.array_equal(file.read(1), stored(result, name)[0])


# -------------------------------------------------------------------------------------------- metadata


def test_everything_validates_without_network(validate, cogs, group):
    assert validate(cogs[0] / "catalog.json") == 1
    assert validate(group[0] / "catalog.json") == 1


def test_the_item_tells_grid_bands_checksums_and_marks(result, cogs):
    (item,) = cogs[1]
    told = item.properties
    assert item.collection_id == "sentinel-2-l2a-eoaug"
    assert item.datetime.isoformat() == "2017-06-13T10:10:31+00:00"
    assert told["proj:code"] == "EPSG:32633"
    assert same_grid(told["proj:transform"], result.odc.geobox.affine)
    assert told["proj:shape"] == [120, 120]
    assert told["gsd"] == 10.0
    assert told["platform"] == "sentinel-2a"
    assert told["processing:level"] == "L4"
    assert told["eoaug:synthetic"] is True
    assert told["eoaug:synthetic_fraction"] == pytest.approx(30 * 40 / 120**2)
    assert told["eoaug:mask"] == "synthetic"
    assert item.assets["synthetic"].roles == ["synthetic-mask"]
    fields = item.assets["B04"].extra_fields
    assert fields["bands"] == [{"name": "B04", "eo:common_name": "red", "eo:center_wavelength": 0.6646}]
    assert (fields["data_type"], fields["nodata"], fields["raster:scale"]) == ("uint16", 0, 1e-4)
    for asset in item.assets.values():
        with open(asset.get_absolute_href(), "rb") as file:
            content = file.read()
        assert asset.extra_fields["file:size"] == len(content)
        assert asset.extra_fields["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
    (source,) = [link for link in item.links if link.rel == "derived_from"]
    assert pystac.Item.from_file(source.get_absolute_href()).id == PATCH


def test_no_document_holds_a_path_of_this_machine_or_a_secret(cube, tmp_path):
    ds = augmented(cube)
    ds = ds.assign_coords(item_href=("time", ["https://user:pw@host.org/items/a.json?sig=secret"]))
    prov = provenance(sources=({"id": "a", "href": "s3://key:word@bucket/a.json?token=secret#x"},))
    write(stamp(ds, prov), tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for word in (b"secret", b"pw@", b"word@", str(tmp_path).encode(), str(SAMPLE).encode()):
                assert word not in content, (path, word)
    (item,) = pystac.Catalog.from_file(str(tmp_path / "out" / "catalog.json")).get_items(recursive=True)
    hrefs = {link.href for link in item.links if link.rel == "derived_from"}
    assert hrefs == {"https://host.org/items/a.json", "s3://bucket/a.json"}


def test_measured_data_carry_no_marks(cube, validate, tmp_path):
    (item,) = write(cube, tmp_path)
    assert item.id == PATCH
    assert not [key for key in item.properties if key.startswith(("eoaug:", "processing:"))]
    assert validate(tmp_path / "catalog.json") == 1
    with rasterio.open(item.assets["B02"].get_absolute_href()) as file:
        assert "EOAUG_SYNTHETIC" not in file.tags()


def test_a_date_without_generated_pixels_says_so(tmp_path):
    ds = made_cube(grid(), times=2)
    mask = np.zeros((2, 32, 32), np.uint8)
    mask[1], mask[1, 0] = 1, 255
    ds = stamp(ds.assign(synthetic=(("time", "y", "x"), mask)), provenance(operation="extend"))
    given, new = write(ds, tmp_path)
    assert (given.properties["eoaug:synthetic"], new.properties["eoaug:synthetic"]) == (False, True)
    assert new.properties["eoaug:synthetic_fraction"] == 1.0
    assert "eoaug:digital_source_type" not in given.properties


def test_members_become_items(validate, tmp_path):
    one = made_cube(grid(), times=2)
    ds = xr.concat([one, one + np.float32(0.1)], dim="member")
    ds.B02.encoding = one.B02.encoding
    ds = generated(ds, operation="synthesize", digital_source_type=TRAINED)
    items = write(ds, tmp_path)
    assert len({item.id for item in items}) == 4
    assert [item.properties["eoaug:member"] for item in items] == [0, 1, 0, 1]
    assert validate(tmp_path / "catalog.json") == 4
    with rasterio.open(items[1].assets["B02"].get_absolute_href()) as file:
        assert np.array_equal(file.read(1), stored(ds, "B02")[1, 0])
    write(ds, tmp_path / "z", format="zarr")
    assert validate(tmp_path / "z" / "catalog.json") == 1


# ----------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize(
    "geobox",
    [
        GeoBox((20, 30), Affine(1e-4, 0, 13.1, 0, -1e-4, 48.2), "EPSG:4326"),
        GeoBox(
            (20, 30), Affine.translation(5e5, 5e6) * Affine.rotation(25) * Affine.scale(10, -10), "EPSG:32633"
        ),
        GeoBox(
            (20, 30), Affine(100, 0, 0, 0, -100, 0), "+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84 +units=m"
        ),
        GeoBox((20, 40), Affine(100, 0, 164000, 0, -100, 1000), "EPSG:32601"),
        GeoBox((20, 30), Affine(10 / 3, 0, 500000.1, 0, -10 / 3, 5000000.7), "EPSG:32633"),
    ],
    ids=["degrees", "rotated", "custom", "antimeridian", "thirds"],
)
def test_every_kind_of_grid_survives(geobox, validate, tmp_path):
    ds = made_cube(geobox)
    (item,) = write(ds, tmp_path)
    (zarr_item,) = write(ds, tmp_path, format="zarr", ids=["z"])
    assert validate(tmp_path / "catalog.json") == 2
    with rasterio.open(item.assets["B02"].get_absolute_href()) as file:
        assert same_grid(file.transform, geobox.affine)
        assert np.array_equal(file.read(1), stored(ds, "B02")[0])
    back = open_cube(item)
    assert same_grid(back.odc.geobox.affine, geobox.affine)
    assert back.odc.geobox.crs.proj.equals(geobox.crs.proj, ignore_axis_order=True)
    with xr.open_zarr(zarr_item.assets["data"].get_absolute_href()) as group:
        assert same_grid(group.B02.odc.geobox.affine, geobox.affine)


def test_footprints():
    _, plain = footprint(grid())
    assert plain[0] < plain[2]
    shape, crossing = footprint(GeoBox((20, 40), Affine(100, 0, 164000, 0, -100, 1000), "EPSG:32601"))
    assert shape["type"] == "MultiPolygon"
    assert crossing[0] > 179 > -179 > crossing[2]
    _, pole = footprint(GeoBox((20, 20), Affine(1e5, 0, -1e6, 0, -1e5, 1e6), "EPSG:3413"))
    assert (pole[0], pole[2], pole[3]) == (-180.0, 180.0, 90.0)
    _, world = footprint(GeoBox((18, 36), Affine(10, 0, -180, 0, -10, 90), "EPSG:4326"))
    assert world == [-180.0, -90.0, 180.0, 90.0]


@pytest.mark.parametrize(
    ("crs", "affine", "metres"),
    [
        ("EPSG:32633", Affine(10, 0, 5e5, 0, -10, 5e6), 10.0),
        ("EPSG:32633", Affine(10, 0, 5e5, 0, -20, 5e6), 14.142136),
        ("EPSG:4326", Affine(2.5e-4, 0, 13, 0, -2.5e-4, 48), 22.773),
    ],
)
def test_an_item_and_a_cube_have_the_pixel_size_that_generators_get(tmp_path, crs, affine, metres):
    geobox = GeoBox((2, 2), affine, crs)
    (item,) = write(made_cube(geobox), tmp_path)
    assert item.properties["gsd"] == metres == pytest.approx(gsd_m(geobox), abs=5e-4)
    assert open_cube(item).gsd.values.tolist() == [pytest.approx(gsd_m(geobox))]


# ----------------------------------------------------------------------------------- lazy, whole, once


def test_lazy_chunked_and_eager_cubes_give_equal_bytes_and_compute_once(tmp_path):
    box = GeoBox((70, 90), Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32633")
    eager = made_cube(box, times=3, names=("B02", "B03"))
    calls = []

    def counted(block):
        calls.append(block.shape)
        return block

    lazy = eager.copy()
    for name in eager.data_vars:
        chunked = da.from_array(eager[name].values, chunks=(3, 32, 40))
        lazy[name] = (
            eager[name].dims,
            chunked.map_blocks(counted, dtype="f4", meta=np.empty((0, 0, 0), "f4")),
        )
        lazy[name].encoding = eager[name].encoding
    one, two = write(eager, tmp_path / "a"), write(lazy, tmp_path / "b")
    assert len(calls) == 2 * 9
    for first, second in zip(one, two, strict=True):
        for name in first.assets:
            assert (
                first.assets[name].extra_fields["file:checksum"]
                == second.assets[name].extra_fields["file:checksum"]
            )
    write(lazy, tmp_path / "c", format="zarr", ids=["g"])
    write(eager, tmp_path / "d", format="zarr", ids=["g"])
    parts = {
        root: sorted(
            (p.relative_to(tmp_path / root), p.read_bytes())
            for p in (tmp_path / root).rglob("c/**/*")
            if p.is_file()
        )
        for root in ("c", "d")
    }
    assert parts["c"] == parts["d"]
    assert parts["c"]


def test_nothing_wraps(tmp_path):
    ds = made_cube(grid(size=4))
    ds.B02[0, 0] = [7.0, -0.5, np.nan, 0.00004]
    (item,) = write(ds, tmp_path)
    with rasterio.open(item.assets["B02"].get_absolute_href()) as file:
        assert file.read(1)[0].tolist() == [65535, 1, 0, 1]


# --------------------------------------------------------------------------------------------- safety


def left_behind(root):
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("format", ["cog", "zarr"])
def test_an_exception_while_computing_leaves_nothing(tmp_path, format):  # noqa: A002
    ds = made_cube(grid(size=64))

    def broken(block):
        raise SourceError("asset 'B02' of item 'x' cannot be read", "fetch it")

    chunked = da.from_array(ds.B02.values, chunks=(1, 32, 32)).map_blocks(
        broken, dtype="f4", meta=np.empty((0,) * 3, "f4")
    )
    with pytest.raises(SourceError, match="item 'x'"):
        write(ds.assign(B02=(ds.B02.dims, chunked)), tmp_path, format=format)
    assert not left_behind(tmp_path)


@pytest.mark.parametrize("at", [1, 2, 5])
def test_an_exception_between_files_leaves_whole_items_only(tmp_path, monkeypatch, validate, at):
    ds = made_cube(grid(), times=3, names=("B02", "B03"))
    close, calls = cog.CogFile.close, []

    def sometimes(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise OSError(28, "No space left on device")
        close(self, *args, **kwargs)

    monkeypatch.setattr(cog.CogFile, "close", sometimes)
    with pytest.raises(TargetError, match="No space left"):
        write(ds, tmp_path)
    whole = (at - 1) // 2
    assert len(list(tmp_path.rglob("*.tif"))) == 2 * whole
    assert len([p for p in left_behind(tmp_path) if p.name.startswith(".")]) == 0
    if whole:
        assert validate(tmp_path / "catalog.json") == whole
    monkeypatch.setattr(cog.CogFile, "close", close)
    assert len(write(ds, tmp_path, overwrite=True)) == 3
    assert validate(tmp_path / "catalog.json") == 3


def test_files_are_the_same_bytes_every_time(result, tmp_path):
    (one,), (two,) = write(result, tmp_path / "a"), write(result, tmp_path / "b")
    for name in one.assets:
        assert one.assets[name].extra_fields == two.assets[name].extra_fields


def test_overwriting_replaces_and_otherwise_refuses(cube, tmp_path):
    write(cube, tmp_path)
    with pytest.raises(TargetError, match=PATCH):
        write(cube, tmp_path)
    (item,) = write(cube.assign(B02=cube.B02 * 0 + np.float32(0.5)), tmp_path, overwrite=True)
    with rasterio.open(item.assets["B02"].get_absolute_href()) as file:
        assert file.read(1).min() != 0
    assert (
        json.loads((tmp_path / "sentinel-2-l2a-eoaug" / "collection.json").read_text())["links"][-1]["rel"]
        == "item"
    )


def test_writing_back_into_the_source_catalog_touches_nothing_foreign(result, validate, tmp_path):
    import shutil

    root = tmp_path / "catalog"
    shutil.copytree(SAMPLE, root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    items = write(result, root)
    changed = [path.name for path, content in before.items() if path.read_bytes() != content]
    assert changed == ["catalog.json"]
    assert validate(root / "catalog.json") == 13
    catalog = pystac.Catalog.from_file(str(root / "catalog.json"))
    assert {child.id for child in catalog.get_children()} == {
        "sentinel-1-grd", "sentinel-2-l2a", "sentinel-2-l2a-eoaug",
    }  # fmt: skip
    assert next(catalog.get_items(items[0].id, recursive=True)) is not None
    write(result, root / "sentinel-2-l2a", collection="below")
    assert (root / "sentinel-2-l2a" / "below" / "collection.json").is_file()
    assert validate(root / "catalog.json") == 14


def test_every_wrong_use_names_culprit_and_remedy(cube, result, tmp_path):
    plain = made_cube(grid())
    bare = xr.Dataset({"B02": (("time", "y", "x"), plain.B02.values)}, {"time": plain.time.values})
    (tmp_path / "file").write_text("x")
    (tmp_path / "item.json").write_text('{"type": "Feature"}')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "full" / "eoaug").mkdir(parents=True)
    (tmp_path / "full" / "eoaug" / "x.txt").write_text("mine")
    lost = result.drop_attrs(deep=False)
    complex_ = plain.assign(B02=plain.B02.astype(complex))
    cases = {
        "format": (lambda: write(plain, tmp_path / "a", format="png"), ParameterError, "'png'"),
        "no crs": (lambda: write(bare, tmp_path / "a"), GridError, "reference system"),
        "no time": (lambda: write(plain.isel(time=0, drop=True), tmp_path / "a"), TimeError, "time"),
        "no dates": (lambda: write(plain.isel(time=[]), tmp_path / "a"), TimeError, "date"),
        "time as number": (lambda: write(plain.assign_coords(time=[1]), tmp_path / "a"), TimeError, "int64"),
        "lost provenance": (lambda: write(lost, tmp_path / "a"), TargetError, "provenance"),
        "broken provenance": (
            lambda: write(plain.assign_attrs({ATTRIBUTE: "{"}), tmp_path / "a"), SourceError, ATTRIBUTE,
        ),
        "no bands": (lambda: write(plain.drop_vars("B02"), tmp_path / "a"), EoaugError, ""),
        "odd dimension": (lambda: write(plain.expand_dims(k=2), tmp_path / "a"), TargetError, "'k'"),
        "type": (lambda: write(complex_, tmp_path / "a"), RadiometryError, "complex"),
        "ids": (lambda: write(plain, tmp_path / "a", ids=["a", "b"]), ParameterError, "1 items"),
        "id with path": (lambda: write(plain, tmp_path / "a", ids=["../x"]), ParameterError, "../x"),
        "collection": (lambda: write(plain, tmp_path / "a", collection="../up"), ParameterError, "../up"),
        "place of models": (
            lambda: write(plain, tmp_path / "a", collection="generators"), ParameterError, "models",
        ),
        "a file": (lambda: write(plain, tmp_path / "file"), TargetError, "file"),
        "below a file": (lambda: write(plain, tmp_path / "file" / "b"), TargetError, "file"),
        "an item": (lambda: write(plain, tmp_path / "item.json"), TargetError, "Feature"),
        "broken": (lambda: write(plain, tmp_path / "broken.json"), TargetError, "broken.json"),
        "foreign folder": (lambda: write(plain, tmp_path / "full"), TargetError, "eoaug"),
        "a list": (lambda: write([plain], tmp_path / "a"), ParameterError, "list"),
    }  # fmt: skip
    assert_named(cases)
    assert not (tmp_path / "a").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_target_is_refused_before_anything_is_computed(cube, tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(TargetError, match="permission"):
            write(cube, tmp_path)
    finally:
        tmp_path.chmod(stat.S_IRWXU)


@pytest.mark.parametrize("kind", ["cog", "zarr"])
def test_a_tree_is_written_node_by_node(tmp_path, validate, kind):
    nodes = {"/a": made_cube(grid()), "/b": made_cube(grid(epsg=32634))}
    nodes = {name: ds.assign_coords(item_id=("time", [f"i{name[1:]}"])) for name, ds in nodes.items()}
    items = write(xr.DataTree.from_dict(nodes), tmp_path, format=kind)
    assert [item.id for item in items] == ["ia", "ib"]
    assert [item.properties["proj:code"] for item in items] == ["EPSG:32633", "EPSG:32634"]
    assert validate(tmp_path / "catalog.json") == 2


def test_arrays_and_masks_as_coordinates(tmp_path):
    ds = made_cube(grid(), names=("B02", "B03"))
    stacked = ds.to_dataarray(dim="band").transpose("time", "band", "y", "x")
    mask = xr.DataArray(np.ones((1, 32, 32), np.uint8), dims=("time", "y", "x"))
    marked = stamp(ds, provenance()).attrs
    (item,) = write(stacked.assign_coords(synthetic=mask).assign_attrs(marked), tmp_path)
    assert set(item.assets) == {"B02", "B03", "synthetic", "thumbnail"}
    assert item.properties["eoaug:synthetic_fraction"] == 1.0


def test_hostile_names_stay_inside(tmp_path):
    ds = made_cube(grid()).rename(B02="../../evil")
    ds = ds.assign_coords(item_id=("time", ["../../../etc/passwd"]))
    (item,) = write(ds, tmp_path / "out", collection="c")
    assert all((tmp_path / "out") in path.parents for path in tmp_path.rglob("*") if path.is_file())
    assert "/" not in item.id


# ----------------------------------------------------------------------------------------- provenance


def test_provenance_round_trip_and_secrets():
    prov = Provenance(
        operation="extend",
        generator="embedded",
        parameters={"times": ["2018-05-04"], "factor": 2},
        sources=(
            {"id": "a", "href": "https://me:pw@host/a.json?sig=1"},
            {"id": "b", "href": "/local/b.json"},
        ),
        residual={"B02": 1e-4},
    )
    ds = made_cube(grid()).assign_attrs(history="made")
    marked = stamp(ds, prov)
    assert of(marked) == Provenance.from_json(prov.to_json())
    assert all(isinstance(value, str) for value in marked.attrs.values())
    assert marked.attrs["eoaug_synthetic"] == "true"
    assert marked.attrs["history"].splitlines()[0] == "made"
    assert len(marked.attrs["history"].splitlines()) == 2
    assert ATTRIBUTE not in ds.attrs
    assert prov.sources[0]["href"] == "https://host/a.json"
    assert "local" not in prov.portable().to_json()
    assert of(ds) is None
    assert stamp(ds, prov).attrs == marked.attrs
    with pytest.raises(ParameterError, match="extend"):
        Provenance(operation="extend", generator="x", parameters={"a": float("nan")}).to_json()
