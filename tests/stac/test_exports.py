"""Exports: every image once, masks and polygons that give the label back exactly, items that are valid offline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pystac
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import eoaug
from eoaug.augmentation.training_set import training_set
from eoaug.cli.app import app
from eoaug.errors import EoaugError
from eoaug.exports.regions import regions
from tests.test_training_sets import picture, raster

RNG = np.random.default_rng(8)


@pytest.fixture
def classes(tmp_path):
    for name in ("Forest", "River"):
        for number in range(2):
            picture(tmp_path / "chips" / name / f"{name}_{number}.png")
    return training_set(tmp_path / "chips", split={"Forest_0": "train", "River_0": "train", "River_1": "val"})


@pytest.fixture
def pixels(tmp_path):
    for number in range(2):
        raster(
            tmp_path / "set/images" / f"{number}.tif",
            RNG.integers(1, 9999, (2, 12, 16)).astype("uint16"),
            names=("B03", "B08"),
        )
        raster(tmp_path / "set/masks" / f"{number}.tif", RNG.integers(0, 3, (1, 12, 16)).astype("uint8"))
    return training_set(
        tmp_path / "set", task="pixels", split="train", scale=1e-4, classes=["field", "wood", "water"]
    )


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("class_folders", [True, False])
def test_an_imagefolder_has_every_image_with_its_class(classes, tmp_path, class_folders):
    out = eoaug.export(classes, tmp_path / "out", format="imagefolder", class_folders=class_folders)
    found = {folder: rows(out / folder / "metadata.jsonl") for folder in ("train", "validation", "all")}
    assert {folder: [row["id"] for row in there] for folder, there in found.items()} == {
        "train": ["Forest_0", "River_0"], "validation": ["River_1"], "all": ["Forest_1"],
    }  # fmt: skip
    for item in classes:
        folder = {"train": "train", "validate": "validation", "": "all"}[item.split]
        row = next(row for row in found[folder] if row["id"] == item.id)
        assert row["label"] == item.label
        assert row["synthetic_fraction"] == 0
        assert ("/" in row["file_name"]) == class_folders
        assert np.array_equal(
            np.asarray(Image.open(out / folder / row["file_name"])), np.asarray(Image.open(item.href))
        )
    assert len(list(out.rglob("*.png"))) == 4
    if class_folders:  # it can be read again
        assert training_set(out / "train").counts == {"Forest": 1, "River": 1}


def test_geotiffs_keep_numbers_scale_and_place(pixels, tmp_path):
    import rasterio

    out = eoaug.export(pixels, tmp_path / "out", format="imagefolder", image="tif")
    for item, row in zip(pixels, rows(out / "train/metadata.jsonl"), strict=True):
        cube = item.open()
        with rasterio.open(out / "train" / row["file_name"]) as file:
            assert np.array_equal(file.read(), cube[["B03", "B08"]].to_dataarray())
            assert file.descriptions == ("B03", "B08")
            assert file.scales == (1e-4, 1e-4)
            assert file.transform == cube.odc.geobox.affine
            assert file.crs.to_epsg() == 32633
        with rasterio.open(out / "train" / row["mask_file_name"]) as file:
            assert np.array_equal(file.read(1), cube.masks)
        assert round(row["longitude"]) == 14


def test_what_is_synthetic_is_written_with_the_image(tmp_path):
    from eoaug.testing import scene

    ds = scene((16, 16), dates=1)
    made = ds.assign_coords(item_properties=("time", ['{"class": "wood"}'])).eoaug.corrupt("haze", 3, seed=1)
    eoaug.write(made, tmp_path / "catalog")
    out = eoaug.export(tmp_path / "catalog", tmp_path / "out", format="imagefolder", split="train")
    row = rows(out / "train/metadata.jsonl")[0]
    assert row["synthetic_fraction"] == 1
    text = Image.open(out / "train" / row["file_name"]).text
    assert (
        (text["eoaug:operation"], text["eoaug:generator"])
        == (row["operation"], row["generator"])
        == ("corrupt", "haze")
    )


def exact(rings, shape):
    """Fill rings of whole numbers by the parity of the edges left of a pixel's centre."""
    filled = np.zeros(shape, int)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    for ring in rings:
        points = np.array(ring).reshape(-1, 2)
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            if x0 == x1:
                filled += (x > x0) & (y > min(y0, y1)) & (y < max(y0, y1))
    return filled % 2 == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 14), st.integers(2, 14))
def test_polygons_cover_exactly_their_pixels(seed, height, width):
    rng = np.random.default_rng(seed)
    numbers = rng.choice(4, (height, width), p=[0.55, 0.3, 0.1, 0.05]).astype(np.int64)
    numbers[numbers == 3] = 255
    found = np.full(numbers.shape, 255)
    for region in regions(numbers):
        covered = exact(region.rings, numbers.shape)
        assert covered.sum() == region.polygon.area
        assert (found[covered] == 255).all()
        found[covered] = region.number
    assert np.array_equal(found, numbers)


def test_coco_is_what_pycocotools_reads(pixels, tmp_path):
    coco_module = pytest.importorskip("pycocotools.coco")
    out = eoaug.export(pixels, tmp_path / "out", format="coco", background="field")
    coco = coco_module.COCO(str(out / "annotations/instances_train.json"))
    assert [entry["name"] for entry in coco.loadCats(coco.getCatIds())] == ["wood", "water"]
    for item, image in zip(pixels, coco.loadImgs(coco.getImgIds()), strict=True):
        cube, found = item.open(), np.zeros((12, 16), int)
        assert Image.open(out / "train" / image["file_name"]).size == (16, 12)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            found[coco.annToMask(annotation) == 1] = annotation["category_id"] - 1
            left, top, width, height = annotation["bbox"]
            inside = found[int(top) : int(top + height), int(left) : int(left + width)]
            assert (inside == annotation["category_id"] - 1).any()
            points = np.array(annotation["geometry"]["coordinates"][0])
            assert np.allclose(points, item.place, atol=0.01)
        assert np.array_equal(found, cube.masks.values)


@pytest.mark.parametrize("name", ["regions.geojson", "regions.parquet"])
def test_polygons_give_the_label_raster_back(pixels, tmp_path, name):
    """From degrees back to the grid of the image; other tools read the files."""
    from rasterio.features import rasterize
    from shapely.geometry import mapping

    geopandas = pytest.importorskip("geopandas")
    out = eoaug.export(pixels, tmp_path / name, format="polygons", background="field")
    table = geopandas.read_parquet(out) if name.endswith("parquet") else geopandas.read_file(out)
    assert table.crs.to_epsg() in (4326, None) or "CRS84" in str(table.crs)
    assert set(table["class"]) == {"wood", "water"}
    assert set(table["split"]) == {"train"}
    for item in pixels:
        cube = item.open()
        own = table[table["item"] == item.id].to_crs(cube.odc.crs.to_wkt())
        codes = own["class"].map({"wood": 1, "water": 2})
        found = rasterize(
            [(mapping(shape), code) for shape, code in zip(own.geometry, codes, strict=True)],
            out_shape=(12, 16),
            transform=cube.odc.geobox.affine,
        )
        assert np.array_equal(found, np.where(cube.masks.values > 0, cube.masks.values, 0))
        pixel_m2 = abs(np.linalg.det(np.array(cube.odc.geobox.affine).reshape(3, 3)[:2, :2]))
        assert own["area_m2"].sum() == pytest.approx(pixel_m2 * (found > 0).sum(), rel=0.01)


def test_polygons_that_lie_nowhere_and_unknown_forms_are_refused(pixels, classes, tmp_path):
    picture(tmp_path / "flat/images/1.png")
    picture(tmp_path / "flat/masks/1.png", values=RNG.integers(0, 2, (8, 8, 1)).astype("uint8"))
    for train, name, match in (
        (pixels, "regions.shp", r"end its name with \.geojson or \.parquet"),
        (classes, "regions.geojson", "a class of the whole image"),
        (
            training_set(tmp_path / "flat", task="pixels", split="train"),
            "r.geojson",
            "'1' has no coordinate reference system",
        ),
    ):
        with pytest.raises(EoaugError, match=match):
            eoaug.export(train, tmp_path / name, format="polygons")
        assert not (tmp_path / name).exists()


def test_the_first_class_of_change_is_no_annotation(tmp_path):
    for folder in ("A", "B", "label"):
        picture(
            tmp_path / "set" / folder / "1.png",
            values=RNG.integers(0, 2, (8, 8, 1 if folder == "label" else 3)).astype("uint8"),
        )
    train = training_set(tmp_path / "set", task="change", split="train")
    out = eoaug.export(train, tmp_path / "out", format="coco")
    document = json.loads((out / "annotations/instances_train.json").read_text())
    assert {entry["category_id"] for entry in document["annotations"]} == {2}
    assert all(
        (out / "train" / document["images"][0][key]).exists() for key in ("file_name", "before_file_name")
    )


@pytest.mark.parametrize("kind", ["classes", "pixels"])
def test_label_items_are_valid_offline(kind, request, tmp_path, validate):
    train = request.getfixturevalue(kind)
    with pytest.raises(EoaugError, match="has no date"):
        eoaug.export(train, tmp_path / "out", format="label-items")
    assert not (tmp_path / "out").exists()
    out = eoaug.export(train, tmp_path / "out", format="label-items", datetime="2016/2017")
    collection = pystac.Collection.from_file(str(out / "collection.json"))
    items = list(collection.get_items())
    assert [item.id for item in items] == [item.id for item in train]
    for item, source in zip(items, train, strict=True):
        item.validate()  # with the schemas that the fixture has loaded
        assert item.get_single_link("source").get_absolute_href() == source.href
        asset = item.assets["labels"]
        if kind == "classes":
            content = json.loads(Path(asset.get_absolute_href()).read_text())
            assert content["features"][0]["properties"] == {"class": source.label}
        else:
            assert [entry["name"] for entry in asset.extra_fields["classification:classes"]] == list(
                train.classes
            )
            assert item.bbox[0] < source.place[0] < item.bbox[2]
    collection.validate()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_geoparquet_gives_the_items_back(pixels, tmp_path):
    arrow = pytest.importorskip("stac_geoparquet.arrow")
    import pyarrow.parquet as parquet

    out = eoaug.export(pixels, tmp_path / "out.parquet", format="geoparquet", datetime="2016/2017")
    items = list(arrow.stac_table_to_items(parquet.read_table(out)))
    assert [item["id"] for item in items] == [item.id for item in pixels]
    assert items[0]["properties"]["label:type"] == "raster"
    catalog = eoaug.export(
        eoaug.training_set(catalog_of(tmp_path), split="train"), tmp_path / "own.parquet", format="geoparquet"
    )
    own = list(arrow.stac_table_to_items(parquet.read_table(catalog)))
    assert own[0]["properties"]["class"] == "wood"
    assert all(asset["href"].startswith("/") for asset in own[0]["assets"].values())


def catalog_of(tmp_path):
    from eoaug.testing import scene

    ds = scene((8, 8), dates=1)
    eoaug.write(ds.assign_coords(item_properties=("time", ['{"class": "wood"}'])), tmp_path / "own")
    return tmp_path / "own"


def test_the_command_writes_and_refuses_in_two_lines(classes, tmp_path):
    folder = str(tmp_path / "chips")
    done = CliRunner().invoke(
        app, ["export", folder, str(tmp_path / "a"), "--format", "imagefolder", "--flat", "--split", "train"]
    )
    assert done.exit_code == 0, done.output
    assert len(rows(tmp_path / "a/train/metadata.jsonl")) == 4
    for options, word in (
        (["--format", "cocoa"], "coco"),
        (["--format", "coco"], "imagefolder"),
        (["--format", "imagefolder", "--image", "gif"], "png"),
    ):
        done = CliRunner().invoke(app, ["export", folder, str(tmp_path / "b"), *options])
        assert done.exit_code == 2
        assert word in done.stderr
        assert len(done.stderr.splitlines()) == 2
    assert not (tmp_path / "b").exists()
    again = CliRunner().invoke(app, ["export", folder, str(tmp_path / "a"), "--format", "imagefolder"])
    assert "already exists" in again.stderr
