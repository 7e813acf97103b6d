"""Who may write: file locks, leases, and how machines and processes are identified."""

from __future__ import annotations

import errno
import hashlib
import json
import math
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

from filelock import FileLock, Timeout

from eoaug.errors import TargetError

__all__ = [
    "LOCK_TIMEOUT_S",
    "is_alive",
    "is_live",
    "lease_terms",
    "lock_error",
    "machine_id",
    "read_lease",
    "scratch_prefix",
    "write_lock",
]


def machine_id() -> str:
    """Return a short hash of this machine, or container: process ids are unique only within one."""
    return scratch_prefix().removeprefix(".eoaug-").rstrip("-")


@cache
def scratch_prefix() -> str:
    """Return how the names of this machine's scratch folders begin; the process id follows.

    A process id is unique on one machine and in one container only, so both are in the name.
    """
    identity = platform.node()
    with suppress(OSError):
        identity += os.readlink("/proc/self/ns/pid")
    return f".eoaug-{hashlib.sha256(identity.encode()).hexdigest()[:8]}-"


def is_alive(process: int) -> bool:
    """Return whether a process of this machine is running."""
    if sys.platform == "win32":  # signal 0 is Ctrl-C there
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


LOCK_TIMEOUT_S = 60.0
"""A document is locked for milliseconds; a longer wait means that its holder hangs."""
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}
"""Errors of file systems that have no locks."""


@contextmanager
def write_lock(file: Path) -> Iterator[None]:
    """Hold the exclusive right to replace a document while the block runs.

    The operating system holds the lock, and releases it when the process dies: no lock is ever stale.

    Raises
    ------
    TargetError
        Another process holds it for longer than `LOCK_TIMEOUT_S`.
    """
    path = file.with_name(f".{file.name}.lock")
    # The fallback of filelock is a marker file, which would outlive a killed process and block all others.
    lock = FileLock(path, timeout=LOCK_TIMEOUT_S, poll_interval=0.01, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise lock_error(str(file)) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"the file system of {str(file)!r} has no locks: write to this catalog from one process at a time",
            stacklevel=3,
        )
    try:
        yield
    finally:
        # Unlinked while locked: filelock ignores a lock on an unlinked file and tries again.
        with suppress(OSError):
            path.unlink()
        lock.release()


def lock_error(file: str) -> TargetError:
    """Return the error for a document that another process keeps locked."""
    return TargetError(
        f"another process has locked {file!r} for more than {LOCK_TIMEOUT_S:g} s",
        "look for a process that hangs while it writes to this catalog, and write again",
    )


def lease_terms(owner: str, seconds: float) -> dict[str, Any]:
    """Return the content of a lease: its owner, the process that holds it, and when it ends.

    Parameters
    ----------
    owner
        A name that no other lease has.
    seconds
        Term of the lease.
    """
    process = os.getpid()
    return {
        "owner": owner,
        "machine": machine_id(),
        "process": process,
        "begun": _start_time(process),
        "seconds": seconds,
        "until": time.time() + seconds,
    }


_LEASE_BYTES = 4096
_OLD_TERM_S = 60.0
"""Term of a lease that does not tell its own: those of versions up to 0.2."""
_SKEW_S = 600.0
"""How far the clocks of two machines may be apart; a lease that ends later makes no sense."""


def read_lease(content: bytes | None) -> dict[str, Any]:
    """Return the terms of a lease; empty, which is nobody's, for one that does not exist or makes no sense."""
    try:
        terms = json.loads((content or b"{}")[:_LEASE_BYTES])
        process, until = terms["process"], float(terms["until"])
        seconds = float(terms.get("seconds", _OLD_TERM_S))
        sound = (
            isinstance(process, int) and 0 < process < 2**31 and math.isfinite(until) and 0 < seconds < 1e7
        )
        known = {"owner": str(terms["owner"]), "machine": str(terms["machine"]), "begun": str(terms["begun"])}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return {}
    return {**known, "process": process, "until": until, "seconds": seconds} if sound else {}


def is_live(terms: Mapping[str, Any]) -> bool:
    """Return whether a lease is still valid: its process runs, as far as can be seen, and its term has not ended.

    Clocks of machines differ: a lease that does not change is believed for its own term, from when it was first seen.
    """
    if not terms:
        return False
    left = terms["until"] - time.time()
    if terms["machine"] == machine_id():
        process = terms["process"]
        if not is_alive(process) or _start_time(process) != terms["begun"]:
            return False
    if not 0 < left <= terms["seconds"] + _SKEW_S:
        return False
    return bool(time.monotonic() - _first_seen(terms["owner"], terms["until"]) <= terms["seconds"])


_seen: dict[tuple[str, float], float] = {}


def _first_seen(owner: str, until: float) -> float:
    """Return when this process first saw a lease in this form."""
    if len(_seen) > 10_000:
        _seen.clear()
    return _seen.setdefault((owner, until), time.monotonic())


def _start_time(process: int) -> str:
    """Return when a process started, if the system reports it: process ids are reused."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
