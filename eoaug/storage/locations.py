"""Where catalogs are kept: one seam over folders and object stores.

A `Place` is a file or folder there. Reading follows ``pathlib``; writing has verbs of its own, each of which
leaves what was there, or all of what is new: `put` a document, `edit` it against no other process, `publish`
finished data. On a file system that is a rename, on an object store one request.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import cast

from eoaug.errors import TargetError
from eoaug.storage import s3
from eoaug.storage.local_location import LocalLocation
from eoaug.storage.location import Location
from eoaug.storage.s3_location import S3Location

__all__ = ["as_location", "relative"]


def as_location(text: str | os.PathLike[str] | Location) -> Location:
    """Return the place that a user named: ``s3://bucket/prefix``, or a path.

    Raises
    ------
    ParameterError
        An address of an object that is none.
    """
    if isinstance(text, LocalLocation | S3Location):
        return text
    told = os.fspath(cast("str | os.PathLike[str]", text))
    if s3.is_object(told):
        return S3Location(*s3.parse(told))
    if "://" in told:
        raise TargetError(
            f"{told.partition('?')[0]!r} is no place to write to.", "Give a folder, or s3://bucket/prefix."
        )
    return LocalLocation(told).expanduser()


# -- what both share ------------------------------------------------------------------------------------


def relative(target: Location, home: Location) -> str:
    """Return the path to ``target`` as seen from the folder ``home``, with slashes."""
    if isinstance(target, S3Location):
        inside = isinstance(home, S3Location) and target.bucket == home.bucket
        return posixpath.relpath("/" + target.key, "/" + home.key) if inside else str(target)  # type: ignore[attr-defined]
    if isinstance(home, S3Location):
        return Path(str(target)).resolve().as_uri()
    return Path(os.path.relpath(str(target.resolve()), str(home.resolve()))).as_posix()
