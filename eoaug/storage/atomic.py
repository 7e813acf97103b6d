"""Files that appear complete: scratch folder, flush to disk, rename."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Literal, Protocol

from eoaug.errors import EoaugError, TargetError
from eoaug.storage.crash_points import hit
from eoaug.storage.locks import is_alive, scratch_prefix

__all__ = [
    "atomic_write",
    "checksum",
    "checksum_of",
    "commit",
    "has_active_writer",
    "remove_stale_scratch",
    "scratch_dir",
]


_REPLACED = ".old"
"""Suffix, in the scratch folder, of a folder that is being replaced."""
_DISCARDED = ".broken"
"""The same for a folder that is not restored."""


@contextmanager
def scratch_dir(folder: Path) -> Iterator[Path]:
    """Create a scratch folder inside ``folder``, on its file system; it is removed at the end.

    Raises
    ------
    TargetError
        The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{scratch_prefix()}{os.getpid()}-", dir=folder))
    except OSError as error:
        raise TargetError(
            f"cannot write to {str(folder)!r}: {error.strerror or error}",
            "choose a folder that you may write",
        ) from error
    try:
        yield scratch
    except EoaugError:
        raise
    except OSError as error:
        raise TargetError(
            f"writing to {str(folder)!r} failed: {error.strerror or error}",
            "check the free space and the permissions of the folder; nothing was left there",
        ) from error
    finally:
        _remove_scratch(scratch)


def commit(scratch: Path, target: Path, *, point: str = "data") -> None:
    """Rename a complete file or folder to its final name, after flushing it to disk.

    An existing file is replaced in one step. An existing folder is first moved into the scratch folder; if
    that is in the same folder as the target, it is restored when this process dies in between.

    Parameters
    ----------
    scratch
        The complete file or folder.
    target
        Its final path.
    point
        Name of the crash points; see `crash_points`.
    """
    hit(f"{point} written")
    _flush(scratch)
    hit(f"{point} flushed")
    if not target.parent.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        _flush_folder(target.parent.parent)
    if target.is_dir():
        restorable = target.parent == scratch.parent.parent
        target.rename(scratch.parent / (target.name + (_REPLACED if restorable else _DISCARDED)))
    scratch.replace(target)
    hit(f"{point} renamed")
    _flush_folder(target.parent)


@contextmanager
def atomic_write(target: Path, *, overwrite: bool, point: str = "data") -> Iterator[Path]:
    """Give a scratch path that is renamed to ``target`` when the block ends without an error.

    Works for a file and for a folder. After an exception nothing is left behind.

    Raises
    ------
    TargetError
        The folder cannot be written, or ``target`` exists and ``overwrite`` is False.
    """
    if target.exists() and not overwrite:
        raise TargetError(f"{str(target)!r} already exists", "pass overwrite=True, or choose another name")
    with scratch_dir(target.parent) as folder:
        scratch = folder / target.name
        yield scratch
        commit(scratch, target, point=point)


def remove_stale_scratch(folder: Path) -> int:
    """Remove the scratch folders of dead processes of this machine from a folder; return their number.

    Folders that a dead process was about to replace are restored.
    """
    count = 0
    for scratch in folder.glob(f"{scratch_prefix()}*"):
        process = scratch.name.removeprefix(scratch_prefix()).partition("-")[0]
        if not process.isdigit() or is_alive(int(process)) or scratch.is_symlink() or not scratch.is_dir():
            continue
        _remove_scratch(scratch)
        count += 1
    return count


def has_active_writer(folder: Path) -> bool:
    """Return whether a running process, or one of another machine, has a scratch folder here."""
    prefix = scratch_prefix()
    return any(
        not scratch.name.startswith(prefix)
        or is_alive(int(scratch.name.removeprefix(prefix).partition("-")[0]))
        for scratch in folder.glob(".eoaug-*-*-*")
    )


def _remove_scratch(scratch: Path) -> None:
    """Remove a scratch folder; a folder that was being replaced is restored if its name is free."""
    for old in scratch.glob(f"*{_REPLACED}"):
        target = scratch.parent / old.name.removesuffix(_REPLACED)
        with suppress(OSError):  # another process may do the same
            if not target.exists():
                old.rename(target)
    shutil.rmtree(scratch, ignore_errors=True)


class _Readable(Protocol):
    def open(self, mode: Literal["rb"], /) -> IO[bytes]: ...


def checksum(path: _Readable) -> str:
    """Return the sha256 multihash of a file in hex, as ``file:checksum`` requires it."""
    with path.open("rb") as file:
        return checksum_of(file)


def checksum_of(file: IO[bytes]) -> str:
    """Return the sha256 multihash of what remains of an open file; see `checksum`."""
    digest = hashlib.sha256()
    while block := file.read(2**20):
        digest.update(block)
    return "1220" + digest.hexdigest()


def _flush(path: Path) -> None:
    """Write a file, or all files of a folder, to disk, so that the rename never precedes the content."""
    if path.is_dir():
        for inner in sorted(path.rglob("*")):
            _flush_file(inner) if inner.is_file() else _flush_folder(inner)
        _flush_folder(path)
    else:
        _flush_file(path)


def _flush_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    # Some network file systems refuse to flush a folder; the rename itself is still atomic there.
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
