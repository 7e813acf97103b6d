"""Plain files of this machine: opened without waiting, and where an open file really lies."""

from __future__ import annotations

import os
import stat
import sys
from typing import IO

__all__ = ["open_plain", "path_of", "stable_name"]


def open_plain(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a plain file for reading.

    Raises
    ------
    OSError
        It cannot be opened, or is a pipe, a device or a folder: reading these could block, or never end.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(22, "it is not a plain file")
    return os.fdopen(handle, "rb")


def path_of(file: IO[bytes]) -> str:
    """Return where an open file lies now, links resolved; where the system does not say, where its name leads."""
    try:
        path = os.readlink(f"/proc/self/fd/{file.fileno()}")
    except OSError:
        return os.path.realpath(file.name)
    return path.removesuffix(" (deleted)")


def stable_name(file: IO[bytes]) -> str:
    """Return a name that opens the same file again, also after another one took its place."""
    if sys.platform == "linux" and os.path.isdir("/proc/self/fd"):
        return f"/proc/self/fd/{file.fileno()}"
    return str(file.name)
