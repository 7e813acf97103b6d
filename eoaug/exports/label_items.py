"""STAC items of the extension label, one per image of a training set, and their collection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from eoaug.augmentation.training_items import TrainingSet, label_properties
from eoaug.errors import ParameterError, TimeError
from eoaug.exports.images import OpenedItem, opened, write_label
from eoaug.stac.classes import class_fields
from eoaug.stac.extensions import CLASSIFICATION, LABEL, ML_AOI
from eoaug.stac.filters import parse_interval
from eoaug.stac.footprint import footprint

__all__ = ["label_item", "write_label_items"]


def write_label_items(train: TrainingSet, out: Path, *, datetime: str | None) -> None:
    """Write ``collection.json`` and a folder per item with its document and its label.

    The label of an image is a GeoJSON file with its footprint and class, that of pixels a GeoTIFF with their classes. Items
    link to the item or the file of their image (relation ``source``).

    Parameters
    ----------
    train
        The set.
    out
        The folder to write.
    datetime
        Date or interval of images that have none.
    """
    documents = []
    for item in train:
        one = opened(item, train)
        folder = out / item.id
        folder.mkdir(parents=True)
        document = label_item(one, train, datetime)
        document["assets"]["labels"] = _asset(one, train, document, folder)
        document["links"] += [
            {"rel": rel, "href": "../collection.json", "type": "application/json"}
            for rel in ("root", "parent", "collection")
        ]
        documents.append(document)
        (folder / f"{item.id}.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    (out / "collection.json").write_text(
        json.dumps(_collection(train, documents), indent=2), encoding="utf-8"
    )


def label_item(one: OpenedItem, train: TrainingSet, datetime: str | None) -> dict[str, Any]:
    """Return the document of an item with the label of one image, without its assets.

    Raises
    ------
    TimeError
        The image has no date, and ``datetime`` is not given.
    """
    item, geobox = one.item, one.cube.geobox
    geometry, bbox = (None, None)
    if one.cube.georeferenced and geobox.crs is not None:
        geometry, bbox = footprint(geobox)
    properties = {
        **item.properties,
        **_dates(one, datetime),
        **label_properties(train.task, train.label, train.classes, value=item.label, split=item.split),
        **{f"eoaug:{name}": value for name, value in one.marks.items()},
    }
    links = []
    if item.href:
        kind = "application/geo+json" if item.href.endswith(".json") else "image/tiff"
        links.append({"rel": "source", "href": _address(item.href), "type": kind})
    document = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [LABEL] + ([ML_AOI] if item.split else []),
        "id": item.id,
        "collection": f"labels-{train.label}",
        "geometry": geometry,
        "properties": properties,
        "links": links,
        "assets": {},
    }
    return document if bbox is None else {**document, "bbox": bbox}


def _address(href: str) -> str:
    return href if "://" in href else Path(href).absolute().as_posix()


def _dates(one: OpenedItem, given: str | None) -> dict[str, Any]:
    times = one.cube.times
    name = one.cube.name_time
    nominal = name is not None and "nominal" in str(one.ds[name].attrs.get("comment", ""))
    if times is not None and not nominal:
        dates = [f"{np.datetime_as_string(time, unit='s')}Z" for time in times]
    elif given is None:
        raise TimeError(
            f"item {one.item.id!r} has no date, and a STAC item needs one",
            "give the time of the images, e.g. datetime='2016-01-01/2017-12-31'",
        )
    else:
        start, end = parse_interval(given)
        if start is None or end is None:
            raise ParameterError(f"datetime={given!r} has an open end", "give both ends")
        dates = [f"{moment:%Y-%m-%dT%H:%M:%S}Z" for moment in (start, end)]
    if len(dates) == 1:
        return {"datetime": dates[0]}
    return {"datetime": None, "start_datetime": dates[0], "end_datetime": dates[-1]}


def _asset(one: OpenedItem, train: TrainingSet, document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the label, and return its asset."""
    if train.task == "classes":
        feature = {
            "type": "Feature",
            "geometry": document["geometry"],
            "properties": {train.label: one.item.label},
        }
        path = folder / "labels.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}), encoding="utf-8")
        return {"href": f"./{path.name}", "type": "application/geo+json", "roles": ["labels"]}
    path = write_label(one, train, folder / "labels", "tif")
    fields = class_fields(train.label, one.ds[train.label].attrs)
    if fields:
        document["stac_extensions"].append(CLASSIFICATION)
    return {
        "href": f"./{path.name}",
        "type": "image/tiff; application=geotiff",
        "roles": ["labels"],
        "title": train.label,
        **fields,
    }


def _collection(train: TrainingSet, documents: list[dict[str, Any]]) -> dict[str, Any]:
    boxes = np.array(
        [document["bbox"] for document in documents if "bbox" in document] or [[-180, -90, 180, 90]]
    )
    moments = sorted(
        value
        for document in documents
        for name in ("datetime", "start_datetime", "end_datetime")
        if (value := document["properties"].get(name))
    )
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "stac_extensions": [],
        "id": f"labels-{train.label}",
        "description": str(train),
        "license": "other",
        "extent": {
            "spatial": {"bbox": [[*boxes[:, :2].min(0).tolist(), *boxes[:, 2:].max(0).tolist()]]},
            "temporal": {"interval": [[moments[0], moments[-1]]]},
        },
        "links": [{"rel": "root", "href": "./collection.json", "type": "application/json"}]
        + [
            {
                "rel": "item",
                "href": f"./{document['id']}/{document['id']}.json",
                "type": "application/geo+json",
            }
            for document in documents
        ],
    }
