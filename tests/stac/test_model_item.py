"""Models as items: what they say, and how results point at them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pystac
import pytest

from eoaug.cube.provenance import ALGORITHMIC, ALTERED, COMPOSITE, TRAINED, digital_source_type, of, stamp
from eoaug.generators import load
from eoaug.generators.base import Card
from eoaug.stac.extensions import MLM
from eoaug.stac.integrity import with_checksum, write_json
from eoaug.stac.model_item import Artifact, known_item, model_item
from eoaug.stac.open import open_cube
from eoaug.stac.publish import write
from eoaug.stac.summary import summarise
from eoaug.stac.validate import validate as validate_catalog

from .conftest import ROOT, generated, grid, made_cube, provenance

CARD = load("embedded").card


def trained(**kwargs):
    return provenance(generator="embedded", model_sha256=CARD.sha256, parameters={"factor": 2}, **kwargs)


def result(prov, times=2):
    ds = made_cube(grid(), times=times)
    mask = np.zeros((times, 32, 32), np.uint8)
    mask[-1, 3:7] = 1
    return stamp(ds.assign(synthetic=(("time", "y", "x"), mask)), prov)


def links_to_models(item):
    return [link for link in item.links if link.rel == "derived_from" and "mlm:name" in link.extra_fields]


def test_the_shipped_catalog_of_generators_validates(validate):
    assert validate(ROOT / "catalogs" / "generators" / "catalog.json") == 1


@pytest.mark.parametrize(
    "card",
    [
        Card(name="any", sha256="a" * 64),
        Card(
            name="Tiny-SR 2",
            bands=("vv", "red"),
            verbs=frozenset({"super_resolve"}),
            gsd_m=(10.0, 20.0),
            mean=(0.1, 0.2),
            std=(1.0, 2.0),
            conditions=frozenset({"metadata"}),
            sha256="b" * 64,
            licence="MIT",
        ),
    ],
    ids=lambda card: card.name,
)
def test_any_card_makes_a_valid_item(card, validate, tmp_path):
    weights = Artifact(
        name="w", href="https://host.org/w.safetensors", sha256=card.sha256, size=4, parameters=1
    )
    item = model_item(card, [weights], architecture="UNet", entrypoint="m:f", source="pkg:pypi/m@1")
    assert json.loads(json.dumps(item, allow_nan=False)) == item
    item["links"] = [{"rel": "root", "href": "./catalog.json", "type": "application/json"}]
    (tmp_path / f"{item['id']}.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": f"./{item['id']}.json", "type": "application/geo+json"}]
    about = {"type": "Catalog", "stac_version": "1.1.0", "id": "c", "description": "c", "links": links}
    (tmp_path / "catalog.json").write_text(json.dumps(about))
    assert validate(tmp_path / "catalog.json") == 1
    told = item["properties"]
    assert told["license"] == card.licence
    assert told["mlm:tasks"] == (["super-resolution"] if card.mean else ["generative", "super-resolution"])
    assert [band["name"] for band in told.get("bands", [])] == list(card.bands)
    assert item["assets"]["w"]["file:checksum"] == "1220" + card.sha256


def test_only_shipped_weights_are_known():
    item = known_item(trained())
    assert item["properties"]["mlm:name"] == "embedded"
    assert MLM in item["stac_extensions"]
    for other in (None, provenance(), replace(trained(), model_sha256="0" * 64)):
        assert known_item(other) is None


@pytest.mark.parametrize("format", ["cog", "zarr"])
def test_a_result_points_at_the_item_of_its_model(format, validate, tmp_path):  # noqa: A002
    items = write(result(trained()), tmp_path, format=format)
    assert validate(tmp_path / "catalog.json") == len(items)
    assert validate(tmp_path / "generators" / "catalog.json") == 1
    made = items[-1]
    (link,) = links_to_models(made)
    assert link.extra_fields["mlm:name"] == "embedded"
    assert link.media_type == "application/geo+json"
    model = pystac.Item.from_file(link.get_absolute_href())
    assert model.properties["eoaug:model_sha256"] == made.properties["eoaug:model_sha256"] == CARD.sha256
    assert model.properties["mlm:name"] == "embedded"
    told = made.properties["processing:expression"]
    assert told["format"] == "stac-mlm"
    home = Path(made.get_self_href()).parent
    assert (home / told["expression"]).resolve() == Path(model.get_self_href()).resolve()
    assert made.properties["eoaug:parameters"] == {"factor": "2"}
    catalog = pystac.Catalog.from_file(str(tmp_path / "catalog.json"))
    # odc.stac.load of all items of a catalog must not meet a model.
    assert next(catalog.get_items(model.id, recursive=True), None) is None
    (related,) = [link for link in catalog.links if link.rel == "related"]
    assert Path(related.get_absolute_href()) == tmp_path / "generators" / "catalog.json"
    if format == "cog":  # a date on which all was measured owes nothing to the model
        assert not links_to_models(items[0])
        assert "processing:expression" not in items[0].properties


def test_models_are_no_scenes(tmp_path):
    write(result(trained()), tmp_path)
    back = open_cube(tmp_path)
    assert dict(of(back).parameters) == {"factor": 2}
    assert back.sizes["time"] == 2
    assert [found.collection for found in summarise(tmp_path)] == ["eoaug"]


def test_one_model_has_one_item_that_stays_as_it_is(tmp_path):
    write(result(trained()), tmp_path)
    folder = tmp_path / "generators"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"catalog.json", f"embedded-{CARD.sha256[:8]}.json"}
    write(result(trained(), times=3), tmp_path, collection="other")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert str(tmp_path).encode() not in b"".join(before.values())


def test_the_item_goes_below_a_collection_that_is_written_to(validate, tmp_path):
    write(result(trained()), tmp_path)
    (item,) = write(result(trained(), times=1), tmp_path / "eoaug", collection="below")
    (link,) = links_to_models(item)
    assert Path(link.get_absolute_href()).parent == tmp_path / "eoaug" / "generators"
    assert validate(tmp_path / "catalog.json") == 3


def test_a_catalog_of_0_1_0_loses_the_child_that_no_reader_can_load(tmp_path):
    write(result(trained()), tmp_path)
    file = tmp_path / "catalog.json"
    old = json.loads(file.read_text())
    for link in old["links"]:
        link["rel"] = "child" if link["rel"] == "related" else link["rel"]
    write_json(file, with_checksum(old))
    assert validate_catalog(tmp_path).sound
    write(result(trained(), times=1), tmp_path, collection="other")
    items = list(pystac.Catalog.from_file(str(file)).get_items(recursive=True))
    assert len(items) == 3
    assert not [item.id for item in items if "mlm:name" in item.properties]
    assert validate_catalog(tmp_path).sound
    assert [found.collection for found in summarise(tmp_path)] == ["eoaug", "other"]


def test_methods_without_weights_have_no_item(validate, tmp_path):
    prov = provenance(digital_source_type=ALTERED)
    (_, item) = write(result(prov), tmp_path)
    assert not links_to_models(item)
    assert "processing:expression" not in item.properties
    assert not (tmp_path / "generators").exists()
    assert item.properties["eoaug:digital_source_type"] == ALTERED
    assert validate(tmp_path / "catalog.json") == 2
    assert of(open_cube(tmp_path, ids=[item.id])).digital_source_type == ALTERED


@pytest.mark.parametrize(
    ("is_trained", "measured", "term"),
    [
        (True, False, "trainedAlgorithmicMedia"),
        (True, True, "compositeWithTrainedAlgorithmicMedia"),
        (False, False, "algorithmicMedia"),
        (False, True, "algorithmicallyEnhanced"),
    ],
)
def test_the_term_of_the_vocabulary(is_trained, measured, term):
    found = digital_source_type(is_trained, measured)
    assert found == f"http://cv.iptc.org/newscodes/digitalsourcetype/{term}"
    assert found in {TRAINED, COMPOSITE, ALGORITHMIC, ALTERED}


def test_terms_come_back(tmp_path):
    for term in (TRAINED, COMPOSITE, ALGORITHMIC, ALTERED):
        ds = generated(made_cube(grid()), operation="synthesize", digital_source_type=term)
        write(ds, tmp_path, collection=term.rpartition("/")[2])
        assert of(open_cube(tmp_path, collections=term.rpartition("/")[2])).digital_source_type == term
