"""The content key: the hash of everything that decides an item's result."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pystac

from eoaug.errors import SourceError
from eoaug.generators.base import identity_of
from eoaug.jobs.units import JobContext, WorkItem
from eoaug.stac.band_sources import ItemDate
from eoaug.stac.catalog import Root
from eoaug.stac.integrity import checksum_error, damage
from eoaug.stac.items import read_item_dates
from eoaug.stac.search import signer_of
from eoaug.storage.atomic import checksum
from eoaug.storage.names import clean_href
from eoaug.storage.s3 import StoreError, entries, head, is_object

__all__ = ["content_key", "existing_output", "summary", "version"]


def summary(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the registration of an item needs to know of it."""
    dates = ("datetime", "start_datetime", "end_datetime")
    told = {name: item["properties"][name] for name in dates if name in item["properties"]}
    return {"id": item["id"], "bbox": item["bbox"], "properties": told}


# -- what is there already --------------------------------------------------------------------------------


def content_key(item: pystac.Item, unit: WorkItem, task: JobContext) -> str:
    """Return the hash of everything that decides a result: input, request, model, version of eoaug.

    Raises
    ------
    SourceError
        An input is not there, or is not what its item's checksum says.
    """
    job, generator = task.job, task.generator
    access = unit.found.access.extended(task.allow)
    scenes = read_item_dates(item, job.source.bands, signer_of(job.source.catalog), access)
    parts = {
        "eoaug": version(),
        "request": job.request,
        "generator": identity_of(generator),
        "item": [item.id, item.collection_id, item.properties, _inputs(item, scenes)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@cache  # the library's metadata are read and parsed anew each time, a fifth of the planning of an item
def version() -> str:
    """Return the version of eoaug."""
    return metadata.version("eoaug")


def _inputs(item: pystac.Item, scenes: Sequence[ItemDate]) -> list[Any]:
    """What identifies the pixels: checksums of local files, and of others what the item tells of them."""
    found: dict[str, Any] = {}
    for scene in scenes:
        for source in scene.sources.values():
            asset = item.assets[source.asset]
            fields = {name: value for name, value in asset.extra_fields.items() if name != "href"}
            told = fields.get("file:checksum")
            if is_object(source.href):
                content = told or _versions(source.href, folder=bool(source.array))
            elif "://" in source.href:
                content = told or clean_href(source.href)
            elif os.path.isdir(source.href):
                parts = sorted(part for part in Path(source.href).rglob("*") if part.is_file())
                content = [[part.relative_to(source.href).as_posix(), checksum(part)] for part in parts]
            else:
                content = checksum(Path(source.href))
                if isinstance(told, str) and told.startswith("1220") and told.lower() != content:
                    raise SourceError(
                        f"asset {source.asset!r} of item {item.id!r} is not the file that its file:checksum "
                        f"tells: {told[4:16]}... became {content[4:16]}....",
                        "Fetch the file again, or correct the item.",
                    )
            found.setdefault(source.asset, [content, fields])
    return sorted(found.items())


def _versions(href: str, *, folder: bool) -> Any:
    """What the store says of an object, or of all objects of a Zarr group: other content, other tags."""
    if not folder:
        return [head(href).tag, head(href).size]
    return sorted([key.removeprefix(href), one.tag, one.size] for key, one in entries(href, deep=True) if one)


def existing_output(root: Root, unit: WorkItem, key: str, *, verify: bool) -> tuple[dict[str, Any], ...]:
    """Return what stands of a unit's result: all of its items with that key and all of their data, or nothing."""
    folder = root.folder / unit.collection
    waiting, found = [unit.label], []
    while waiting:
        home = folder / waiting.pop()
        try:
            content = (home / f"{home.name}.json").read_bytes()
            item = json.loads(content)
            properties = item["properties"]
            if properties["eoaug:content_key"] != key or checksum_error(content):
                return ()
            if next(damage(home, item, deep=verify), None):
                return ()
            waiting += properties.get("eoaug:siblings", [])
            found.append(summary(item))
        except StoreError:  # out of reach is not the same as not there
            raise
        except (OSError, ValueError, KeyError, TypeError):
            return ()
    return tuple(found)
