"""Integrity of documents and files: self-checksums, sizes, and the manifests of Zarr groups.

Readers of Zarr take an absent chunk for missing pixels, so a manifest next to each group lists every file of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from eoaug.errors import SourceError, TargetError
from eoaug.storage.atomic import checksum
from eoaug.storage.limits import Limits
from eoaug.storage.location import Location
from eoaug.storage.locations import inside

__all__ = [
    "CHECKSUM",
    "MANIFEST",
    "Damage",
    "checksum_error",
    "damage",
    "data_name",
    "group_damage",
    "is_own_data",
    "json_bytes",
    "parse_json",
    "read_json",
    "with_checksum",
    "write_json",
]


CHECKSUM = "eoaug:checksum"
"""Field of a document with its self-checksum: the multihash of its JSON text without that field."""


def read_json(path: Location) -> dict[str, Any]:
    """Read a JSON document of the target catalog.

    Raises
    ------
    TargetError
        It cannot be read, or is not a JSON object.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    return parse_json(content, path)


def parse_json(content: bytes, path: Location) -> dict[str, Any]:
    """Parse a JSON document of the target catalog; raises as `read_json` does."""
    try:
        return Limits().parse_json(content, what=repr(str(path)))
    except SourceError as error:
        raise TargetError(
            f"{error.problem}: not a STAC document", "repair it, or choose another catalog"
        ) from error


def _unreadable(path: Location, error: Exception) -> TargetError:
    return TargetError(f"{str(path)!r} cannot be read: {error}", "repair it, or choose another catalog")


def with_checksum(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with its self-checksum as its last field."""
    bare = {key: value for key, value in document.items() if key != CHECKSUM}
    return {**bare, CHECKSUM: "1220" + hashlib.sha256(json_bytes(bare)).hexdigest()}


def checksum_error(content: bytes) -> str:
    """Return what is wrong with a document that has a self-checksum; empty if every byte is as it was written."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    if not isinstance(document, dict) or CHECKSUM not in document:
        return f"has lost its {CHECKSUM}"
    if json_bytes(with_checksum(document)) != content:
        return f"was changed since its {CHECKSUM}"
    return ""


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Return the one JSON encoding of a document that self-checksums are computed on."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document into a scratch folder; not atomic."""
    path.write_bytes(json_bytes(document))


MANIFEST = "manifest.json"
"""Name of the file next to a Zarr group with size and checksum of every file in the group."""

Damage = Iterator[tuple[Location, str]]
"""Damaged files, each with what is wrong with it."""


def damage(home: Location, item: Mapping[str, Any], *, deep: bool) -> Damage:
    """Yield the damaged files of an item.

    Parameters
    ----------
    home
        Folder of the item.
    item
        Its document.
    deep
        Compare checksums too, which reads every byte; else only sizes.
    """
    for asset in item["assets"].values():
        if "file:checksum" not in asset:
            continue
        file = inside(home, asset["href"])
        yield from _file_damage(file, asset, deep=deep)
        if file.name == MANIFEST and file.is_file():
            yield from group_damage(file.parent, deep=deep)


def group_damage(data: Location, *, deep: bool) -> Damage:
    """Yield the damaged files of the Zarr group in a data folder, by its manifest."""
    manifest = data / MANIFEST
    if not manifest.is_file():
        yield manifest, "is not there"
        return
    content = manifest.read_bytes()
    if problem := checksum_error(content):
        yield manifest, problem
        return
    files = json.loads(content)["files"]
    for name, fields in files.items():
        yield from _file_damage(inside(data, name), fields, deep=deep)
    present = {path for path in data.rglob("*") if path.is_file() and path != manifest}
    for path in sorted(present - {data / name for name in files}):
        yield path, "is not in the manifest"


def data_name(entries: Iterable[tuple[str, str | None]]) -> str:
    """Return the name of a folder of data: the start of the hash of addresses and checksums of its assets."""
    lines = sorted(f"{href} {digest}" for href, digest in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def is_own_data(data: Location) -> bool:
    """Return whether eoaug made a folder of data: its manifest has a self-checksum, or its name is the hash of its content."""
    manifest = data / MANIFEST
    if manifest.is_file():
        return not checksum_error(manifest.read_bytes())
    files = [path for path in data.rglob("*") if path.is_file()]
    return data.name == data_name((path.relative_to(data).as_posix(), checksum(path)) for path in files)


def _file_damage(file: Location, fields: Mapping[str, Any], *, deep: bool) -> Damage:
    if not file.is_file():
        yield file, "is not there"
    elif file.size != fields["file:size"]:
        yield file, f"has {file.size} bytes instead of {fields['file:size']}"
    elif deep and checksum(file) != fields["file:checksum"]:
        yield file, "was changed since its file:checksum"
