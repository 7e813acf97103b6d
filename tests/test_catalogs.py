"""The catalogs that ship: whole, valid, attributed, and what their makers make."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio

from eoaug.generators import load

CATALOGS = Path(__file__).parents[1] / "catalogs"
SAMPLE = CATALOGS / "sample"
GENERATORS = CATALOGS / "generators"
REMAKE = "python catalogs/make_generators.py"
CATALOG = pystac.Catalog.from_file(str(SAMPLE / "catalog.json"))
ITEMS = list(CATALOG.get_items(recursive=True))


def test_six_places_by_two_sensors():
    assert {child.id: len(list(child.get_items())) for child in CATALOG.get_children()} == {
        "sentinel-1-grd": 6,
        "sentinel-2-l2a": 6,
    }
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 4e6


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_every_item_agrees_with_its_files(item):
    assert len(item.assets) == (2 if item.id.startswith("S1") else 12)
    assert item.properties["bigearthnet:labels"]
    for name, asset in item.assets.items():
        assert asset.href == f"./{name}.tif"
        path = Path(asset.get_absolute_href())
        fields = asset.extra_fields
        assert fields["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
        with rasterio.open(path) as file:
            assert f"EPSG:{file.crs.to_epsg()}" == item.properties["proj:code"]
            assert np.allclose(tuple(file.transform)[:6], fields["proj:transform"], rtol=0, atol=1e-9)
            assert list(file.shape) == fields["proj:shape"]
            assert file.dtypes[0] == fields["data_type"]
            assert file.nodata == fields.get("nodata")
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            left, bottom, right, top = file.bounds
        assert (right - left, top - bottom) == (1200, 1200)
        assert fields["gsd"] == fields["proj:transform"][0]


def test_it_is_self_contained_and_attributed():
    notice = (SAMPLE / "NOTICE").read_text()
    for word in (
        "Apache License 2.0",
        "CDLA" if "CDLA" in notice else "Community Data License",
        "Copernicus",
    ):
        assert word in notice
    for path in SAMPLE.rglob("*.json"):
        for link in json.loads(path.read_text()).get("links", []):
            assert not link["href"].startswith(("/", "http", "file"))


def test_named_sources_are_the_package_s():
    path = SAMPLE.parent / "sources.json"
    assert set(json.loads(path.read_text())) >= {"earth-search", "planetary-computer", "cdse"}


def test_the_shipped_generator_s_item_is_that_of_the_shipped_weights():
    item = json.loads((GENERATORS / "embedded.json").read_text())
    assert item["properties"]["eoaug:model_sha256"] == load("embedded").card.sha256, f"run: {REMAKE}"
    spec = importlib.util.spec_from_file_location("make_generators", CATALOGS / "make_generators.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    assert item == maker.make_item(), f"run: {REMAKE}"
    assert json.loads((GENERATORS / "catalog.json").read_text()) == maker.make_catalog(), f"run: {REMAKE}"


def test_the_generator_s_item_points_at_its_weights():
    catalog = pystac.Catalog.from_file(str(GENERATORS / "catalog.json"))
    (item,) = catalog.get_items()
    weights = {key: asset for key, asset in item.assets.items() if "mlm:weights" in asset.roles}
    assert weights
    for asset in weights.values():
        content = Path(asset.get_absolute_href()).read_bytes()
        fields = asset.extra_fields
        assert fields["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest(), f"run: {REMAKE}"
        assert fields["file:size"] == len(content)
