"""Who may write: file locks, leases of processes, names of machines."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from eoaug.errors import TargetError

__all__ = ["LOCK_TIMEOUT_S", "alive", "held", "is_live", "lease_terms", "machine", "rooms", "sole_writer"]


def machine() -> str:
    """Return what tells this machine, or container, from others: process ids mean something only there."""
    return rooms().removeprefix(".eoaug-").rstrip("-")


@cache
def rooms() -> str:
    """How the names of this machine's scratch folders begin; the id of the process follows.

    A process id means something on one machine and in one container only, so both are in the name.
    """
    place = platform.node()
    with suppress(OSError):
        place += os.readlink("/proc/self/ns/pid")
    return f".eoaug-{hashlib.sha256(place.encode()).hexdigest()[:8]}-"


def alive(process: int) -> bool:
    """Tell whether a process of this machine lives."""
    if sys.platform == "win32":  # signal 0 is Ctrl-C there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


LOCK_TIMEOUT_S = 60.0
"""A document is locked for milliseconds; who waits that long waits for a process that hangs."""


@contextmanager
def sole_writer(file: Path) -> Iterator[None]:
    """Hold the right to replace a document; a process that dies lets go of it.

    The system keeps the lock, not the file's presence, so none is ever stale.
    """
    lock = file.with_name(f".{file.name}.lock")
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        # Whoever lets go removes the file: a lock on a removed one excludes nobody.
        if _try_lock(handle, file) and _is_same(handle, lock):
            break
        os.close(handle)
        if time.monotonic() > deadline:
            raise held(str(file))
        time.sleep(0.01)
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(handle)


def held(file: str) -> TargetError:
    """Return the error for a lock that another process keeps."""
    return TargetError(
        f"another process holds {file!r} for more than {LOCK_TIMEOUT_S:g} s.",
        "Look for a process that hangs while it writes to this catalog, and write again.",
    )


def _try_lock(handle: int, file: Path) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return False
        warnings.warn(
            f"the file system of {str(file)!r} has no locks: write to this catalog from one process at a time",
            stacklevel=2,
        )
    return True


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def lease_terms(owner: str, seconds: float) -> dict[str, Any]:
    """Return what a process says of itself where it claims something for some time."""
    me = os.getpid()
    return {
        "owner": owner,
        "machine": machine(),
        "process": me,
        "begun": _begun(me),
        "until": time.time() + seconds,
    }


def is_live(holder: Mapping[str, Any]) -> bool:
    """Tell whether a claim still holds."""
    if holder.get("machine") == machine():
        process = int(holder.get("process", -1))
        if not alive(process) or _begun(process) != holder.get("begun"):
            return False
    return float(holder.get("until", 0)) > time.time()


def _begun(process: int) -> str:
    """Tell when a process began, where the system says so: ids are used again."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
