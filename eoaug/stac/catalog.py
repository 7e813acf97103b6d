"""The catalog that results are written to: found or made, and told of every new item.

Only links and extents change in documents that were there before; whatever else they hold stays. Several
processes may write to one catalog: each document is read, changed and replaced against no other process.
Documents that eoaug makes carry a seal, a checksum of themselves, so that `validate` finds every change.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from eoaug.errors import TargetError
from eoaug.stac.integrity import SEAL, broken_seal, parse_json, read_json, sealed, spelled
from eoaug.storage.crash_points import hit
from eoaug.storage.location import Location
from eoaug.storage.locations import as_location, relative
from eoaug.storage.names import safe_id

__all__ = ["DATA_NAME", "GENERATORS", "MADE_BY", "STATE", "Root", "item_href"]


GENERATORS = "generators"
"""Folder of the sub-catalog that holds the items of the models that made results."""

STATE = ".eoaug"
"""Folder beside a catalog that holds what jobs remember: journals, leases, reports."""

MADE_BY = "Written by eoaug."
"""Description of catalogs that eoaug made."""

DATA_NAME = r"[0-9a-f]{16}"
"""Name of a folder with the data of an item: it follows from their content."""


@dataclass(frozen=True)
class Root:
    """The catalog that is written to: an existing one, or one to be made."""

    top: Location
    """Its JSON file."""
    parent: Location
    """JSON file that the new collection becomes a child of; differs from ``top`` below a catalog."""

    @property
    def folder(self) -> Location:
        """Where the collection's folder lies."""
        return self.parent.parent

    @classmethod
    def at(cls, where: str | os.PathLike[str] | Location) -> Root:
        """Find what is at a path, or at the address of an object store."""
        path = as_location(where)
        if path.suffix == ".json":
            file = path
        else:
            existing = [
                path / name for name in ("catalog.json", "collection.json") if (path / name).is_file()
            ]
            file = existing[0] if existing else path / "catalog.json"
        if file.is_file():
            document = read_json(file)
            if document.get("type") not in ("Catalog", "Collection"):
                raise TargetError(
                    f"{str(file)!r} is no STAC catalog or collection (type {document.get('type')!r}).",
                    "Give the catalog's folder or its JSON file.",
                )
            roots = [link for link in document.get("links", []) if link.get("rel") == "root"]
            href = str(roots[0].get("href", "")) if roots else ""
            top = file if not href or "://" in href else (file.parent / href)
            return cls(top.resolve(), file.resolve())
        if path.is_file():
            raise TargetError(f"{str(path)!r} is a file, not a catalog.", "Give a folder.")
        return cls(file.resolve(), file.resolve())

    def keep_inside(self, place: Location) -> None:
        """Refuse a place that lies outside of the catalog's folder, or leads there by a link."""
        if self.folder.resolve() not in place.resolve().parents:
            raise TargetError(
                f"{str(place)!r} lies outside of the catalog.",
                "Give a plain collection id, and have a folder in its place, no link.",
            )

    def check(self, folder: Location) -> None:
        """Refuse a target that cannot be written, before anything is computed."""
        self.keep_inside(folder)
        folder.check_writable()
        ours = folder / "collection.json"
        if folder.exists() and not ours.is_file() and any(map(_is_foreign, folder.iterdir())):
            raise TargetError(
                f"folder {str(folder)!r} is there and holds no collection.", "Give another collection=."
            )

    def register(self, name: str, items: Sequence[Mapping[str, Any]], about: str) -> None:
        """Add items to the collection, and the collection to the catalog, whatever else they hold.

        Of an item, ``id``, ``bbox`` and the dates among ``properties`` are looked at.
        """
        file = self.folder / name / "collection.json"

        def add_items(document: dict[str, Any]) -> None:
            _extend(document, items)
            _add_links(document, "item", [item_href(item["id"]) for item in items], "application/geo+json")

        _edit(file, lambda: _new_collection(name, about, self, file), add_items)
        self._add_child(f"./{name}/collection.json")
        hit("catalog told")

    def listed(self, name: str) -> set[str]:
        """Return the ids of the items of eoaug that the collection lists, if the catalog lists it."""
        file = self.folder / name / "collection.json"
        if not file.is_file() or not self.parent.is_file():
            return set()
        children = {Path(href) for href in _hrefs(read_json(self.parent), "child")}
        if Path(f"{name}/collection.json") not in children:
            return set()
        found = (Path(href).stem for href in _hrefs(read_json(file), "item"))
        return set(found)

    def remove_stale_scratch(self, name: str) -> int:
        """Clear away what killed writes have left for a collection; return the number of what went."""
        return sum(
            place.remove_stale_scratch()
            for place in (self.folder, self.folder / name, self.folder / GENERATORS)
        )

    def model_file(self, item: Mapping[str, Any]) -> Location:
        """Return where the item of a model stands in this catalog."""
        return self.folder / GENERATORS / f"{item['id']}.json"

    def register_model(self, item: Mapping[str, Any]) -> None:
        """Put the item of a model into the catalog, unless it is there; other weights have another id."""
        file = self.model_file(item)
        if not file.is_file() or broken_seal(file.read_bytes()):
            home = [
                {"rel": "root", "href": relative(self.top, file.parent), "type": "application/json"},
                {"rel": "parent", "href": "./catalog.json", "type": "application/json"},
            ]
            file.put(spelled(sealed({**item, "links": home})))
        above = file.parent / "catalog.json"

        def blank() -> dict[str, Any]:
            links = [
                {"rel": "root", "href": relative(self.top, above.parent), "type": "application/json"},
                {"rel": "parent", "href": f"../{self.parent.name}", "type": "application/json"},
            ]
            return _new_catalog(GENERATORS, "Models that made items of this catalog.", links)

        _edit(
            above, blank, lambda found: _add_links(found, "item", [f"./{file.name}"], "application/geo+json")
        )
        self._add_child(f"./{GENERATORS}/catalog.json")

    def _add_child(self, href: str) -> None:
        def blank() -> dict[str, Any]:
            home = [{"rel": "root", "href": f"./{self.parent.name}", "type": "application/json"}]
            return _new_catalog(safe_id(self.folder.name), MADE_BY, home)

        _edit(self.parent, blank, lambda found: _add_links(found, "child", [href], "application/json"))


def item_href(name: str) -> str:
    """Return where an item stands, as its collection sees it."""
    return f"./{name}/{name}.json"


def _is_foreign(path: Location) -> bool:
    """Tell whether a path in a folder without a collection is not from a write that is under way."""
    if path.name.startswith(".") or (path / f"{path.name}.json").is_file():
        return False
    return not path.is_dir() or not all(re.fullmatch(DATA_NAME, inner.name) for inner in path.iterdir())


def _new_catalog(name: str, about: str, links: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "Catalog", "stac_version": "1.1.0", "id": name, "description": about, "links": links}


def _new_collection(name: str, about: str, root: Root, file: Location) -> dict[str, Any]:
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": name,
        "description": about,
        # The licence of a result follows from its sources', which a cube does not carry.
        "license": "other",
        "extent": {"spatial": {"bbox": []}, "temporal": {"interval": [[None, None]]}},
        "links": [
            {"rel": "root", "href": relative(root.top, file.parent), "type": "application/json"},
            {"rel": "parent", "href": f"../{root.parent.name}", "type": "application/json"},
        ],
    }


def _extend(document: dict[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
    """Widen a collection's extent to new items."""
    extent = document["extent"]
    boxes = [box for box in extent["spatial"]["bbox"][:1] if len(box) == 4]
    boxes += [item["bbox"] for item in items]
    crossing = any(box[0] > box[2] for box in boxes)
    west = -180.0 if crossing else min(box[0] for box in boxes)
    east = 180.0 if crossing else max(box[2] for box in boxes)
    if len(boxes) == 1:
        west, east = boxes[0][0], boxes[0][2]
    union = [west, min(box[1] for box in boxes), east, max(box[3] for box in boxes)]
    extent["spatial"]["bbox"][:1] = [union]
    ends = [end for end in extent["temporal"]["interval"][0] if end]
    for item in items:
        told = item["properties"]
        ends += [v for k in ("datetime", "start_datetime", "end_datetime") if (v := told.get(k))]
    ends.sort(key=datetime.fromisoformat)
    extent["temporal"]["interval"][:1] = [[ends[0], ends[-1]]]


def _hrefs(document: Mapping[str, Any], rel: str) -> list[str]:
    links = document.get("links", [])
    return [str(link.get("href")) for link in links if isinstance(link, dict) and link.get("rel") == rel]


def _add_links(document: dict[str, Any], rel: str, hrefs: Sequence[str], media_type: str) -> None:
    known = {Path(href) for href in _hrefs(document, rel)}
    links = document.setdefault("links", [])
    links += [{"rel": rel, "href": h, "type": media_type} for h in hrefs if Path(h) not in known]
    if SEAL in document:
        # Workers finish in any order; the document must not depend on it.
        links.sort(key=lambda link: (link["rel"] in ("item", "child"), link["rel"], link["href"]))


def _edit(
    file: Location, blank: Callable[[], dict[str, Any]], change: Callable[[dict[str, Any]], None]
) -> None:
    """Change a document, or a blank one where there is none, against no other process."""

    def changed(content: bytes | None) -> bytes | None:
        before = None if content is None else parse_json(content, file)
        document = sealed(blank()) if before is None else copy.deepcopy(before)
        change(document)
        if document == before:
            return None
        return spelled(sealed(document) if SEAL in document else document)

    file.edit(changed)
