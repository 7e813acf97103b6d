"""Where catalogs are kept: one interface for folders and object stores.

A `Location` is a file or folder. Reading follows ``pathlib``. Each writing method leaves either the old content
or all of the new: `put` a document, `edit` it while no other process can, `publish` complete data. On a file
system that is a rename, on an object store one request.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import Any, cast

from eoaug.errors import TargetError
from eoaug.storage import s3
from eoaug.storage.local_location import LocalLocation
from eoaug.storage.location import Location
from eoaug.storage.s3_location import S3Location

__all__ = ["as_location", "inside", "relative"]


def as_location(text: str | os.PathLike[str] | Location) -> Location:
    """Return the location that a user named: ``s3://bucket/prefix``, or a path.

    Raises
    ------
    ParameterError
        A malformed address of an object.
    TargetError
        A URL of another scheme.
    """
    if isinstance(text, LocalLocation | S3Location):
        return text
    path = os.fspath(cast("str | os.PathLike[str]", text))
    if s3.is_object(path):
        return S3Location(*s3.parse(path))
    if "://" in path:
        raise TargetError(
            f"cannot write to {path.partition('?')[0]!r}", "give a folder, or s3://bucket/prefix"
        )
    # What the user names may lie behind links; nothing below it may.
    return LocalLocation(path).expanduser().resolve()


def inside(folder: Location, href: Any) -> Location:
    """Return the location of a relative address that a document in ``folder`` has, which lies below that folder.

    Raises
    ------
    TargetError
        It is absolute, or leads out of the folder.
    """
    parts = href.replace("\\", "/").split("/") if isinstance(href, str) else [".."]
    if ".." in parts or parts[0] == "" or ":" in parts[0] or "\x00" in "".join(parts):
        raise TargetError(
            f"{str(href)[:200]!r} leads out of {str(folder)!r}", "correct the document, or write it again"
        )
    return folder / str(href)


def relative(target: Location, home: Location) -> str:
    """Return the relative path from the folder ``home`` to ``target``, with slashes; else its full address."""
    if isinstance(target, S3Location):
        inside = isinstance(home, S3Location) and target.bucket == home.bucket
        return posixpath.relpath("/" + target.key, "/" + home.key) if inside else str(target)  # type: ignore[attr-defined]
    if isinstance(home, S3Location):
        return Path(str(target)).resolve().as_uri()
    return Path(os.path.relpath(str(target.resolve()), str(home.resolve()))).as_posix()
