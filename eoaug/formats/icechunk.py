"""Icechunk repositories: one commit each, to write and to read; the one door to the optional library.

A repository shows a commit or nothing, whatever happens to its writer. Icechunk's storage on a file system
does not keep two committers apart, so every repository has one, in a scratch folder that is its own; from there
it goes to its place, in an object store too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eoaug.errors import EoaugError, SourceError, TargetError
from eoaug.storage.s3 import icechunk_options, is_object, parse

__all__ = ["committed", "last_commit", "require"]


_BRANCH = "main"


def require(error: type[EoaugError]) -> Any:
    """Return the library.

    Raises
    ------
    EoaugError
        Of the given kind: it is not installed.
    """
    try:
        import icechunk
    except ImportError as missing:
        raise error(
            "format 'icechunk' needs the package icechunk, which is not installed",
            "pip install 'eoaug[icechunk]', or use the format zarr",
        ) from missing
    # It warns on the terminal of what the one committer rules out.
    icechunk.set_logs_filter("error")
    return icechunk


@contextmanager
def committed(folder: Path) -> Iterator[Any]:
    """Give the Zarr store of a new repository; what was written is committed when the block ends without error."""
    icechunk = require(TargetError)
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
    session = repository.writable_session(_BRANCH)
    yield session.store
    session.commit("Written by eoaug.")


def last_commit(address: str) -> Any:
    """Return the Zarr store of what a repository in a folder or an object store holds.

    Its chunks may be references to files and hosts elsewhere; Icechunk reads none that is not authorised, and
    none is.
    """
    icechunk = require(SourceError)
    if is_object(address):
        bucket, prefix = parse(address)
        storage = icechunk.s3_storage(bucket=bucket, prefix=prefix, **icechunk_options())
    else:
        storage = icechunk.local_filesystem_storage(address)
    return icechunk.Repository.open(storage).readonly_session(_BRANCH).store
