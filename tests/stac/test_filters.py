"""CQL2 on sources that do not search themselves: catalogs of files, and items in memory."""

from __future__ import annotations

import json

import pystac
import pytest

from eoaug.errors import ParameterError
from eoaug.stac.filters import Search
from eoaug.stac.search import find

ITEM = {
    "type": "Feature",
    "stac_version": "1.1.0",
    "id": "a",
    "collection": "c",
    "geometry": {"type": "Point", "coordinates": [11.0, 48.0]},
    "bbox": [11.0, 48.0, 11.0, 48.0],
    "properties": {"datetime": "2020-06-01T10:00:00Z", "eo:cloud_cover": 10, "platform": "x", "empty": None},
    "links": [],
    "assets": {},
}


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("eo:cloud_cover < 20", True),
        ("eo:cloud_cover < 5", False),
        ("platform IN ('x', 'y') AND eo:cloud_cover BETWEEN 5 AND 15", True),
        ("platform LIKE 'x%' AND NOT eo:cloud_cover > 10", True),
        ("id = 'a' AND collection = 'c'", True),
        ("T_AFTER(datetime, TIMESTAMP('2020-01-01T00:00:00Z'))", True),
        ("datetime < TIMESTAMP('2020-01-01T00:00:00Z')", False),
        ("S_INTERSECTS(geometry, POLYGON((10 47, 12 47, 12 49, 10 49, 10 47)))", True),
        ("S_INTERSECTS(geometry, POLYGON((0 0, 1 0, 1 1, 0 1, 0 0)))", False),
        ({"op": "<=", "args": [{"property": "eo:cloud_cover"}, 10]}, True),
        # What an item lacks, or has as null, is unknown: neither a comparison with it nor its negation holds.
        ("lacking = 1", False),
        ("NOT lacking = 1", False),
        ("empty = 1", False),
        ("empty IS NULL AND lacking IS NULL", True),
        ("lacking = 1 OR platform = 'x'", True),
        ("lacking = 1 AND platform = 'x'", False),
    ],
)
def test_cql2(expression, kept):
    assert Search(cql2=expression).matches_cql2(ITEM) is kept


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("platform = ", "is not CQL2"),
        ("eo:cloud_cover <", "is not CQL2"),
        ({"op": "=", "arg": 1}, "is not CQL2"),
        ("eo:cloud_cover = '10'", "cannot be evaluated for item 'a'"),
        ("unheard(platform) = 3", "cannot be evaluated for item 'a'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(expression, words):
    with pytest.raises(ParameterError, match=words):
        Search(cql2=expression).matches_cql2(ITEM)


def catalog(folder, covers):
    links = []
    for number, cover in enumerate(covers):
        item = json.loads(json.dumps(ITEM)) | {"id": f"i{number}"}
        item["properties"]["eo:cloud_cover"] = cover
        if cover is None:
            del item["properties"]["eo:cloud_cover"]
        (folder / f"i{number}.json").write_text(json.dumps(item))
        links.append({"rel": "item", "href": f"./i{number}.json"})
    path = folder / "catalog.json"
    path.write_text(
        json.dumps(
            {"type": "Catalog", "stac_version": "1.1.0", "id": "k", "description": "d", "links": links}
        )
    )
    return path


@pytest.mark.parametrize("form", ["file", "catalog", "items"])
@pytest.mark.parametrize(
    "expression", ["eo:cloud_cover < 20", {"op": "<", "args": [{"property": "eo:cloud_cover"}, 20]}]
)
def test_a_filter_works_on_every_source(tmp_path, form, expression):
    path = catalog(tmp_path, [5, 50, None, 19.5])
    source = path
    if form == "catalog":
        source = pystac.Catalog.from_file(str(path))
    if form == "items":
        source = list(pystac.Catalog.from_file(str(path)).get_items())
    found = find(source, Search(cql2=expression, query={"platform": "x"}), text=None)
    assert [item.id for item, _ in found] == ["i0", "i3"]
