"""Whether the files of an item are those that it was published with: sizes, checksums, and Zarr's manifests.

A Zarr group reads a chunk that is not there as missing pixels, so a manifest beside it names every file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eoaug.errors import TargetError
from eoaug.storage.atomic import checksum
from eoaug.storage.location import Location

__all__ = [
    "MANIFEST",
    "SEAL",
    "Damage",
    "broken_seal",
    "damage",
    "group_damage",
    "parse_json",
    "read_json",
    "sealed",
    "spelled",
    "write_json",
]


SEAL = "eoaug:checksum"
"""Field of a document with the multihash of its own text without that field."""


def read_json(path: Location) -> dict[str, Any]:
    """Read a document of the target.

    Raises
    ------
    TargetError
        It cannot be read, or is no JSON object.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    return parse_json(content, path)


def parse_json(content: bytes, path: Location) -> dict[str, Any]:
    """Return what a document of the target says; raises as `read_json` does."""
    try:
        document = json.loads(content.decode())
    except ValueError as error:
        raise _unreadable(path, error) from error
    if not isinstance(document, dict):
        raise TargetError(f"{str(path)!r} is no STAC document.", "Choose another catalog.")
    return document


def _unreadable(path: Location, error: Exception) -> TargetError:
    return TargetError(f"{str(path)!r} cannot be read: {error}.", "Repair it, or choose another catalog.")


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with its own checksum as its last field."""
    bare = {key: value for key, value in document.items() if key != SEAL}
    return {**bare, SEAL: "1220" + hashlib.sha256(spelled(bare)).hexdigest()}


def broken_seal(content: bytes) -> str:
    """Return what is wrong with a sealed document, byte for byte; nothing for an intact one."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        return f"is no JSON: {error}"
    if not isinstance(document, dict) or SEAL not in document:
        return f"has lost its {SEAL}"
    if spelled(sealed(document)) != content:
        return f"was changed since its {SEAL}"
    return ""


def spelled(document: Mapping[str, Any]) -> bytes:
    """Spell a document for people and diffs, in the one way that seals are made for."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document; not atomic, for scratch folders."""
    path.write_bytes(spelled(document))


MANIFEST = "manifest.json"
"""Beside a Zarr group: size and checksum of every file in it."""

Damage = Iterator[tuple[Location, str]]
"""Files, and what is wrong with each."""


def damage(home: Location, item: Mapping[str, Any], *, deep: bool) -> Damage:
    """Yield what is wrong with the files of an item.

    Parameters
    ----------
    home
        Folder of the item.
    item
        Its document.
    deep
        Read every byte; else only sizes are looked at.
    """
    for asset in item["assets"].values():
        if "file:checksum" not in asset:
            continue
        file = home / asset["href"]
        yield from _file_damage(file, asset, deep=deep)
        if file.name == MANIFEST and file.is_file():
            yield from group_damage(file.parent, deep=deep)


def group_damage(data: Location, *, deep: bool) -> Damage:
    """Yield what is wrong with the Zarr group in a data folder, by the manifest beside it."""
    manifest = data / MANIFEST
    if not manifest.is_file():
        yield manifest, "is not there"
        return
    content = manifest.read_bytes()
    if problem := broken_seal(content):
        yield manifest, problem
        return
    files = json.loads(content)["files"]
    for name, told in files.items():
        yield from _file_damage(data / name, told, deep=deep)
    extra = {part for part in data.rglob("*") if part.is_file() and part != manifest}
    for part in sorted(extra - {data / name for name in files}):
        yield part, "is not in the manifest"


def _file_damage(file: Location, told: Mapping[str, Any], *, deep: bool) -> Damage:
    if not file.is_file():
        yield file, "is not there"
    elif file.size != told["file:size"]:
        yield file, f"has {file.size} bytes instead of {told['file:size']}"
    elif deep and checksum(file) != told["file:checksum"]:
        yield file, "was changed since its file:checksum"
