"""The content key: the hash of everything that decides an item's result."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pystac

from eoaug.errors import SourceError
from eoaug.jobs.config import Job
from eoaug.jobs.work_items import WorkItem
from eoaug.stac.band_sources import BandSource, ItemDate, pixel_size
from eoaug.stac.catalog import Root
from eoaug.stac.collection_fields import registered_fields
from eoaug.stac.integrity import checksum_error, damage
from eoaug.stac.items import read_item_dates
from eoaug.stac.search import SourceItem, as_item, signer_of
from eoaug.storage.access import AccessPolicy
from eoaug.storage.atomic import checksum_of
from eoaug.storage.names import clean_href, safe_id
from eoaug.storage.s3 import StoreError, entries, head, is_object

__all__ = [
    "ReadItem",
    "Shapes",
    "content_key",
    "existing_output",
    "is_published",
    "read_bands",
    "read_item",
    "shapes_of",
    "version",
]


def content_key(inputs: Sequence[str], job: Job, method: str) -> str:
    """Return the hash of everything that decides a result: input, request, model and version of eoaug.

    Parameters
    ----------
    inputs
        Identities of the items that are used, as `read_item` returns them.
    job
        The request.
    method
        Identity of the generator; of a corruption, its name.
    """
    parts = {"eoaug": version(), "request": job.request, "generator": method, "items": list(inputs)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_bands(
    item: pystac.Item, access: AccessPolicy, job: Job, allow: Sequence[str], *, grids_only: bool = False
) -> list[ItemDate]:
    """Return the bands of an item that a job asks for; see `read_item_dates`."""
    bands, signer = job.source.bands, signer_of(job.source.catalog)
    return read_item_dates(
        item, bands, signer, access.extended(allow), labels=job.labels, grids_only=grids_only
    )


Shapes = tuple[tuple[str, str, tuple[int, ...], float], ...]
"""Name, type, shape and pixel size of each band, by which items of equal cost are recognised."""


def shapes_of(scenes: Sequence[ItemDate]) -> Shapes:
    """Return what the cost of an item depends on."""
    return tuple(
        (name, band.dtype, tuple(band.geobox.shape), pixel_size(band.geobox))
        for scene in scenes
        for name, band in scene.sources.items()
    )


@dataclass(frozen=True)
class ReadItem:
    """What a job needs to know of an item that it uses several times."""

    identity: str
    """Hash of the item's document and of the pixels that are read of it."""
    files: Mapping[str, tuple[int, ...] | None] | None
    """State of its local files when it was read; None if it depends on folders or objects."""


def read_item(entry: SourceItem, job: Job, allow: Sequence[str]) -> ReadItem:
    """Return what identifies an item.

    A process that has read it does so again only if the document or a local file has changed: jobs over series use
    each item many times.

    Parameters
    ----------
    entry
        The item.
    job
        The request, which chooses the bands.
    allow
        What addresses in the item may point to.

    Raises
    ------
    SourceError
        An input is missing, or differs from its item's checksum.
    """
    asked = entry.fingerprint, job.source.bands, job.source.catalog, job.labels, tuple(allow)
    with _READ_LOCK:
        known = _READ.get(asked)
    if known is not None and all(_state(path) == state for path, state in (known.files or {}).items()):
        return known
    item = as_item(entry)
    scenes = read_bands(item, entry.access, job, allow)
    files = _files(scenes)
    parts = [item.id, item.collection_id, item.properties, _inputs(item, scenes)]
    identity = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    read = ReadItem(identity, files)
    if files is not None:
        with _READ_LOCK:
            while len(_READ) >= _MOST_READ:
                _READ.popitem(last=False)
            _READ[asked] = read
    return read


_MOST_READ = 4096
_READ: OrderedDict[tuple[Any, ...], ReadItem] = OrderedDict()
_READ_LOCK = threading.Lock()


def _files(scenes: Sequence[ItemDate]) -> dict[str, tuple[int, ...] | None] | None:
    """Return the state of the local files of an item; None if the identity depends on folders or objects."""
    paths = {source.href for scene in scenes for source in scene.sources.values()}
    if any(is_object(path) or os.path.isdir(path) for path in paths):
        return None
    return {path: _state(path) for path in paths if "://" not in path}


def _state(path: str) -> tuple[int, ...] | None:
    """Return what changes with the content of a file; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@cache  # parsing the package metadata takes a fifth of the time in which an item is planned
def version() -> str:
    """Return the version of eoaug."""
    return metadata.version("eoaug")


def _inputs(item: pystac.Item, scenes: Sequence[ItemDate]) -> list[Any]:
    """Return what identifies the pixels: checksums of local files, and the metadata of other files."""
    inputs: dict[str, Any] = {}
    for scene in scenes:
        for source in scene.sources.values():
            asset = item.assets[source.asset]
            fields = {name: value for name, value in asset.extra_fields.items() if name != "href"}
            declared = fields.get("file:checksum")
            if is_object(source.href):
                content = declared or _versions(source.href, folder=bool(source.array))
            elif "://" in source.href:
                content = declared or clean_href(source.href)
            elif os.path.isdir(source.href):
                parts = sorted(part for part in Path(source.href).rglob("*") if part.is_file())
                content = [
                    [part.relative_to(source.href).as_posix(), _checksum(source, str(part))] for part in parts
                ]
            else:
                content = _checksum(source, source.href)
                if isinstance(declared, str) and declared.startswith("1220") and declared.lower() != content:
                    raise SourceError(
                        f"asset {source.asset!r} of item {item.id!r} does not match its file:checksum: "
                        f"the file has {content[4:16]}, the item says {declared[4:16]}",
                        "fetch the file again, or correct the item",
                    )
            inputs.setdefault(source.asset, [content, fields])
    return sorted(inputs.items())


def _checksum(source: BandSource, path: str) -> str:
    """Return the checksum of a file that the access policy of its source allows."""
    with source.access.open(path, what=f"asset {source.asset!r} of item {source.item!r}") as file:
        return checksum_of(file)  # type: ignore[arg-type]


def _versions(href: str, *, folder: bool) -> Any:
    """Return entity tag and size of an object, or of all objects of a Zarr group; tags change with the content."""
    if not folder:
        return [head(href).tag, head(href).size]
    return sorted(
        [key.removeprefix(href), entry.tag, entry.size] for key, entry in entries(href, deep=True) if entry
    )


def is_published(root: Root, work_item: WorkItem) -> bool:
    """Return whether a work item has an output, whatever its content key."""
    return (root.folder / work_item.collection / work_item.label / f"{work_item.label}.json").is_file()


def existing_output(root: Root, work_item: WorkItem, key: str, *, verify: bool) -> tuple[dict[str, Any], ...]:
    """Return the existing output of a work item: all its items, complete and with this content key, or nothing.

    Parameters
    ----------
    root
        The catalog.
    work_item
        The work item.
    key
        Content key that the items must have.
    verify
        Also check the checksums of the data.
    """
    folder = root.folder / work_item.collection
    pending, items = [work_item.label], []
    while pending:
        home = folder / pending.pop()
        try:
            content = (home / f"{home.name}.json").read_bytes()
            item = json.loads(content)
            properties = item["properties"]
            if properties["eoaug:content_key"] != key or checksum_error(content):
                return ()
            if next(damage(home, item, deep=verify), None):
                return ()
            pending += [safe_id(str(name)) for name in properties.get("eoaug:siblings", [])]
            items.append(registered_fields(item))
        except StoreError:  # a store that does not answer does not mean that there is no output
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return ()
    return tuple(items)
