"""Fields of a collection that describe its items: ``item_assets`` and ``summaries``.

Workers register items in any order, and the collection must not depend on it: an asset keeps the fields that all items agree
on, and a summary is the sorted set of all values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["LEFT_OUT", "add_item_fields", "registered_fields"]

_DATES = ("datetime", "start_datetime", "end_datetime")
_SUMMARISED = ("eoaug:generator", "eoaug:operation", "eoaug:synthetic", "gsd", "platform", "proj:code")
"""Properties with few different values."""
LEFT_OUT = "eoaug:left_out"
"""Property of an item of many images: those that could not be made, and why."""
_REPORTED = ("eoaug:synthetic_fraction", LEFT_OUT)
"""Read by the report of a job."""
_OF_ASSETS = ("type", "title", "roles", "gsd", "data_type", "nodata", "unit", "bands", "raster:scale", "raster:offset",
              "raster:spatial_resolution")  # fmt: skip
"""Fields of an asset that do not belong to one file."""


def registered_fields(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an item that its registration in a collection needs."""
    assets = {
        key: {name: asset[name] for name in _OF_ASSETS if name in asset}
        for key, asset in item.get("assets", {}).items()
    }
    properties = item["properties"]
    return {
        "id": item["id"],
        **({"bbox": item["bbox"]} if "bbox" in item else {}),
        "properties": {
            name: properties[name] for name in (*_DATES, *_SUMMARISED, *_REPORTED) if name in properties
        },
        "assets": assets,
    }


def add_item_fields(collection: dict[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
    """Add new items to ``item_assets`` and ``summaries`` of a collection.

    Parameters
    ----------
    collection
        The document; changed in place.
    items
        As `registered_fields` returns them, or whole.
    """
    summaries: dict[str, list[Any]] = collection.setdefault("summaries", {})
    assets: dict[str, dict[str, Any]] = collection.setdefault("item_assets", {})
    for item in map(registered_fields, items):
        for name in _SUMMARISED:
            if name in item["properties"]:
                values = [*summaries.get(name, ()), item["properties"][name]]
                summaries[name] = sorted(set(values))
        for key, fields in item["assets"].items():
            assets[key] = _common(assets[key], fields) if key in assets else fields
    collection["summaries"] = dict(sorted(summaries.items()))
    collection["item_assets"] = dict(sorted(assets.items()))


def _common(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields on which two assets agree; of their roles those that both have."""
    same = {name: value for name, value in one.items() if other.get(name) == value}
    roles = [role for role in one.get("roles", ()) if role in other.get("roles", ())]
    return {
        name: roles if name == "roles" else same[name]
        for name in one
        if name in same or (name == "roles" and roles)
    }
