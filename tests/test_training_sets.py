"""Training sets: folders, catalogs and torchgeo's samples with the right pixels, labels, splits and places."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image

import eoaug
from eoaug.augmentation.places import split_by_place
from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.augmentation.training_set import training_set
from eoaug.cube.carried import properties_of
from eoaug.cube.roles import label_variables
from eoaug.errors import EoaugError
from eoaug.stac.images import ImageFile, cube_of
from eoaug.testing import scene

RNG = np.random.default_rng(3)


def picture(path: Path, *, mode="RGB", px=8, values=None) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (px, px, {"RGB": 3, "RGBA": 4, "LA": 2}.get(mode, 1))
    values = RNG.integers(0, 255, shape).astype("uint8") if values is None else values
    Image.fromarray(values.squeeze(), mode=None).save(path)
    return values


def raster(path: Path, values: np.ndarray, *, crs="EPSG:32633", at=(400000.0, 5000000.0), names=()) -> None:
    import rasterio

    path.parent.mkdir(parents=True, exist_ok=True)
    form = {"driver": "GTiff", "count": len(values), "dtype": values.dtype.name, "crs": crs}
    grid = Affine(10, 0, at[0], 0, -10, at[1])
    height, width = values.shape[1:]
    with rasterio.open(path, "w", **form, height=height, width=width, transform=grid) as file:
        file.write(values)
        for number, name in enumerate(names, 1):
            file.set_band_description(number, name)


# -- folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["", "NWPU-RESISC45", "UCMerced_LandUse/Images"])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_class_folders(tmp_path, inner, suffix):
    for name in ("beach", "dense residential"):
        for number in range(2):
            path = tmp_path / inner / name / f"{name.replace(' ', '')}{number}.{suffix}"
            if suffix == "tif":
                raster(path, RNG.integers(0, 255, (3, 8, 8)).astype("uint8"))
            else:
                picture(path)
    train = training_set(tmp_path, split="train")
    assert train.classes == ("beach", "dense residential")
    assert train.counts == {"beach": 2, "dense residential": 2}
    assert [item.id for item in train] == ["beach0", "beach1", "denseresidential0", "denseresidential1"]
    cube = train[2].open()
    assert list(cube.data_vars) == ["red", "green", "blue"]
    assert cube.red.attrs["scale_factor"] == pytest.approx(1 / 255)
    assert ("spatial_ref" in cube.coords) == (suffix == "tif")
    assert (train[2].place is None) == (suffix != "tif")
    assert properties_of(cube)["class"] == "dense residential"
    assert properties_of(cube)["ml-aoi:split"] == "train"
    again = pickle.loads(pickle.dumps(train))[2]
    assert again.identity == train[2].identity
    xr.testing.assert_identical(again.open(), cube)


def test_pixels_of_pictures_are_theirs_and_alpha_is_left_out(tmp_path):
    for mode in ("RGB", "RGBA"):
        values = picture(tmp_path / f"{mode}.png", mode=mode)
        cube = ImageFile(str(tmp_path / f"{mode}.png")).open()
        assert np.array_equal(cube.to_dataarray().values, np.moveaxis(values, -1, 0)[:3])


@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "validation", "testing")])
def test_splits_of_folders_and_ids_of_equal_names(tmp_path, names):
    for split in names:
        for label in ("a", "b"):
            picture(tmp_path / split / label / "0.png")
    train = training_set(tmp_path)
    assert train.splits == {"test": 2, "train": 2, "validate": 2}
    assert len({item.id for item in train}) == 6
    assert all(Path(item.href).parts[-2] == item.label for item in train.split("val"))


def test_lists_of_a_split(tmp_path):
    for name in ("Forest", "River"):
        for number in range(3):
            picture(tmp_path / "2750" / name / f"{name}_{number}.jpg")
    for split, number in (("train", 0), ("val", 1), ("test", 2)):
        (tmp_path / f"eurosat-{split}.txt").write_text(f"Forest_{number}.jpg\nRiver_{number}.jpg\n")
    train = training_set(tmp_path)
    assert [item.id for item in train.split("test")] == ["Forest_2", "River_2"]
    assert train[0].open().red.attrs["scale_factor"] == pytest.approx(2750 / 254 * 1e-4)


def test_thirteen_bands_are_those_of_eurosat_and_others_want_names(tmp_path):
    raster(tmp_path / "a" / "0.tif", RNG.integers(0, 9999, (13, 8, 8)).astype("uint16"))
    cube = training_set(tmp_path)[0].open()
    assert [*cube.data_vars][-2:] == ["B12", "B8A"]
    raster(tmp_path / "s" / "b" / "0.tif", RNG.normal(-12, 3, (2, 8, 8)).astype("float32"))
    (item,) = training_set(tmp_path / "s")
    with pytest.raises(EoaugError, match=r"2 bands of float32") as caught:
        item.open()
    assert "bands=['VV', 'VH']" in caught.value.remedy
    (item,) = training_set(tmp_path / "s", bands=["VV", "VH"])
    assert eoaug.synthesize(item.open(), generator="classical").VV.dtype == np.float32


def test_masks_are_labels_of_pixels(tmp_path):
    masks = {}
    for split in ("train", "test"):
        picture(tmp_path / split / "images" / "one.png")
        masks[split] = picture(
            tmp_path / split / "masks" / "one.png",
            mode="L",
            values=RNG.integers(0, 3, (8, 8)).astype("uint8"),
        )
    train = training_set(tmp_path, task="pixels", classes=["sea", "dry land", "town"])
    assert train.splits == {"test": 1, "train": 1}
    item = train.split("train")[0]
    cube = item.open()
    assert label_variables(cube) == (train.label,) == ("masks",)
    assert cube.masks.attrs["flag_meanings"] == "sea dry_land town"
    assert np.array_equal(cube.masks, masks["train"])
    made = eoaug.synthesize(cube, generator="classical")
    assert np.array_equal(made.masks, masks["train"])


def test_pairs_with_a_map_of_what_changed(tmp_path):
    for folder in ("A", "B"):
        picture(tmp_path / folder / "0.png")
    changed = picture(
        tmp_path / "label" / "0.png", mode="L", values=RNG.integers(0, 2, (8, 8)).astype("uint8")
    )
    (item,) = training_set(tmp_path, task="change")
    cube = item.open()
    assert dict(cube.sizes) == {"time": 2, "y": 8, "x": 8}
    assert "nominal" in cube.time.attrs["comment"]
    assert np.array_equal(cube.label, changed)
    (tmp_path / "B" / "0.png").unlink()
    with pytest.raises(EoaugError, match="no file '0'"):
        training_set(tmp_path, task="change")


@pytest.mark.parametrize("task", ["classes", "pixels", "change"])
def test_folders_without_images_are_refused(tmp_path, task):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "readme.md").write_text("")
    with pytest.raises(EoaugError, match="holds no"):
        training_set(tmp_path, task=task)


def test_eurosat_as_it_is(eoaug_data, tmp_path):
    for kind, suffix in (("ms", "tif"), ("rgb", "jpg")):
        with zipfile.ZipFile(eoaug_data / f"eurosat/eurosat_{kind}_train.zip") as archive:
            there = [n for n in archive.namelist() if n.endswith(suffix)][:: 400 if kind == "rgb" else 40]
            archive.extractall(tmp_path / kind, there)
    rows = (eoaug_data / "eurosat/eurosat_ms_train.csv").read_text().splitlines()[1:]
    places = {row.split(",")[0]: tuple(map(float, row.split(",")[3:5])) for row in rows}
    train = training_set(tmp_path / "ms", split="place")
    for item in train:
        lon, lat = item.place
        assert (lon, lat) == pytest.approx(places[f"{item.id}.tif"], abs=2e-3)
    reflectance = train[0].open().B03 * 1e-4
    assert 0.01 < float(reflectance.mean()) < 0.3
    red = training_set(tmp_path / "rgb", split="train")[0].open().red
    physical = red * red.attrs["scale_factor"] + red.attrs["add_offset"]
    assert -0.002 < float(physical.min()) < float(physical.max()) < 0.2751


# -- catalogs -------------------------------------------------------------------------------------------

CLASSES = {"flag_values": np.arange(3, dtype="uint8"), "flag_meanings": "water wood field"}


@pytest.fixture
def catalog(tmp_path):
    """Two items with classes, splits and a label raster."""
    for number, (label, split) in enumerate((("Forest", "train"), ("River", "test"))):
        ds = scene((16, 16), dates=1)
        ds["lc"] = (
            ("y", "x"),
            RNG.integers(0, 3, (16, 16)).astype("uint8"),
            {**CLASSES, "grid_mapping": "spatial_ref"},
        )
        own = {"class": label, "ml-aoi:split": split, "keywords": ["k"], "license": "CC-BY-4.0"}
        own |= {"label:type": "vector", "label:properties": ["class"], "label:description": "class"}
        ds = ds.assign_coords(item_properties=("time", [json.dumps(own)]))
        eoaug.write(ds, tmp_path / "catalog", ids=[f"chip{number}"])
    return tmp_path / "catalog"


def test_classes_and_label_rasters_of_a_catalog(catalog):
    train = training_set(catalog)
    assert [(item.id, item.label, item.split) for item in train] == [
        ("chip0", "Forest", "train"),
        ("chip1", "River", "test"),
    ]
    assert train.classes == ("Forest", "River")
    pixels = training_set(catalog, task="pixels")
    assert (pixels.label, pixels.classes) == ("lc", ("water", "wood", "field"))
    cube = pixels[0].open()
    assert cube.chunks
    assert label_variables(cube) == ("lc",)
    lon, lat = pixels[0].place
    assert (round(lon), round(lat)) == (15, 48)
    with pytest.raises(EoaugError, match="'kind'"):
        training_set(catalog, "kind")
    pickle.loads(pickle.dumps(pixels))[1].open()


@pytest.mark.parametrize("format", ["cog", "zarr"])
def test_a_child_item_carries_the_labels_of_its_source(catalog, tmp_path, format, eoaug_data):  # noqa: A002
    job = {
        "source": {"catalog": str(catalog)}, "verb": "synthesize", "parameters": {"strength": 0.3},
        "generator": "classical", "output": {"catalog": str(tmp_path / "out"), "format": format},
    }  # fmt: skip
    eoaug.run_job(job)
    children = training_set(tmp_path / "out")
    assert [(item.label, item.split) for item in children] == [("Forest", "train"), ("River", "test")]
    assert [Path(item.made_from[0]).stem for item in children] == ["chip0", "chip1"]
    for child in children:
        document = json.loads(Path(child.href).read_text())
        properties, label = document["properties"], document["assets"]["lc"]
        assert properties["keywords"] == ["k"]
        assert properties["license"] == "CC-BY-4.0"
        assert properties["eoaug:bands"]["lc"] == "observed"
        assert label["roles"] == ["data", "labels"]
        assert [one["name"] for one in label["classification:classes"]] == ["water", "wood", "field"]
        assert any(link["rel"] == "derived_from" for link in document["links"])
        problems = list(problems_of(document, eoaug_data / "schemas"))
        assert problems == []
        assert {uri.split("/")[3] for uri in document["stac_extensions"]} >= {
            "label",
            "ml-aoi",
            "classification",
        }
    from eoaug.stac.validate import validate

    assert validate(tmp_path / "out").sound


def problems_of(document, folder):
    import referencing
    from jsonschema import Draft7Validator
    from referencing.jsonschema import DRAFT7

    uris = json.loads((folder / "index.json").read_text())["schemas"]

    def load(uri):
        return referencing.Resource.from_contents(
            json.loads((folder / uris[uri.rstrip("#")]).read_text()), DRAFT7
        )

    registry = referencing.Registry(retrieve=load)
    core = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"
    for uri in (core, *document["stac_extensions"]):
        yield from Draft7Validator(load(uri).contents, registry=registry).iter_errors(document)


def test_a_test_date_makes_a_test_item(tmp_path):
    ds = scene((16, 16), dates=2)
    texts = [json.dumps({"class": "a", "ml-aoi:split": split}) for split in ("train", "test")]
    ds = ds.assign_coords(item_properties=("time", texts))
    eoaug.write(ds, tmp_path / "plain")
    assert training_set(tmp_path / "plain").splits == {"train": 1, "test": 1}
    eoaug.write(eoaug.extend(ds, times=["2021-06-01"], generator="classical"), tmp_path / "made")
    made = training_set(tmp_path / "made")
    assert made.splits == {"test": 3}
    assert made.counts == {"a": 3}


# -- torchgeo -------------------------------------------------------------------------------------------


class Samples:
    """A data set as torchgeo's NonGeoDataset; its samples are arrays."""

    __module__ = "torchgeo.datasets.fake"
    classes = ("a", "b")
    all_bands = ("red", "green", "blue")
    split = "val"

    def __init__(self, task):
        self.task = task

    def __len__(self):
        return 4

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        if self.task == "classes":
            return {"image": rng.random((3, 8, 8), "float32"), "label": np.int64(index % 2)}
        lead = (2,) if self.task == "change" else ()
        return {"image": rng.random((*lead, 3, 8, 8), "float32"), "mask": rng.integers(0, 2, (8, 8))}


@pytest.mark.parametrize("task", ["classes", "pixels", "change"])
def test_samples_of_torchgeo(task):
    train = training_set(Samples(task), task=task)
    assert len(train) == 4
    assert train.splits == {"validate": 4}
    cube, sample = train[1].open(), Samples(task)[1]
    assert np.array_equal(cube.red, sample["image"][..., 0, :, :])
    if task == "classes":
        assert [item.label for item in train] == ["a", "b", "a", "b"]
    else:
        assert label_variables(cube) == ("mask",)
        assert np.array_equal(cube["mask"], sample["mask"])
        named = training_set(Samples(task), task=task, classes=["no", "yes"])[1].open()
        assert named["mask"].attrs["flag_meanings"] == "no yes"


# -- places ---------------------------------------------------------------------------------------------


class Point:
    def __init__(self, lon, lat):
        self.at = lon, lat

    def open(self):
        return cube_of(
            {"red": np.zeros((4, 4), "float32")}, GeoBox((4, 4), Affine.scale(10, -10), "EPSG:32633")
        )

    def place(self):
        return self.at

    def identity(self):
        return str(self.at)


def nearest_km(ones, others):
    one, two = np.radians(ones)[:, None], np.radians(others)[None]
    across = (two - one)[..., 0] * np.cos((one + two)[..., 1] / 2)
    return 6371.0 * np.hypot(across, (two - one)[..., 1]).min()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("spread", [0.5, 20.0])
def test_splits_by_place_are_apart_balanced_and_repeatable(seed, spread):
    rng = np.random.default_rng(seed)
    items = tuple(
        TrainingItem(f"i{k}", Point(*at), label="ab"[k % 2])
        for k, at in enumerate(rng.normal((10, 50), spread, (400, 2)))
    )
    train = TrainingSet(items, "classes", "class", ("a", "b"))
    made = split_by_place(train, block_km=5, gap_km=1, seed=seed)
    assert made.splits == split_by_place(train[:], block_km=5, gap_km=1, seed=seed).splits
    others = [item.place for item in made if item.split in ("test", "validate")]
    assert nearest_km([item.place for item in made.split("train")], others) >= 0.99
    used = [item for item in made if item.split]
    assert len(used) > 200
    for name, share in (("train", 0.6), ("validate", 0.2), ("test", 0.2)):
        assert made.split(name).counts.keys() == {"a", "b"}
        if spread > 1:
            assert len(made.split(name)) / len(used) == pytest.approx(share, abs=0.05)
    assert all(item.properties.get("ml-aoi:split", "") == item.split for item in made)


def test_items_without_a_place_need_a_split(tmp_path):
    picture(tmp_path / "a" / "0.png")
    with pytest.raises(EoaugError, match="the place of 1 of 1 items is not known"):
        training_set(tmp_path, split="place")
    with pytest.raises(EoaugError, match="names the item 'O'"):
        training_set(tmp_path, split={"O": "train"})
    assert training_set(tmp_path, split={"0": "val"}).splits == {"validate": 1}


# -- the real torchgeo ----------------------------------------------------------------------------------


@pytest.fixture
def torchgeo():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that it imports
        return pytest.importorskip("torchgeo.datasets")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries that torchgeo imports
def test_patches_of_a_real_geodataset(tmp_path, torchgeo):
    images = RNG.integers(1, 9000, (2, 90, 130)).astype("uint16")
    masks = RNG.integers(0, 4, (1, 90, 130)).astype("uint8")
    raster(tmp_path / "img" / "img_20200601.tif", images)
    raster(tmp_path / "msk" / "msk_20200601.tif", masks)

    class Images(torchgeo.RasterDataset):
        filename_glob, filename_regex, all_bands = "img*.tif", r"img_(?P<date>\d{8})", ("B03", "B04")

    class Masks(torchgeo.RasterDataset):
        filename_glob, filename_regex, is_image = "msk*.tif", r"msk_(?P<date>\d{8})", False

    both = Images(str(tmp_path / "img")) & Masks(str(tmp_path / "msk"))
    train = training_set(both, task="pixels", size_px=32, classes=["a", "b", "c", "d"])
    assert len(train) == 8
    for item in train:
        cube = item.open()
        col, row = round((float(cube.x[0]) - 400005) / 10), round((4999995 - float(cube.y[0])) / 10)
        assert np.array_equal(cube.B04, images[1, row : row + 32, col : col + 32])
        assert np.array_equal(cube["mask"], masks[0, row : row + 32, col : col + 32])
        assert cube.time.values == np.datetime64("2020-06-01")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries that torchgeo imports
def test_a_real_dataset_of_class_folders(tmp_path, torchgeo):
    home = tmp_path / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
    for name in ("Forest", "River"):
        for number in range(3):
            values = RNG.integers(0, 9999, (13, 64, 64)).astype("uint16")
            raster(home / name / f"{name}_{number}.tif", values)
    for number, split in enumerate(("train", "val", "test")):
        (tmp_path / f"eurosat-{split}.txt").write_text(f"Forest_{number}.jpg\nRiver_{number}.jpg\n")
    dataset = torchgeo.EuroSAT(str(tmp_path), split="val", download=False)
    train = training_set(dataset)
    assert train.splits == {"validate": 2}
    for index, item in enumerate(train):
        sample, cube = dataset[index], item.open()
        assert item.label == dataset.classes[int(sample["label"])]
        assert np.array_equal(cube[list(dataset.bands)].to_dataarray(), sample["image"].numpy())
        assert cube.B04.attrs["scale_factor"] == 1e-4
        assert item.place is not None
    assert [item.id for item in training_set(tmp_path).split("val")] == [item.id for item in train]
