"""`validate` of what eoaug did not write: nothing is checked, and that is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import eoaug
from eoaug.cli.app import app
from eoaug.stac.validate import validate

SAMPLE = Path(__file__).parents[2] / "catalogs" / "sample"


def written(folder: Path) -> Path:
    cube = eoaug.open_cube(SAMPLE, ids=["S2A_MSIL2A_20170617T113321_36_85"], bands=["B02"], chunks=None)
    eoaug.write(cube, folder, collection="ours")
    return folder


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["validate", *map(str, arguments)], catch_exceptions=False)
    return result.exit_code, result.output


@pytest.mark.parametrize("start", ["", "catalog.json", "sentinel-2-l2a", "sentinel-2-l2a/collection.json"])
def test_a_catalog_of_others_is_not_sound(start):
    code, text = run(SAMPLE / start)
    assert code == 1
    assert "was not written by eoaug, and nothing was checked" in text
    assert f"({12 if start in ('', 'catalog.json') else 6} items of other writers)" in text
    assert "sound" not in text


def test_an_empty_catalog_of_others_is_not_sound(tmp_path):
    document = {"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "d", "links": []}
    (tmp_path / "catalog.json").write_text(json.dumps(document))
    assert run(tmp_path)[0] == 1


def test_links_in_a_circle_end(tmp_path):
    links = [{"rel": "child", "href": "./catalog.json"}, {"rel": "child", "href": "./b/catalog.json"}]
    document = {"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "d", "links": links}
    (tmp_path / "catalog.json").write_text(json.dumps(document))
    (tmp_path / "b").mkdir()
    back = {**document, "links": [{"rel": "child", "href": "../catalog.json"}]}
    (tmp_path / "b" / "catalog.json").write_text(json.dumps(back))
    assert not validate(tmp_path).sound


def test_a_collection_of_eoaug_can_be_validated_alone(tmp_path):
    out = written(tmp_path / "out")
    whole, alone = validate(out), validate(out / "ours")
    assert (
        (alone.sound, alone.items, alone.files) == (True, whole.items, whole.files) == (True, 1, whole.files)
    )
    (file,) = (out / "ours").rglob("B02.tif")
    file.write_bytes(file.read_bytes()[:-1])
    assert not validate(out / "ours").sound


def test_items_of_others_beside_ours_are_counted_not_checked(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "mixed")
    out = written(tmp_path / "mixed")
    validation = validate(out)
    assert (validation.sound, validation.items, validation.foreign) == (True, 1, 12)
    assert "12 items of other writers were not checked" in str(validation)
    assert run(out)[0] == 0


def test_a_deeper_collection_of_eoaug_is_checked(tmp_path):
    out = written(tmp_path / "deep" / "out")
    links = [{"rel": "child", "href": "./out/catalog.json"}]
    document = {"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "d", "links": links}
    (tmp_path / "deep" / "catalog.json").write_text(json.dumps(document))
    assert validate(tmp_path / "deep").items == 1
    (file,) = out.rglob("B02.tif")
    file.write_bytes(file.read_bytes()[:-1])
    assert not validate(tmp_path / "deep").sound


def test_an_item_is_not_a_catalog():
    validation = validate(next(SAMPLE.rglob("S2A*.json")))
    assert not validation.sound
    assert "is not a STAC catalog or collection" in str(validation)
