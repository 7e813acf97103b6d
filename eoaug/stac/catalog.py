"""The catalog that results are written to: found or made, and told of every new item.

Only links and extents change in documents that were there before; whatever else they hold stays.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from eoaug.cube.write import finished
from eoaug.errors import TargetError

__all__ = ["Root", "relative", "safe_id", "write_json"]


@dataclass(frozen=True)
class Root:
    """The catalog that is written to: an existing one, or one to be made."""

    top: Path
    """Its JSON file."""
    parent: Path
    """JSON file that the new collection becomes a child of; differs from ``top`` below a catalog."""

    @property
    def folder(self) -> Path:
        """Where the collection's folder lies."""
        return self.parent.parent

    @classmethod
    def at(cls, path: Path) -> Root:
        """Find what is at ``path``."""
        if path.suffix == ".json":
            file = path
        else:
            existing = [
                path / name for name in ("catalog.json", "collection.json") if (path / name).is_file()
            ]
            file = existing[0] if existing else path / "catalog.json"
        if file.is_file():
            document = _read_json(file)
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

    def check(self, folder: Path) -> None:
        """Refuse a target that cannot be written, before anything is computed."""
        if self.folder.resolve() not in folder.resolve().parents:
            raise TargetError(f"{str(folder)!r} lies outside of the catalog.", "Give a plain collection id.")
        place = folder
        while not place.exists():
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise TargetError(
                f"cannot write to {str(place)!r}: no permission, or no folder.",
                "Choose a folder that you may write.",
            )
        ours = folder / "collection.json"
        if folder.exists() and not ours.is_file() and any(folder.glob("*")):
            raise TargetError(
                f"folder {str(folder)!r} is there and holds no collection.", "Give another collection=."
            )

    def register(self, name: str, items: Sequence[Mapping[str, Any]], about: str) -> None:
        """Add items to the collection, and the collection to the catalog, whatever else they hold."""
        file = self.folder / name / "collection.json"
        document = _read_json(file) if file.is_file() else _new_collection(name, about, self, file)
        _extend(document, items)
        for item in items:
            _add_link(document, "item", f"./{item['id']}/{item['id']}.json", "application/geo+json")
        _replace_json(file, document)
        if self.parent.is_file():
            above = _read_json(self.parent)
        else:
            above = {
                "type": "Catalog",
                "stac_version": "1.1.0",
                "id": safe_id(self.folder.name),
                "description": "Written by eoaug.",
                "links": [{"rel": "root", "href": f"./{self.parent.name}", "type": "application/json"}],
            }
        if _add_link(above, "child", f"./{name}/collection.json", "application/json"):
            _replace_json(self.parent, above)


def _new_collection(name: str, about: str, root: Root, file: Path) -> dict[str, Any]:
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


def _add_link(document: dict[str, Any], rel: str, href: str, media_type: str) -> bool:
    links = document.setdefault("links", [])
    if any(k.get("rel") == rel and Path(str(k.get("href"))) == Path(href) for k in links):
        return False
    links.append({"rel": rel, "href": href, "type": media_type})
    return True


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TargetError(
            f"{str(path)!r} cannot be read: {error}.", "Repair it, or choose another catalog."
        ) from error
    if not isinstance(document, dict):
        raise TargetError(f"{str(path)!r} is no STAC document.", "Choose another catalog.")
    return document


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document for people and diffs; not atomic, for scratch folders."""
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _replace_json(path: Path, document: Mapping[str, Any]) -> None:
    with finished(path, overwrite=True) as scratch:
        write_json(scratch, document)


def relative(target: Path, home: Path) -> str:
    """Return the path to ``target`` as seen from the folder ``home``, with slashes."""
    return Path(os.path.relpath(target.resolve(), home.resolve())).as_posix()


def safe_id(text: str) -> str:
    """Return ``text`` as a name that is one path segment on every system."""
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("._")[:128]
    return name or "item"
