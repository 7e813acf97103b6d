"""Flags of quality bands and labels: written as classes of the item, and read back alike; never mixed between items."""

from __future__ import annotations

import json

import numpy as np
import pystac
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

import eoaug
from eoaug.errors import BandError, EoaugError, ParameterError
from eoaug.stac.classes import cf_flags, class_fields
from eoaug.stac.extensions import CLASSIFICATION
from eoaug.stac.open import open_cube
from eoaug.stac.publish import write

from .conftest import grid, made_cube, make_item

BITS = {
    "flag_values": np.array([0, 1, 2, 3, 8, 0], "uint8"),
    "flag_masks": np.array([3, 3, 3, 3, 8, 8], "uint8"),
    "flag_meanings": "confidence_none low medium cloud shadow clear",
}
CLASSES = {"flag_values": np.array([0, 4, 9], "uint8"), "flag_meanings": "no_data vegetation cloud"}
MASKS = {"flag_masks": np.array([1, 2, 64], "uint8"), "flag_meanings": "fill cloud cirrus"}


def flagged(attrs, name="quality", dtype="uint8", **more) -> xr.Dataset:
    ds = made_cube(grid(), **more)
    values = np.zeros(ds.B02.shape, dtype)
    values[:, 3:5, 4:9] = 9
    ds[name] = (ds.B02.dims, values, {**attrs, "grid_mapping": "spatial_ref"})
    return ds


def meanings(attrs) -> dict:
    values = np.ravel(attrs.get("flag_values", attrs.get("flag_masks"))).tolist()
    masks = np.ravel(attrs.get("flag_masks", np.full(len(values), -1))).tolist()
    return dict(zip(attrs["flag_meanings"].split(), zip(values, masks, strict=True), strict=True))


@pytest.mark.parametrize("format", ["cog", "zarr"])
@pytest.mark.parametrize("attrs", [CLASSES, BITS, MASKS], ids=["classes", "bits", "masks"])
def test_flags_come_back_and_their_item_is_valid(attrs, format, tmp_path, data, validate):  # noqa: A002
    (item,) = write(flagged(attrs), tmp_path, format=format)
    document = json.loads((tmp_path / "eoaug" / item.id / f"{item.id}.json").read_text())
    assert CLASSIFICATION in document["stac_extensions"]
    rules = json.loads((data / "schemas/extensions/classification/v1.1.0/schema.json").read_text())
    assert not list(Draft7Validator(rules).iter_errors(document))
    assert validate(tmp_path / "catalog.json") == 1
    back = open_cube(tmp_path, chunks=None)
    assert meanings(back.quality.attrs) == meanings(attrs)
    assert back.quality.dtype == np.uint8
    assert (back.quality.values[0, 3:5, 4:9] == 9).all()


NAMES = st.text("abyz19_", max_size=6).map(lambda text: f"n{text}k")


@given(st.data())
@settings(max_examples=40)
def test_any_flags_survive_the_way_through_an_item(data):
    names = data.draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    if data.draw(st.booleans()):
        values = data.draw(
            st.lists(st.integers(0, 255), min_size=len(names), max_size=len(names), unique=True)
        )
        attrs = {"flag_values": values, "flag_meanings": " ".join(names)}
    else:
        masks = [((1 << data.draw(st.integers(1, 3))) - 1) << data.draw(st.integers(0, 12)) for _ in names]
        values = [data.draw(st.integers(0, 15)) << 3 & mask or mask for mask in masks]
        attrs = {"flag_values": values, "flag_masks": masks, "flag_meanings": " ".join(names)}
    back = cf_flags(class_fields("q", attrs), what="q")
    assert meanings(back) == meanings(attrs)


def test_bits_that_are_apart_are_refused(tmp_path):
    attrs = {"flag_masks": [5, 2], "flag_meanings": "cloud clear"}
    with pytest.raises(EoaugError, match="bits are apart") as caught:
        write(flagged(attrs), tmp_path)
    assert "drop the flags" in caught.value.remedy
    plain = flagged(attrs)
    plain.quality.attrs.pop("flag_masks")
    write(plain, tmp_path)


def test_items_with_other_classes_are_not_mixed(tmp_path):
    other = {**CLASSES, "flag_meanings": "no_data water cloud"}
    for number, attrs in enumerate((CLASSES, other, {})):
        ds = flagged(attrs, name="landcover")
        ds["time"] = ds.time + np.timedelta64(number, "D")
        write(ds, tmp_path, ids=["abc"[number]])
    for ids in (["a", "b"], ["b", "a"], ["a", "c"], ["a", "b", "c"]):
        with pytest.raises(BandError, match="classes of 'landcover' differ") as caught:
            open_cube(tmp_path, ids=ids)
        assert "ids=" in caught.value.remedy
    assert "vegetation" in open_cube(tmp_path, ids=["a"]).landcover.attrs["flag_meanings"]
    assert set(open_cube(tmp_path, bands=["B02"]).data_vars) == {"B02"}


def test_a_known_product_may_lack_its_classes_in_some_items(tmp_path):
    for number, attrs in enumerate((CLASSES, {})):
        ds = flagged(attrs, name="SCL")
        ds["time"] = ds.time + np.timedelta64(number, "D")
        write(ds, tmp_path, ids=["ab"[number]])
    assert open_cube(tmp_path).sizes["time"] == 2


@pytest.mark.parametrize("lazy", [False, True])
def test_the_cloud_probability_of_earth_search_is_no_mask(lazy, tmp_path):
    values = np.zeros((32, 32), np.uint8)
    values[:16], values[:4] = 1, 90
    item = make_item(tmp_path)
    make_item(
        tmp_path,
        "cloudy",
        bands=("cloud",),
        dtype="uint8",
        nodata=None,
        values=values,
        drop=("raster:scale", "raster:offset"),
    )
    fields = json.loads((tmp_path / "cloudy.json").read_text())["assets"]["cloud"]
    for title in ("Cloud Probabilities", None):
        asset = pystac.Asset.from_dict({**fields, **({"title": title} if title else {})})
        item.add_asset("cloud", asset)
        asset.href = str(tmp_path / "cloudy-cloud.tif")
        cube = open_cube(item, bands=["B02", "cloud"], chunks={} if lazy else None)
        if title is None:
            with pytest.raises(ParameterError, match="holds 90") as caught:
                eoaug.inpaint(cube, mask="cloud", fill="gaps", generator="classical").compute()
            assert "mask=ds.NAME > 40" in caught.value.remedy
            cube["cloud"] = cube.cloud > 40
            filled = eoaug.inpaint(cube, mask=cube.cloud.rename("fill"), generator="classical").compute()
        else:
            filled = eoaug.inpaint(cube, mask="cloud", mask_buffer=0, generator="classical").compute()
        assert np.array_equal(filled.synthetic.values[0] == 1, values > 40)
