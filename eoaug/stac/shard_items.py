"""The STAC item of a shard of chips."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from affine import Affine
from odc.geo.geobox import GeoBox

from eoaug.cube.provenance import Provenance
from eoaug.formats.chips import GROUP, SAMPLES
from eoaug.stac.classes import class_fields
from eoaug.stac.extensions import CLASSIFICATION, FILE, LABEL, ML_AOI, PROCESSING
from eoaug.stac.filters import rfc3339
from eoaug.stac.footprint import footprint
from eoaug.stac.integrity import MANIFEST, with_checksum, write_json
from eoaug.stac.item_document import Target, file_fields, lineage, writing_time
from eoaug.storage.locations import relative

__all__ = ["CHIPS", "shard_document"]

CHIPS = "chips"
"""Role of the asset with the table of a shard."""
_NO_DATE = "2000-01-01T00:00:00Z"
"""Nominal date of chips without one."""


def shard_document(
    label: str,
    data: Path,
    rows: Sequence[Mapping[str, Any]],
    shape_yx: tuple[int, int],
    prov: Provenance,
    properties: Mapping[str, Any],
    labels: Mapping[str, Mapping[str, Any]],
    target: Target,
) -> dict[str, Any]:
    """Return the item of a shard, and write the manifest of its files.

    Parameters
    ----------
    label
        Id of the item.
    data
        Scratch folder with the files of the shard.
    rows
        Table of the shard, with ``label``, ``transform``, ``crs`` and ``dates`` where chips have them.
    shape_yx
        Size of the chips in pixels.
    prov
        How they were made.
    properties
        Further properties, of the training set.
    labels
        Attributes of the label of each name that chips have.
    target
        Catalog and collection.
    """
    dates = sorted(date for row in rows for date in row.get("dates", ())) or [_NO_DATE]
    one_date = dates[0] == dates[-1]
    when: dict[str, Any] = {"datetime": dates[0] if one_date else None}
    if not one_date:
        when |= {"start_datetime": dates[0], "end_datetime": dates[-1]}
    files = sorted(path for path in data.rglob("*") if path.is_file())
    manifest = {"files": {path.relative_to(data).as_posix(): file_fields(path) for path in files}}
    write_json(data / MANIFEST, with_checksum(manifest))
    share = sum(float(row["share"]) for row in rows) / len(rows)
    record = prov.to_properties(written=rfc3339(writing_time()), share=share)
    geometry, bbox = _extent(rows, shape_yx)
    home = target.home(label)
    fields = {**properties, **when, **record, **target.claim.fields, **_counts(properties, rows)}
    model, made = target.model_href(label), bool(record["eoaug:synthetic"])
    if model is not None and made:
        fields["processing:expression"] = {"format": "stac-mlm", "expression": model}
    classes = {name: _label_asset(name, attrs) for name, attrs in labels.items()}
    extensions = [FILE, PROCESSING]
    extensions += [CLASSIFICATION] if "classification:" in json.dumps([classes, fields]) else []
    extensions += [LABEL] if "label:type" in fields else []
    extensions += [ML_AOI] if any(name.startswith("ml-aoi:") for name in fields) else []
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": sorted(extensions),
        "id": label,
        "geometry": geometry,
        **({"bbox": bbox} if bbox else {}),
        "properties": dict(sorted(fields.items())),
        "collection": target.folder.name,
        "links": [
            {"rel": "root", "href": relative(target.root.top, home), "type": "application/json"},
            {"rel": "parent", "href": "../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
            *lineage(_documents(rows), target, label, made=made),
        ],
        "assets": _assets(data, f"{len(rows)} chips of {shape_yx[0]} x {shape_yx[1]} px") | classes,
    }


def _documents(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the addresses of the items that chips were made of; images of folders have no item."""
    hrefs = {str(row["href"]) for row in rows if row.get("href")}
    return sorted(href for href in hrefs if urlsplit(href).path.endswith(".json"))


def _label_asset(name: str, attrs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "href": f"{GROUP}/{name}",
        "type": "application/zarr",
        "title": f"{name}: classes of the pixels",
        "roles": ["labels"],
        **class_fields(name, attrs),
    }


def _assets(data: Path, title: str) -> dict[str, Any]:
    return {
        "chips": {
            "href": GROUP,
            "type": "application/vnd.zarr",
            "title": title,
            "roles": ["data", "synthetic"],
        },
        "samples": {
            "href": SAMPLES,
            "type": "application/jsonl",
            "title": "Id, label, grid and record of each chip",
            "roles": ["metadata", CHIPS],
            **file_fields(data / SAMPLES),
        },
        "manifest": {
            "href": MANIFEST,
            "type": "application/json",
            "title": "Sizes and checksums of all files",
            "roles": ["metadata"],
            **file_fields(data / MANIFEST),
        },
    }


def _extent(
    rows: Sequence[Mapping[str, Any]], shape_yx: tuple[int, int]
) -> tuple[dict[str, Any] | None, list[float]]:
    """Return the box around all chips; None and nothing for chips without coordinates."""
    places = {(tuple(row["transform"]), row["crs"]) for row in rows if "crs" in row}
    if not places:
        return None, []
    boxes = [footprint(GeoBox(shape_yx, Affine(*affine), crs))[1] for affine, crs in sorted(places)]
    crossing = any(box[0] > box[2] for box in boxes)
    west = -180.0 if crossing else min(box[0] for box in boxes)
    east = 180.0 if crossing else max(box[2] for box in boxes)
    south, north = min(box[1] for box in boxes), max(box[3] for box in boxes)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}, [west, south, east, north]


def _counts(properties: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the number of chips by class, where chips have classes."""
    counts = Counter(row["label"] for row in rows if row.get("label"))
    names = properties.get("label:properties")
    if not counts or not names:
        return {}
    listed = [{"name": name, "count": count} for name, count in sorted(counts.items())]
    return {"label:overviews": [{"property_key": names[0], "counts": listed}]}
