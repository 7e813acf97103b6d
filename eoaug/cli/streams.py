"""Standard output and standard error that the reader may close at any time.

A job must finish, and return its exit code, also when its terminal is gone or when its output goes into
``| head``.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

__all__ = ["tolerate_closed_streams"]

_CLOSED = (errno.EPIPE, errno.EIO)
"""Error numbers of a write to a pipe without a reader, and to a terminal that has gone."""


class _Stream(io.FileIO):
    """A file descriptor whose output is discarded once nobody reads it."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno not in _CLOSED:
                raise
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(data)


def tolerate_closed_streams() -> None:
    """Make writing to standard output and standard error safe for the rest of this process."""
    # A closed descriptor would be given to the next file that is opened, and messages of libraries
    # would be written into that file.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _text_stream(1, sys.stdout)
    sys.stderr = _text_stream(2, sys.stderr)


def _text_stream(descriptor: int, stream: Any) -> io.TextIOWrapper:
    buffer = io.BufferedWriter(_Stream(descriptor, "wb", closefd=False))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    interactive = descriptor == 2 or os.isatty(descriptor)
    return io.TextIOWrapper(buffer, encoding, errors="backslashreplace", line_buffering=interactive)
