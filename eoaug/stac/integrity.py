"""Whether the files of an item are those that it was published with: sizes, checksums, and Zarr's manifests.

A Zarr group reads a chunk that is not there as missing pixels, so a manifest beside it names every file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from eoaug.cube.write import checksum
from eoaug.stac.catalog import broken_seal
from eoaug.stac.places import Place

__all__ = ["MANIFEST", "Damage", "damage", "group_damage"]

MANIFEST = "manifest.json"
"""Beside a Zarr group: size and checksum of every file in it."""

Damage = Iterator[tuple[Place, str]]
"""Files, and what is wrong with each."""


def damage(home: Place, item: Mapping[str, Any], *, deep: bool) -> Damage:
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


def group_damage(data: Place, *, deep: bool) -> Damage:
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


def _file_damage(file: Place, told: Mapping[str, Any], *, deep: bool) -> Damage:
    if not file.is_file():
        yield file, "is not there"
    elif file.size != told["file:size"]:
        yield file, f"has {file.size} bytes instead of {told['file:size']}"
    elif deep and checksum(file) != told["file:checksum"]:
        yield file, "was changed since its file:checksum"
