"""Files about the images of a catalog, such as a policy, captions, a selection or a verdict, as assets of its collections."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eoaug.stac.catalog import Root
from eoaug.stac.integrity import CHECKSUM, read_json
from eoaug.storage.atomic import checksum
from eoaug.storage.location import Location
from eoaug.storage.locations import relative

__all__ = ["SIDECARS", "add_sidecars"]


SIDECARS: Mapping[str, tuple[str, str, str]] = {
    "policy": ("policy.yaml", "application/yaml", "What was made of each image"),
    "captions": ("captions.jsonl", "application/jsonl", "Captions of the real images"),
    "selection": ("selection/selection.jsonl", "application/jsonl", "Which made images are kept, and why"),
    "selection-page": ("selection/index.html", "text/html", "The selection as a page"),
    "verdict": ("gate/verdict.json", "application/json", "Whether the made images improve a model"),
    "verdict-page": ("gate/index.html", "text/html", "The verdict as a page"),
}
"""By key of the asset: path in the folder of the catalog, media type, title."""


def add_sidecars(catalog: str | os.PathLike[str] | Location) -> None:
    """List those of `SIDECARS` that exist as assets of every collection of a catalog that eoaug wrote.

    Assets have the role ``metadata`` and a checksum, so that `validate` finds other files in their place.
    """
    root = Root.at(catalog)
    if not root.parent.is_file():
        return
    there = {key: root.folder / path for key, (path, _, _) in SIDECARS.items()}
    there = {key: file for key, file in there.items() if file.is_file()}
    links = read_json(root.parent).get("links", [])
    hrefs = [str(link.get("href")) for link in links if link.get("rel") == "child"]
    for href in hrefs:
        file = root.folder / Path(href).as_posix()
        if "://" not in href and file.is_file() and CHECKSUM in read_json(file):
            root.add_assets(file, {key: _asset(key, path, file.parent) for key, path in there.items()})


def _asset(key: str, file: Location, folder: Location) -> dict[str, Any]:
    _, media_type, title = SIDECARS[key]
    return {
        "href": relative(file, folder),
        "type": media_type,
        "title": title,
        "roles": ["metadata"],
        "file:checksum": checksum(file),
    }
