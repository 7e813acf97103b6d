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
from eoaug.storage.locks import alive, rooms

__all__ = ["atomic_write", "checksum", "commit", "has_active_writer", "remove_stale_scratch", "scratch_dir"]


_REPLACED = ".old"
"""Ending of a folder that is about to be replaced, in the scratch folder."""
_BROKEN = ".broken"
"""The same for one that nobody wants back."""


@contextmanager
def scratch_dir(folder: Path) -> Iterator[Path]:
    """Give a scratch folder inside ``folder``, on its file system; it is removed in the end.

    Raises
    ------
    TargetError
        When the place cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f"{rooms()}{os.getpid()}-", dir=folder))
    except OSError as error:
        raise TargetError(
            f"cannot write to {str(folder)!r}: {error.strerror or error}.",
            "Choose a folder that you may write.",
        ) from error
    try:
        yield room
    except EoaugError:
        raise
    except OSError as error:
        raise TargetError(
            f"writing to {str(folder)!r} failed: {error.strerror or error}.",
            "Check the free space and the permissions of the folder; nothing was left there.",
        ) from error
    finally:
        _discard(room)


def commit(scratch: Path, target: Path, *, point: str = "data") -> None:
    """Give a complete file or folder its name: flushed to disk first, so that the name means complete.

    A file replaces what is there in one step. A folder that is there is moved away first, into the scratch
    folder; if that lies beside the target, it comes back when this process dies in between.
    """
    hit(f"{point} written")
    _flush(scratch)
    hit(f"{point} flushed")
    if not target.parent.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        _flush_folder(target.parent.parent)
    if target.is_dir():
        beside = target.parent == scratch.parent.parent
        target.rename(scratch.parent / (target.name + (_REPLACED if beside else _BROKEN)))
    scratch.replace(target)
    hit(f"{point} renamed")
    _flush_folder(target.parent)


@contextmanager
def atomic_write(target: Path, *, overwrite: bool, point: str = "data") -> Iterator[Path]:
    """Give a scratch path beside ``target``; rename it to ``target`` when the block ends without error.

    Works for a file and for a folder. After an exception nothing is left behind.

    Raises
    ------
    TargetError
        When the place cannot be written, or something is there and ``overwrite`` is False.
    """
    if target.exists() and not overwrite:
        raise TargetError(f"{str(target)!r} exists already.", "Pass overwrite=True, or choose another name.")
    with scratch_dir(target.parent) as room:
        scratch = room / target.name
        yield scratch
        commit(scratch, target, point=point)


def remove_stale_scratch(folder: Path) -> int:
    """Clear away what killed writes have left in a folder; return the number of what went.

    Only scratch folders go, whose process was on this machine and is dead. What it was about to replace is
    put back.
    """
    gone = 0
    for room in folder.glob(f"{rooms()}*"):
        process = room.name.removeprefix(rooms()).partition("-")[0]
        if not process.isdigit() or alive(int(process)) or room.is_symlink() or not room.is_dir():
            continue
        _discard(room)
        gone += 1
    return gone


def has_active_writer(folder: Path) -> bool:
    """Tell whether a living process, or one of another machine, has a scratch folder here."""
    return any(
        not room.name.startswith(rooms()) or alive(int(room.name.removeprefix(rooms()).partition("-")[0]))
        for room in folder.glob(".eoaug-*-*-*")
    )


def _discard(room: Path) -> None:
    """Remove a scratch folder; what was to be replaced goes back to its place if nothing took it."""
    for old in room.glob(f"*{_REPLACED}"):
        target = room.parent / old.name.removesuffix(_REPLACED)
        with suppress(OSError):  # another process may do the same
            if not target.exists():
                old.rename(target)
    shutil.rmtree(room, ignore_errors=True)


class _Readable(Protocol):
    def open(self, mode: Literal["rb"], /) -> IO[bytes]: ...


def checksum(path: _Readable) -> str:
    """Return the sha256 multihash of a file in hex, as ``file:checksum`` wants it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return "1220" + digest.hexdigest()


def _flush(path: Path) -> None:
    """Push a file, or all files of a folder, to disk, so that the rename never outruns the content."""
    if path.is_dir():
        for part in sorted(path.rglob("*")):
            _flush_file(part) if part.is_file() else _flush_folder(part)
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
