"""pystac as oracle: what we write as plain dicts is what pystac and its extensions write and read.

pystac 1.15 has the versions of ``proj``, ``file`` and ``mlm`` that we write; of ``raster`` and ``eo`` it has
the ones before, so those are checked by their schemas alone (`validate` of conftest). stac-model 0.7 accepts the
model's item too; it is no dependency of the tests, since it installs pip.
"""

from __future__ import annotations

import json

import pystac
import pytest
from pystac.extensions.file import FileExtension
from pystac.extensions.mlm import MLMExtension
from pystac.extensions.projection import ProjectionExtension

from eoaug.stac.extensions import FILE, PROJECTION
from eoaug.stac.integrity import CHECKSUM
from eoaug.stac.model_item import embedded_item
from eoaug.stac.publish import write

from .conftest import augmented, grid, made_cube


@pytest.fixture(scope="module", params=["cog", "zarr"])
def written(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    ds = made_cube(grid(size=64)).assign_coords(
        item_id=("time", ["a"]), item_href=("time", ["https://example.com/a.json"])
    )
    (item,) = write(augmented(ds), root, format=request.param)
    return root, item


def document(path) -> dict:
    return json.loads(path.read_text())


def item_file(root, item):
    return root / "eoaug" / item.id / f"{item.id}.json"


def without_checksum(doc):
    return {key: value for key, value in doc.items() if key != CHECKSUM}


def test_an_item_is_read_and_written_alike(written):
    root, item = written
    doc = document(item_file(root, item))
    # Without its migration, which calls classification 1.1 by the name of 2.0.
    again = pystac.Item.from_dict(doc, preserve_dict=True, migrate=False).to_dict(
        include_self_link=False, transform_hrefs=False
    )
    assert json.loads(json.dumps(again)) == doc


def test_a_collection_and_a_catalog_are_read_and_written_alike(written):
    root, _ = written
    for path, kind in (
        (root / "eoaug" / "collection.json", pystac.Collection),
        (root / "catalog.json", pystac.Catalog),
    ):
        doc = document(path)
        again = kind.from_dict(doc, preserve_dict=True).to_dict(
            include_self_link=False, transform_hrefs=False
        )
        assert json.loads(json.dumps(without_checksum(again))) == without_checksum(doc)


def test_an_item_equals_the_one_that_pystac_and_its_extensions_make(written):
    root, item = written
    doc = document(item_file(root, item))
    known = {key: doc["properties"][key] for key in doc["properties"] if not key.startswith("proj:")}
    made = pystac.Item(
        id=doc["id"],
        geometry=doc["geometry"],
        bbox=doc["bbox"],
        datetime=pystac.utils.str_to_datetime(doc["properties"]["datetime"]),
        properties={key: value for key, value in known.items() if key != "datetime"},
        stac_extensions=[uri for uri in doc["stac_extensions"] if uri not in (PROJECTION, FILE)],
        collection=doc["collection"],
        extra_fields={CHECKSUM: doc[CHECKSUM]},
    )
    box = grid(size=64)
    bounds = box.extent.boundingbox
    projection = {
        "code": "EPSG:32633",
        "shape": [64, 64],
        "transform": list(box.affine)[:6],
        "bbox": [bounds.left, bounds.bottom, bounds.right, bounds.top],
    }
    ProjectionExtension.ext(made, add_if_missing=True).apply(**projection)
    for key, fields in doc["assets"].items():
        path = item_file(root, item).parent / fields["href"]
        extra = {
            name: value
            for name, value in fields.items()
            if not name.startswith(("proj:", "file:")) and name not in ("href", "type", "roles")
        }
        asset = pystac.Asset(
            fields["href"], media_type=fields["type"], roles=fields["roles"], extra_fields=extra
        )
        made.add_asset(key, asset)
        if "file:size" in fields:
            FileExtension.ext(asset, add_if_missing=True).apply(
                size=path.stat().st_size, checksum=fields["file:checksum"]
            )
        if "proj:code" in fields:
            ProjectionExtension.ext(asset, add_if_missing=True).apply(**projection)
    for link in doc["links"]:
        made.add_link(pystac.Link(link["rel"], link["href"], media_type=link["type"]))
    theirs = json.loads(json.dumps(made.to_dict(include_self_link=False, transform_hrefs=False)))
    assert sorted(theirs.pop("stac_extensions")) == sorted(doc.pop("stac_extensions"))
    assert theirs == doc


def test_what_pystac_reads_of_an_item_is_what_we_wrote(written):
    _, item = written
    projection = ProjectionExtension.ext(item)
    assert (projection.code, projection.shape) == ("EPSG:32633", [64, 64])
    assert projection.transform == list(grid(size=64).affine)[:6]
    assert item.common_metadata.gsd == 10.0


def test_the_model_s_item_is_read_and_written_alike_by_the_mlm_extension():
    doc = json.loads(json.dumps(embedded_item()))
    item = pystac.Item.from_dict(doc, preserve_dict=True)
    mlm = MLMExtension.ext(item)
    fields = {
        name: getattr(mlm, name)
        for name in (
            "architecture", "tasks", "input", "output", "hyperparameters", "total_parameters",
            "framework", "batch_size_suggestion", "accelerator", "accelerator_constrained",
        )
    }  # fmt: skip
    bare = pystac.Item.from_dict(doc, preserve_dict=True)
    for name in [key for key in bare.properties if key.startswith("mlm:")]:
        del bare.properties[name]
    MLMExtension.ext(bare).apply(name=mlm.mlm_name, **fields)
    written = {key: value for key, value in bare.properties.items() if value is not None}
    ours = {key: value for key, value in doc["properties"].items() if value is not None}
    assert json.loads(json.dumps(written)) == ours
