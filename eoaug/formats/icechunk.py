"""Icechunk repositories with one commit each; the only module that imports the optional library.

Readers see a commit completely or not at all. Icechunk's file system storage does not support concurrent
committers, so every repository is written by one process to a scratch folder of its own, and then published to its
location, also in an object store.
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
        Of the given class: it is not installed.
    """
    try:
        import icechunk
    except ImportError as missing:
        raise error(
            "format 'icechunk' needs the package icechunk, which is not installed",
            "pip install 'eoaug[icechunk]', or use the format zarr",
        ) from missing
    # It logs warnings about concurrent commits, which a single committer rules out.
    icechunk.set_logs_filter("error")
    return icechunk


@contextmanager
def committed(folder: Path) -> Iterator[Any]:
    """Yield the Zarr store of a new repository, and commit when the block ends without an error."""
    icechunk = require(TargetError)
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
    session = repository.writable_session(_BRANCH)
    yield session.store
    session.commit("Written by eoaug.")


def last_commit(address: str) -> Any:
    """Return the Zarr store of the last commit of a repository in a folder or an object store.

    A repository can refer to chunks in other files and hosts. Icechunk reads only authorised ones, and none is
    authorised here.
    """
    icechunk = require(SourceError)
    if is_object(address):
        bucket, prefix = parse(address)
        storage = icechunk.s3_storage(bucket=bucket, prefix=prefix, **icechunk_options())
    else:
        storage = icechunk.local_filesystem_storage(address)
    return icechunk.Repository.open(storage).readonly_session(_BRANCH).store
