"""The catalog that results are written to: opened or created, with links to every new item.

In existing documents only links and extents change. Several processes may write to one catalog: each document
is read, changed and replaced under a lock. Documents that eoaug creates have a self-checksum, so that `validate`
finds every other change.
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
from eoaug.stac.collection_fields import add_item_fields
from eoaug.stac.extensions import FILE
from eoaug.stac.integrity import CHECKSUM, checksum_error, json_bytes, parse_json, read_json, with_checksum
from eoaug.storage.crash_points import hit
from eoaug.storage.location import Location
from eoaug.storage.locations import as_location, relative
from eoaug.storage.names import safe_id

__all__ = ["DATA_NAME", "GENERATORS", "MADE_BY", "STATE", "Root", "item_href"]


GENERATORS = "generators"
"""Folder of the catalog that holds the items of the models that made results; related to the target, not its child."""

STATE = ".eoaug"
"""Folder next to a catalog with the state of jobs: journals, leases, reports."""

MADE_BY = "Written by eoaug."
"""Description of catalogs that eoaug created."""

DATA_NAME = r"[0-9a-f]{16}"
"""Pattern of the name of a folder with the data of an item: the start of a hash of its content."""


@dataclass(frozen=True)
class Root:
    """The catalog that is written to; it need not exist yet."""

    top: Location
    """JSON file of the root catalog."""
    parent: Location
    """JSON file that the new collection becomes a child of; differs from ``top`` below a catalog."""

    @property
    def folder(self) -> Location:
        """Where the collection's folder lies."""
        return self.parent.parent

    @classmethod
    def at(cls, where: str | os.PathLike[str] | Location) -> Root:
        """Open the catalog at a path or at an address in an object store, or choose the file to create."""
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
                    f"{str(file)!r} is not a STAC catalog or collection (type {document.get('type')!r})",
                    "give the catalog's folder or its JSON file",
                )
            roots = [link for link in document.get("links", []) if link.get("rel") == "root"]
            href = str(roots[0].get("href", "")) if roots else ""
            top = file if not href or "://" in href else (file.parent / href)
            return cls(top.resolve(), file.resolve())
        if path.is_file():
            raise TargetError(f"{str(path)!r} is a file, not a catalog", "give a folder")
        return cls(file.resolve(), file.resolve())

    def keep_inside(self, place: Location) -> None:
        """Refuse a location outside of the catalog's folder, also one that a link leads to."""
        if self.folder.resolve() not in place.resolve().parents:
            raise TargetError(
                f"{str(place)!r} lies outside of the catalog",
                "give a plain collection id, and replace a symbolic link by a folder",
            )

    def check(self, folder: Location) -> None:
        """Refuse a collection folder that cannot be written, before anything is computed."""
        self.keep_inside(folder)
        folder.check_writable()
        collection = folder / "collection.json"
        if folder.exists() and not collection.is_file() and any(map(_is_foreign, folder.iterdir())):
            raise TargetError(
                f"folder {str(folder)!r} exists and is not a collection", "give another collection="
            )

    def register(self, name: str, items: Sequence[Mapping[str, Any]], about: str) -> None:
        """Link items from the collection, and the collection from the catalog, and widen the extent.

        Of an item, what `registered_fields` returns is read.
        """
        file = self.folder / name / "collection.json"

        def add_items(document: dict[str, Any]) -> None:
            _extend(document, items)
            # Collections of other writers and of 0.1.0 do not have them; the latter do not know their earlier items.
            if CHECKSUM in document and ("item_assets" in document or not _hrefs(document, "item")):
                add_item_fields(document, items)
            _add_links(document, "item", [item_href(item["id"]) for item in items], "application/geo+json")

        _edit(file, lambda: _new_collection(name, about, self, file), add_items)
        self._add_child(f"./{name}/collection.json")
        hit("catalog updated")

    def add_assets(self, file: Location, assets: Mapping[str, Any]) -> None:
        """Add assets with checksums to a collection of this catalog."""

        def add(document: dict[str, Any]) -> None:
            document["assets"] = dict(sorted({**document.get("assets", {}), **assets}.items()))
            document["stac_extensions"] = sorted({*document.get("stac_extensions", []), FILE})

        if assets:
            _edit(file, dict, add)

    def listed(self, name: str) -> set[str]:
        """Return the ids of the items that the collection links to; empty if the catalog does not link to it."""
        file = self.folder / name / "collection.json"
        if not file.is_file() or not self.parent.is_file():
            return set()
        children = {Path(href) for href in _hrefs(read_json(self.parent), "child")}
        if Path(f"{name}/collection.json") not in children:
            return set()
        return {Path(href).stem for href in _hrefs(read_json(file), "item")}

    def remove_stale_scratch(self, name: str) -> int:
        """Remove stale scratch folders that killed writes left for a collection; return their number."""
        return sum(
            place.remove_stale_scratch()
            for place in (self.folder, self.folder / name, self.folder / GENERATORS)
        )

    def model_file(self, item: Mapping[str, Any]) -> Location:
        """Return the location of a model's item in this catalog."""
        return self.folder / GENERATORS / f"{item['id']}.json"

    def register_model(self, item: Mapping[str, Any]) -> None:
        """Add the item of a model to the catalog, unless it is there; other weights have another id."""
        file = self.model_file(item)
        if not file.is_file() or checksum_error(file.read_bytes()):
            home = [
                {"rel": "root", "href": relative(self.top, file.parent), "type": "application/json"},
                {"rel": "parent", "href": "./catalog.json", "type": "application/json"},
            ]
            file.put(json_bytes(with_checksum({**item, "links": home})))
        above = file.parent / "catalog.json"

        def blank() -> dict[str, Any]:
            links = [
                {"rel": "root", "href": relative(self.top, above.parent), "type": "application/json"},
                {"rel": "parent", "href": f"../{self.parent.name}", "type": "application/json"},
            ]
            return _new_catalog(GENERATORS, "Models that made items of this catalog.", links)

        _edit(
            above,
            blank,
            lambda models: _add_links(models, "item", [f"./{file.name}"], "application/geo+json"),
        )
        href = f"./{GENERATORS}/catalog.json"

        def relate(catalog: dict[str, Any]) -> None:
            # Not a child: readers that load all items of a catalog cannot load a model. It was a child before 0.2.0.
            links = catalog.get("links", [])
            catalog["links"] = [
                link
                for link in links
                if link.get("rel") != "child" or Path(link.get("href", "")) != Path(href)
            ]
            _add_links(catalog, "related", [href], "application/json")

        _edit(self.parent, self._new_parent, relate)

    def _add_child(self, href: str) -> None:
        _edit(
            self.parent,
            self._new_parent,
            lambda catalog: _add_links(catalog, "child", [href], "application/json"),
        )

    def _new_parent(self) -> dict[str, Any]:
        home = [{"rel": "root", "href": f"./{self.parent.name}", "type": "application/json"}]
        return _new_catalog(safe_id(self.folder.name), MADE_BY, home)


def item_href(name: str) -> str:
    """Return the href of an item, relative to its collection."""
    return f"./{name}/{name}.json"


def _is_foreign(path: Location) -> bool:
    """Return whether a path in a folder without a collection does not come from a write in flight."""
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
        # The licence of a result depends on those of its sources, which a cube does not carry.
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
    boxes += [item["bbox"] for item in items if "bbox" in item]
    # Chips without coordinates lie nowhere: the collection may then be anywhere.
    boxes = boxes or [[-180.0, -90.0, 180.0, 90.0]]
    crossing = any(box[0] > box[2] for box in boxes)
    west = -180.0 if crossing else min(box[0] for box in boxes)
    east = 180.0 if crossing else max(box[2] for box in boxes)
    if len(boxes) == 1:
        west, east = boxes[0][0], boxes[0][2]
    union = [west, min(box[1] for box in boxes), east, max(box[3] for box in boxes)]
    extent["spatial"]["bbox"][:1] = [union]
    ends = [end for end in extent["temporal"]["interval"][0] if end]
    for item in items:
        properties = item["properties"]
        ends += [v for k in ("datetime", "start_datetime", "end_datetime") if (v := properties.get(k))]
    ends.sort(key=datetime.fromisoformat)
    extent["temporal"]["interval"][:1] = [[ends[0], ends[-1]]]


def _hrefs(document: Mapping[str, Any], rel: str) -> list[str]:
    links = document.get("links", [])
    return [str(link.get("href")) for link in links if isinstance(link, dict) and link.get("rel") == rel]


def _add_links(document: dict[str, Any], rel: str, hrefs: Sequence[str], media_type: str) -> None:
    known = {Path(href) for href in _hrefs(document, rel)}
    links = document.setdefault("links", [])
    links += [{"rel": rel, "href": h, "type": media_type} for h in hrefs if Path(h) not in known]
    if CHECKSUM in document:
        # Workers finish in any order, and the document must not depend on it.
        links.sort(key=lambda link: (link["rel"] in ("item", "child"), link["rel"], link["href"]))


def _edit(
    file: Location, blank: Callable[[], dict[str, Any]], change: Callable[[dict[str, Any]], None]
) -> None:
    """Change a document under its lock; ``blank`` creates a missing one."""

    def changed(content: bytes | None) -> bytes | None:
        before = None if content is None else parse_json(content, file)
        document = with_checksum(blank()) if before is None else copy.deepcopy(before)
        change(document)
        if document == before:
            return None
        return json_bytes(with_checksum(document) if CHECKSUM in document else document)

    file.edit(changed)
