"""How a dask worker's allocator behaves while a chunk is computed."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["retained_heap"]


_DASK_TRIM = "65536"
"""Value of ``MALLOC_TRIM_THRESHOLD_`` that dask's nannies set."""


@contextmanager
def retained_heap() -> Iterator[None]:
    """Return memory to the system after the block and not during it, in a dask worker.

    Under dask's setting malloc returns every array that is freed, and glibc maps fresh pages for the next one:
    a third of a worker's time went into page faults. Another setting, made by a user, is left alone.
    """
    libc = _retaining_libc() if os.environ.get("MALLOC_TRIM_THRESHOLD_") == _DASK_TRIM else None
    try:
        yield
    finally:
        if libc is not None:
            libc.malloc_trim(0)


@cache
def _retaining_libc() -> Any:
    """Return this process's C library, set to retain freed memory; None where that is not possible (not glibc)."""
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "mallopt"):
        return None
    mmap_threshold, trim_threshold = -3, -1
    # The values that glibc adapts to by itself where nothing is set.
    libc.mallopt(mmap_threshold, 2**25)
    libc.mallopt(trim_threshold, 2**26)
    return libc
